"""The share of a window that is of low complexity, by the scores of DUST and SEG over fixed chunks. Pure arithmetic.

The published programs search for the best intervals and extend them; here a window is cut into chunks that lie side by side from
its start, and a chunk is low or not as a whole. So a repeat shorter than a chunk may be missed and one that straddles two counts
in neither or both: good for judging windows, not for masking bases.

Suffixes: W windows, L letters, C chunks of all windows, S letters in a chunk.
"""

from __future__ import annotations

import numpy as np

from ..dna import SequenceType
from .similarity.kmers import is_ambiguous, row_blocks

DUST_BASES = 64
"""The window of DUST."""
DUST_SCORE = 2.0
"""A chunk of DNA or RNA above it is low: dustmasker's default, level 20."""
SEG_RESIDUES = 12
"""The window of SEG."""
SEG_BITS = 2.2
"""A chunk of protein below it is low: SEG's default trigger complexity."""

_TRIPLETS = 64
_SYMBOLS = 32


def low_complexity_fraction(letters_WL: np.ndarray, sequence_type: SequenceType) -> np.ndarray:
    """Letters uint8 [W, L], upper case, 0 behind a window's end -> float64 [W]: share of a window's letters in low chunks."""
    size, is_low = (SEG_RESIDUES, _is_low_protein) if sequence_type == "protein" else (DUST_BASES, _is_low_dna)
    fractions = [np.empty(0)]
    for block in row_blocks(*letters_WL.shape):
        rows = np.pad(letters_WL[block], ((0, 0), (0, -letters_WL.shape[1] % size)))
        chunks_WCS = rows.reshape(len(rows), rows.shape[1] // size, size)
        filled_WC = np.count_nonzero(chunks_WCS, axis=2)
        low_WC = is_low(chunks_WCS.reshape(-1, size)).reshape(filled_WC.shape)
        fractions.append((filled_WC * low_WC).sum(axis=1) / np.maximum(filled_WC.sum(axis=1), 1))
    return np.concatenate(fractions)


def _is_low_dna(letters_CS: np.ndarray) -> np.ndarray:
    """bool [C]: sum over triplets of c (c - 1) / 2, over the number of triplets less one, is above DUST_SCORE.

    Morgulis et al. 2006. A triplet with an ambiguous base is none.
    """
    base = (letters_CS >> 1) & 3
    triplet = (base[:, :-2] << 4) | (base[:, 1:-1] << 2) | base[:, 2:]
    ambiguous = is_ambiguous(letters_CS, "dna")
    known = ~(ambiguous[:, :-2] | ambiguous[:, 1:-1] | ambiguous[:, 2:])
    count = _count(triplet, known, _TRIPLETS)
    return (count * (count - 1)).sum(axis=1) / 2 > DUST_SCORE * (known.sum(axis=1) - 1).clip(0)


def _is_low_protein(letters_CS: np.ndarray) -> np.ndarray:
    """bool [C]: the entropy of the residues, in bits, is below SEG_BITS.

    Wootton and Federhen 1993. Where fewer than SEG_RESIDUES are known (the end of a window, ambiguous ones) no more than
    log2(known) bits are possible, and the limit shrinks in proportion.
    """
    known = ~is_ambiguous(letters_CS, "protein")
    count, num_known = _count(letters_CS & 31, known, _SYMBOLS), known.sum(axis=1)
    log_count = np.log2(np.maximum(np.arange(SEG_RESIDUES + 1), 1))
    entropy = log_count[num_known] - (count * log_count[count]).sum(axis=1) / np.maximum(num_known, 1)
    return entropy < SEG_BITS * log_count[num_known] / log_count[SEG_RESIDUES]


def _count(code: np.ndarray, known: np.ndarray, num_codes: int) -> np.ndarray:
    """Codes [C, S], where known -> how often each occurs in a chunk, int64 [C, num_codes]."""
    number = (np.arange(len(code)) * num_codes)[:, None] + code
    return np.bincount(number[known], minlength=len(code) * num_codes).reshape(len(code), num_codes)
