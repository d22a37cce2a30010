"""What a model says of a variant: log P of the alternative allele against that of the reference, in its surroundings and on both strands.

A causal model scores the whole window with one allele and with the other. A masked model hides the tokens that the alleles differ in and
compares what it expects there (the masked marginal of Meier et al. 2021, bioRxiv 2021.07.09.450648); where an indel moves what follows it
scores both windows as `score` does. Both windows have the same number of bases, so that an allele is no likelier for being short.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from ..dna import reverse_complement
from ..errors import DataError
from ..tokenizers.base import MASK, NUM_SPECIAL
from .load import LoadedModel
from .score import score
from .windows import Window, batched, pad_rows, plan_context

BASES = frozenset("ACGT")


class Variant(NamedTuple):
    """One alternative allele at a place of the reference."""

    start: int
    """0-based first base of `ref`."""
    ref: str
    alt: str

    @property
    def end(self) -> int:
        """Behind the last base of `ref`."""
        return self.start + len(self.ref)


class _Alleles(NamedTuple):
    """Both windows, and where their alleles stand in them; of one strand."""

    ref: bytes
    alt: bytes
    first: int
    last: int
    """Behind the last base of the reference's allele."""

    def opposite(self) -> _Alleles:
        length = len(self.ref)
        return _Alleles(reverse_complement(self.ref), reverse_complement(self.alt), length - self.last, length - self.first)


class _Marginal(NamedTuple):
    """One pass of a masked model: the input [L], and at its hidden places the ids of both alleles."""

    inputs: np.ndarray
    places: np.ndarray
    ref: np.ndarray
    alt: np.ndarray


def variant_effects(
    loaded: LoadedModel, reference: np.ndarray, variants: Sequence[Variant], *, batch_size: int = 8, both_strands: bool = True
) -> np.ndarray:
    """log P(alt) - log P(ref) in nats, float64 [variants]: below 0 where the model expects the reference's allele.

    reference: the letters of the contig, uint8 [bases]. The window is the model's context around the variant. NaN where an allele has other
    letters than A, C, G, T, or leaves no room for its surroundings, as at a contig's end, and where an indel moves ambiguous letters in or
    out of the window, so that not as many tokens are scored with one allele as with the other.
    Raises DataError where REF is not what the reference has; ValueError for protein models and, as `score`, for masked ones on
    overlapping k-mers.
    """
    tokenizer = loaded.tokenizer
    if tokenizer.sequence_type == "protein":
        raise ValueError("variants of a genome need a model of nucleotides, and this one reads protein")
    size = plan_context(loaded.model.max_length, tokenizer, causal=loaded.causal, overlap=None).size
    bases = (size - 1) * tokenizer.bases_per_token + tokenizer.span
    effects, strands = np.full(len(variants), np.nan), (1, -1) if both_strands else (1,)
    for numbers in batched((n for n, variant in enumerate(variants) if _is_plain(variant, bases)), batch_size):
        windows = {n: alleles for n in numbers if (alleles := _windows(reference, variants[n], bases))}
        found = [
            _effects(loaded, [alleles if strand > 0 else alleles.opposite() for alleles in windows.values()], batch_size)
            for strand in strands
        ]
        effects[[*windows]] = np.mean(found, axis=0)
    return effects


