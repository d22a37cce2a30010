"""Scores equal the definition, ignore batch-mates and padding, and survive being cut into windows."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hyena_glt.dna import reverse_complement
from hyena_glt.inference import load_model, score
from hyena_glt.tokenizers.base import CLS, MASK
from tests.tiny_run import lambda_letters, random_bases, random_model, tiny_config, train_tiny, write_lambda_data

MIXERS = ("hyena", "se", "mr", "li", "attention")
SHORT_FILTERS = {"mr_taps": 9, "max_position_embeddings": 64}


def widened(loaded, max_length):
    """The same weights with room for longer sequences; only for mixers that know no length."""
    loaded.model.max_length = max_length
    return loaded


def log_probabilities(loaded, ids):
    """[L, rows] of one sequence alone, without windows."""
    with torch.no_grad():
        return loaded.model(torch.from_numpy(ids.astype(np.int64))[None])[0].double().log_softmax(-1)


def test_causal_score_is_the_sum_over_next_tokens(tmp_path):
    loaded = random_model(tmp_path, causal=True)
    sequence = random_bases(50)
    ids = loaded.tokenizer.encode(sequence.encode())
    expected = sum(log_probabilities(loaded, ids)[i, ids[i + 1]].item() for i in range(49))
    scores = score(loaded, [sequence])
    assert scores.log_likelihood[0] == pytest.approx(expected, rel=1e-5)
    assert scores.num_scored.tolist() == [49]
    assert scores.bits_per_base[0] == pytest.approx(-expected / math.log(2) / 49, rel=1e-5)


def test_masked_score_hides_every_mth_token_in_turn(tmp_path):
    loaded = random_model(tmp_path, causal=False)
    sequence = random_bases(20)
    ids = loaded.tokenizer.encode(sequence.encode())
    expected = 0.0
    for turn in range(4):
        hidden = np.arange(20) % 4 == turn
        table = log_probabilities(loaded, np.where(hidden, MASK, ids))
        expected += sum(table[i, ids[i]].item() for i in np.flatnonzero(hidden))
    scores = score(loaded, [sequence], mask_every=4)
    assert scores.log_likelihood[0] == pytest.approx(expected, rel=1e-5)
    assert scores.num_scored.tolist() == [20]
    assert loaded.mask_every == 7  # 1 / 0.15


def test_first_token_is_scored_behind_cls(tmp_path):
    loaded = random_model(tmp_path, causal=True, tokenization={"kind": "char", "add_special_tokens": True})
    ids = loaded.tokenizer.encode(b"ACGTTG")
    table = log_probabilities(loaded, np.concatenate([[CLS], ids]))
    expected = sum(table[i, ids[i]].item() for i in range(6))
    scores = score(loaded, ["ACGTTG"])
    assert scores.log_likelihood[0] == pytest.approx(expected, rel=1e-5)
    assert scores.num_scored.tolist() == [6]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("mixer", MIXERS)
def test_batch_mates_and_padding_change_nothing(tmp_path, mixer, causal):
    loaded = random_model(tmp_path, causal=causal, mixers=(mixer, mixer))
    sequences = [random_bases(n, seed=n) for n in (5, 128, 31, 77)]
    alone = [score(loaded, [s]).log_likelihood[0] for s in sequences]
    for batch_size in (1, 3, 50):
        together = score(loaded, sequences, batch_size=batch_size)
        np.testing.assert_allclose(together.log_likelihood, alone, rtol=2e-6)


@pytest.mark.parametrize(("causal", "overlap"), [(True, 19), (False, 37)])
def test_windows_are_exact_where_the_receptive_field_fits(tmp_path, causal, overlap):
    # A layer sees taps - 1 to the left for its filter and 2 for its featurizer: (6 + 2) + (8 + 2) = 18 tokens. The first token of
    # a window's stretch is predicted from its left neighbour, hence 19.
    sequence = random_bases(500)
    windows = random_model(tmp_path / "a", causal=causal, mixers=("se", "mr"), model=SHORT_FILTERS)
    whole = widened(random_model(tmp_path / "b", causal=causal, mixers=("se", "mr"), model=SHORT_FILTERS), 4096)
    cut, uncut = score(windows, [sequence], overlap=overlap), score(whole, [sequence])
    assert cut.log_likelihood[0] == pytest.approx(uncut.log_likelihood[0], rel=1e-6)
    assert cut.num_scored.tolist() == uncut.num_scored.tolist() == [499 if causal else 500]
    shorter = score(windows, [sequence], overlap=4)
    assert shorter.log_likelihood[0] != pytest.approx(uncut.log_likelihood[0], rel=1e-5), "the test must be able to see a difference"


@pytest.mark.parametrize("causal", [True, False])
def test_windows_stay_within_a_bound_where_it_does_not(tmp_path, causal):
    """A trained se/mr/li stack, half the context shared: the cut costs at most 0.02 bits a base (measured: 0.0001 and 0.006)."""
    data = write_lambda_data(tmp_path / "data", {"kind": "char"})
    run = train_tiny(tiny_config(tmp_path / "run", data, causal=causal), tmp_path / "run", steps=40)
    heldout = lambda_letters()[-2000:].decode()
    cut = score(load_model(run), [heldout])
    whole = score(widened(load_model(run), 4096), [heldout])
    assert cut.num_scored.tolist() == whole.num_scored.tolist()
    assert 0 < abs(cut.bits_per_base[0] - whole.bits_per_base[0]) < 0.02


def test_both_strands(tmp_path):
    loaded = random_model(tmp_path, causal=True)
    sequence = random_bases(60)
    opposite = reverse_complement(sequence.encode()).decode()
    both = score(loaded, [sequence, opposite], both_strands=True)
    one = score(loaded, [sequence, opposite])
    assert both.log_likelihood[0] == pytest.approx(both.log_likelihood[1], rel=1e-12)
    assert both.log_likelihood[0] == pytest.approx(one.log_likelihood.mean(), rel=1e-12)
    assert one.log_likelihood[0] != pytest.approx(one.log_likelihood[1], rel=1e-3)


def test_ambiguous_bases_are_context_and_case_is_ignored(tmp_path):
    loaded = random_model(tmp_path, causal=True)
    scores = score(loaded, ["ACGTNACGT", "acgtnacgt", "NNNN", "A", ""])
    assert scores.num_scored.tolist() == [7, 7, 0, 0, 0]
    assert scores.log_likelihood[0] == pytest.approx(scores.log_likelihood[1])
    assert scores.log_likelihood[2:].tolist() == [0, 0, 0]
    assert np.isnan(scores.bits_per_base).tolist() == [False, False, True, True, True]


def test_bits_of_kmers_count_new_bases(tmp_path):
    disjoint = random_model(tmp_path / "d", causal=True, tokenization={"kind": "kmer", "kmer_size": 3})
    overlapping = random_model(tmp_path / "o", causal=True, tokenization={"kind": "kmer", "kmer_size": 3, "kmer_stride": 1})
    for loaded, tokens, bases in ((disjoint, 9, 27), (overlapping, 27, 27)):
        scores = score(loaded, [random_bases(30)])
        assert scores.num_scored.tolist() == [tokens]
        assert scores.bits_per_base[0] == pytest.approx(-scores.log_likelihood[0] / math.log(2) / bases)


def test_refusals(tmp_path):
    overlapping = random_model(tmp_path / "o", causal=False, tokenization={"kind": "kmer", "kmer_size": 3, "kmer_stride": 1})
    with pytest.raises(ValueError, match="a masked model on overlapping k-mers has no likelihood.*train with tasks.causal_lm"):
        score(overlapping, ["ACGT"])
    protein = random_model(tmp_path / "p", causal=True, sequence_type="protein")
    assert score(protein, ["MKVL"]).num_scored.tolist() == [3]
    with pytest.raises(ValueError, match="both_strands needs nucleotides, and the model reads protein"):
        score(protein, ["MKVL"], both_strands=True)


