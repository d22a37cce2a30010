"""Effects of variants: against windows that are written out by hand, on both strands, near ends, and where there is nothing to say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hyena_glt.dna import reverse_complement
from hyena_glt.errors import DataError
from hyena_glt.inference import LoadedModel, score
from hyena_glt.inference.variants import Variant, variant_effects
from hyena_glt.tokenizers.base import MASK
from tests.tiny_run import random_bases, random_model

CONTEXT = 128
LETTERS = random_bases(1000)
REFERENCE = np.frombuffer(LETTERS.encode(), np.uint8)
KMERS = {"kind": "kmer", "kmer_size": 3, "kmer_stride": 3}


def variant(start: int, num_ref: int, alt: str) -> Variant:
    return Variant(start, LETTERS[start : start + num_ref], alt)


def other(start: int) -> str:
    """A base that the reference does not have there."""
    return "A" if LETTERS[start] != "A" else "C"


def opposite(letters: str) -> str:
    return reverse_complement(letters.encode()).decode()


def log_likelihoods(loaded: LoadedModel, *windows: str) -> np.ndarray:
    return score(loaded, list(windows), batch_size=1).log_likelihood


@pytest.mark.parametrize(("start", "num_ref", "alt"), [
    (500, 1, other(500)), (500, 1, LETTERS[500] + "GATTACA"), (500, 8, LETTERS[500]), (500, 3, "TTTTT"),
    (3, 1, other(3)), (0, 2, LETTERS[0]), (998, 1, other(998)), (990, 5, "A"), (990, 1, LETTERS[990] + "CCCC"),
])
@pytest.mark.parametrize("strands", [1, 2])
def test_a_causal_model_compares_windows_of_the_same_length(tmp_path: Path, start: int, num_ref: int, alt: str, strands: int) -> None:
    loaded = random_model(tmp_path, causal=True)
    longest = max(num_ref, len(alt))
    first = max(0, min(start - (CONTEXT - longest) // 2, 1000 - CONTEXT))
    edited = LETTERS[:start] + alt + LETTERS[start + num_ref :]
    length = min(CONTEXT, 1000 - first, len(edited) - first)
    ref, alternative = LETTERS[first : first + length], edited[first : first + length]
    by_strand = [np.subtract(*log_likelihoods(loaded, alternative, ref)),
                 np.subtract(*log_likelihoods(loaded, opposite(alternative), opposite(ref)))]
    (effect,) = variant_effects(loaded, REFERENCE, [variant(start, num_ref, alt)], both_strands=strands == 2)
    assert effect == pytest.approx(np.mean(by_strand[:strands]), abs=1e-4) and abs(effect) > 1e-3


@pytest.mark.parametrize("tokenization", [{"kind": "char"}, KMERS], ids=["char", "kmers"])
@pytest.mark.parametrize(("start", "num_ref"), [(500, 1), (499, 3), (2, 1), (997, 1)])
def test_a_masked_model_compares_what_it_expects_where_the_alleles_differ(
    tmp_path: Path, tokenization: dict, start: int, num_ref: int
) -> None:
    loaded = random_model(tmp_path, causal=False, tokenization=tokenization)
    alt = "".join(other(place) for place in range(start, start + num_ref))
    bases = CONTEXT * loaded.tokenizer.span
    first = max(0, min(start - (bases - num_ref) // 2, 1000 - bases))
    edited = LETTERS[:start] + alt + LETTERS[start + num_ref :]
    windows = LETTERS[first : first + bases], edited[first : first + bases]
    by_strand = [marginal(loaded, *map(strand, windows)) for strand in (str, opposite)]
    (effect,) = variant_effects(loaded, REFERENCE, [variant(start, num_ref, alt)])
    assert effect == pytest.approx(np.mean(by_strand), abs=1e-4) and abs(effect) > 1e-3


@torch.inference_mode()
def marginal(loaded: LoadedModel, ref: str, alt: str) -> float:
    """By its definition: all tokens that differ hidden at once."""
    ref_ids, alt_ids = (torch.from_numpy(loaded.tokenizer.encode(window.encode()).astype(np.int64)) for window in (ref, alt))
    hidden = ref_ids != alt_ids
    log_P = loaded.model(torch.where(hidden, MASK, ref_ids)[None])[0, hidden].log_softmax(-1)
    places = torch.arange(int(hidden.sum()))
    return float((log_P[places, alt_ids[hidden]] - log_P[places, ref_ids[hidden]]).sum())


def test_a_masked_model_scores_an_indel_as_two_sequences(tmp_path: Path) -> None:
    loaded = random_model(tmp_path, causal=False)
    (effect,) = variant_effects(loaded, REFERENCE, [variant(500, 4, LETTERS[500])], both_strands=False)
    first = 500 - (CONTEXT - 4) // 2
    edited = LETTERS[:501] + LETTERS[504:]
    wanted = np.subtract(*log_likelihoods(loaded, edited[first : first + CONTEXT], LETTERS[first : first + CONTEXT]))
    assert effect == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("causal", [True, False])
def test_neither_order_nor_batch_mates_change_an_effect(tmp_path: Path, causal: bool) -> None:
    loaded = random_model(tmp_path, causal=causal)
    variants = [variant(place, 1, alt) for place, alt in ((400, other(400)), (2, LETTERS[2] + "AC"), (700, other(700)), (999, other(999)))]
    together = variant_effects(loaded, REFERENCE, variants, batch_size=3)
    alone = [variant_effects(loaded, REFERENCE, [one], batch_size=1)[0] for one in variants]
    np.testing.assert_allclose(together, alone, atol=1e-4)
    np.testing.assert_allclose(variant_effects(loaded, REFERENCE, variants[::-1]), together[::-1], atol=1e-4)


def test_where_there_is_nothing_to_say(tmp_path: Path) -> None:
    loaded = random_model(tmp_path, causal=True)
    strange = [variant(500, 1, alt) for alt in ("<DEL>", "*", "", "N", "A" * (CONTEXT // 2 + 1))]
    effects = variant_effects(loaded, REFERENCE, [*strange, variant(500, 1, other(500)), variant(500, 1, LETTERS[500])])
    assert np.isnan(effects[:5]).all() and np.isfinite(effects[5:]).all() and effects[6] == 0


def test_an_allele_that_the_contigs_end_cuts_off_has_no_effect(tmp_path: Path) -> None:
    loaded = random_model(tmp_path, causal=True)
    cut = [variant(999, 1, LETTERS[999] + "GATTACA"), variant(990, 10, LETTERS[990])]
    assert np.isnan(variant_effects(loaded, REFERENCE, cut)).all()


def test_an_indel_that_moves_ambiguous_letters_has_no_effect(tmp_path: Path) -> None:
    """With them as many tokens less are scored with one allele as it is longer."""
    loaded = random_model(tmp_path, causal=True)
    end = 500 - (CONTEXT - 15) // 2 + CONTEXT
    near = np.frombuffer((LETTERS[: end - 20] + "N" * 40 + LETTERS[end + 20 :]).encode(), np.uint8)
    insertion, substitution = variant(500, 1, LETTERS[500] + "GATTACAGATTACA"), variant(500, 1, other(500))
    moved, same = variant_effects(loaded, near, [insertion, substitution])
    assert np.isnan(moved) and np.isfinite(same)
    assert np.isfinite(variant_effects(loaded, REFERENCE, [insertion])).all()


def test_a_soft_masked_reference_is_the_same(tmp_path: Path) -> None:
    loaded = random_model(tmp_path, causal=False)
    lower = np.frombuffer(LETTERS.lower().encode(), np.uint8)
    one = [variant(500, 1, other(500))]
    np.testing.assert_array_equal(variant_effects(loaded, lower, one), variant_effects(loaded, REFERENCE, one))


def test_refusals(tmp_path: Path) -> None:
    loaded = random_model(tmp_path / "causal", causal=True)
    wrong = Variant(500, other(500), "G")
    with pytest.raises(DataError, match=f"^position 501: REF is {other(500)}, and the reference has {LETTERS[500]} there; give that"):
        variant_effects(loaded, REFERENCE, [wrong])
    with pytest.raises(DataError, match="^position 1501: REF is A, and the reference has no base there"):
        variant_effects(loaded, REFERENCE, [Variant(1500, "A", "G")])
    protein = random_model(tmp_path / "protein", causal=True, sequence_type="protein")
    with pytest.raises(ValueError, match="^variants of a genome need a model of nucleotides"):
        variant_effects(protein, REFERENCE, [])
    overlapping = random_model(tmp_path / "kmers", causal=False, tokenization={"kind": "kmer", "kmer_size": 3, "kmer_stride": 1})
    with pytest.raises(ValueError, match="a masked model on overlapping k-mers has no likelihood"):
        variant_effects(overlapping, REFERENCE, [variant(500, 1, other(500))])
