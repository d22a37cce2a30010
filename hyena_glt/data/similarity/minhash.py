"""MinHash signatures of windows. Pure arithmetic, for driver and workers.

A window's k-mers fall into `num_hashes` bins by the top bits of their hash; the signature holds the least hash of each bin (one
permutation hashing, Li et al. 2012), and an empty bin takes that of a filled one drawn at random by the bin's own fixed order
(optimal densification, Shrivastava 2017). Two signatures then agree in a bin with the probability of their Jaccard similarity
(Broder 1997), as with `num_hashes` hash functions, for the price of one; unlike the lowest hashes of all (bottom-k), bins stay
in place, so that bands of them find similar windows without comparing all pairs.
Of each least hash 16 bits are kept (b-bit MinHash, Li and König 2010): two that differ agree by chance once in 65,536, or once in
8,000 in windows of a million bases, which changes no estimate by more than its error.

Suffixes: W windows, L letters, M k-mers, H hashes of a signature.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from ...dna import SequenceType
from .kmers import NO_KMER, kmer_hashes, mix, row_blocks

NO_KMERS = np.uint16(2**16 - 1)
"""Fills the signature of a window without a single k-mer; other signatures never hold it."""


def signatures(letters_WL: np.ndarray, k: int, sequence_type: SequenceType, num_hashes: int) -> np.ndarray:
    """Letters uint8 [W, L], 0 behind a window's end -> uint16 [W, H]; `num_hashes` is a power of 2 from 2 to 1,024."""
    blocks = [_signatures(kmer_hashes(letters_WL[b], k, sequence_type), num_hashes) for b in row_blocks(*letters_WL.shape)]
    return np.concatenate([np.empty((0, num_hashes), np.uint16), *blocks])


def _signatures(hash_WM: np.ndarray, num_hashes: int) -> np.ndarray:
    """Sorted, the hashes of one bin stand together, the least first; 32 of their bits are enough to sort by."""
    empty = np.uint32(NO_KMER >> np.uint64(32))
    bin_shift = np.uint32(32 - num_hashes.bit_length() + 1)
    sorted_WM = np.sort((hash_WM >> np.uint64(32)).astype(np.uint32), axis=1)
    bin_WM = sorted_WM >> bin_shift
    is_first = np.ones(sorted_WM.shape, bool)
    np.not_equal(bin_WM[:, 1:], bin_WM[:, :-1], out=is_first[:, 1:])
    row, column = np.divmod(np.flatnonzero(is_first), max(sorted_WM.shape[1], 1))
    least_WH = np.full((len(hash_WM), num_hashes), empty)
    least_WH[row, bin_WM[row, column]] = sorted_WM[row, column]
    filled_WH = _densify(least_WH, empty)
    short = np.minimum(filled_WH & np.uint32(NO_KMERS), NO_KMERS - np.uint16(1)).astype(np.uint16)
    short[filled_WH[:, 0] == empty] = NO_KMERS
    return short


def _densify(least_WH: np.ndarray, empty: np.uint32) -> np.ndarray:
    """Fill each empty bin from the first filled one in the bin's own order of all bins."""
    filled = least_WH.copy()
    row, bin_ = np.nonzero((least_WH == empty) & (least_WH != empty).any(axis=1, keepdims=True))
    for donor_H in _donors(least_WH.shape[1]).T:
        if not len(row):
            break
        taken = least_WH[row, donor_H[bin_]]
        filled[row, bin_] = taken
        row, bin_ = row[taken == empty], bin_[taken == empty]
    return filled


@cache
def _donors(num_hashes: int) -> np.ndarray:
    """int64 [H, H]: for each bin all bins in an order of its own, the same on every machine."""
    numbers = np.arange(num_hashes**2, dtype=np.uint64)
    return np.argsort(mix(numbers).reshape(num_hashes, num_hashes), axis=1)


def similarity(a_WH: np.ndarray, b_WH: np.ndarray) -> np.ndarray:
    """Estimated Jaccard similarity, float64 [W], of the k-mers of two windows by their signatures; 0 where one has none.

    The standard error is sqrt(J (1 - J) / H).
    """
    return ((a_WH == b_WH) & (a_WH != NO_KMERS)).mean(axis=1)