def _is_plain(variant: Variant, bases: int) -> bool:
    """Letters, and not so many that the window would be nothing else."""
    alleles = variant.ref, variant.alt
    return all(allele and BASES >= set(allele.upper()) and len(allele) <= bases // 2 for allele in alleles)


def _windows(reference: np.ndarray, variant: Variant, bases: int) -> _Alleles | None:
    """Both windows around a variant, of at most `bases` bases each; None where the contig ends before they hold both alleles."""
    found = reference[variant.start : variant.end].tobytes().decode("latin-1")
    if found.upper() != variant.ref.upper():
        raise DataError(
            f"position {variant.start + 1}: REF is {variant.ref}, and the reference has {found or 'no base'} there; give that "
            f"which the variants were called on"
        )
    longest = max(len(variant.ref), len(variant.alt))
    start = max(0, min(variant.start - (bases - longest) // 2, len(reference) - bases))
    before, behind = reference[start : variant.start].tobytes(), reference[variant.end : start + bases + longest].tobytes()
    ref, alt = (before + allele.encode() + behind for allele in (variant.ref, variant.alt))
    length = min(bases, len(ref), len(alt))
    if len(before) + longest > length:
        return None
    return _Alleles(ref[:length], alt[:length], len(before), len(before) + len(variant.ref))


def _effects(loaded: LoadedModel, windows: list[_Alleles], batch_size: int) -> np.ndarray:
    """Of one strand."""
    effects = np.full(len(windows), np.nan)
    passes = {n: _marginal(loaded, alleles) for n, alleles in enumerate(windows)} if not loaded.causal else {}
    marginal = {n: one for n, one in passes.items() if one is not None}
    for numbers in batched(marginal, batch_size):
        effects[numbers] = _compare(loaded, [marginal[n] for n in numbers])
    whole = [n for n in range(len(windows)) if n not in marginal]
    if whole:
        letters = [allele.decode("latin-1") for n in whole for allele in (windows[n].alt, windows[n].ref)]
        scores = score(loaded, letters, batch_size=batch_size)
        (alt, ref), (num_alt, num_ref) = scores.log_likelihood.reshape(-1, 2).T, scores.num_scored.reshape(-1, 2).T
        effects[whole] = np.where((num_alt == num_ref) & (num_ref > 0), alt - ref, np.nan)
    return effects


def _marginal(loaded: LoadedModel, alleles: _Alleles) -> _Marginal | None:
    """The pass that hides what differs; None where more than the alleles' own tokens does, or an ambiguous letter is among those."""
    tokenizer = loaded.tokenizer
    ref, alt = tokenizer.encode(alleles.ref), tokenizer.encode(alleles.alt)
    if tokenizer.overlapping or len(ref) != len(alt):
        return None
    hidden = np.flatnonzero(ref != alt)
    own = np.arange(alleles.first // tokenizer.span, -(-alleles.last // tokenizer.span))
    if not len(hidden) or not np.isin(hidden, own).all() or (np.concatenate([ref[hidden], alt[hidden]]) < NUM_SPECIAL).any():
        return None
    context = plan_context(loaded.model.max_length, tokenizer, causal=False, overlap=None)
    masked = ref.astype(np.int64)
    masked[hidden] = MASK
    inputs = context.lay_out(masked, Window(0, len(masked), 0, len(masked)))
    return _Marginal(inputs, hidden + context.offset, ref[hidden].astype(np.int64), alt[hidden].astype(np.int64))


@torch.inference_mode()
def _compare(loaded: LoadedModel, batch: list[_Marginal]) -> np.ndarray:
    """Sum of log P(alt) - log P(ref) over each pass's hidden places, float64 [B]."""
    inputs_BL = torch.from_numpy(pad_rows([one.inputs for one in batch])).to(loaded.device)
    lengths = torch.tensor([len(one.inputs) for one in batch], device=loaded.device)
    hidden_BLD = loaded.model.hidden(inputs_BL, torch.arange(inputs_BL.shape[1], device=loaded.device) >= lengths[:, None])
    rows, places, ref, alt = (
        torch.from_numpy(np.concatenate(column)).to(loaded.device)
        for column in zip(*((np.full(len(one.places), row), *one[1:]) for row, one in enumerate(batch)), strict=True)
    )
    log_P = loaded.model.logits(hidden_BLD[rows, places]).float().log_softmax(-1).double()
    differences = log_P.gather(1, alt[:, None]) - log_P.gather(1, ref[:, None])
    return torch.zeros(len(batch), dtype=torch.float64, device=loaded.device).index_add_(0, rows, differences[:, 0]).cpu().numpy()
