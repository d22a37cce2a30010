"""FracMinHash sketches: the k-mers whose hash lies in the lowest 1/scale of all (Irber et al. 2022). Pure arithmetic.

The same k-mers are sampled wherever they occur, so sketches of parts merge into the sketch of the whole, and the share of one
sketch that another holds estimates the share of its k-mers, whatever the two lengths.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ...dna import SequenceType
from .kmers import kmer_hashes, row_blocks


def merge(sketches: Iterable[np.ndarray]) -> np.ndarray:
    """The sketch of all the sequences together."""
    hashes = np.sort(np.concatenate([np.empty(0, np.uint64), *sketches]))  # np.unique uses a hash table, 30 times slower
    new = np.ones(len(hashes), bool)
    np.not_equal(hashes[1:], hashes[:-1], out=new[1:])
    return hashes[new]


def sketch_rows(letters_WL: np.ndarray, k: int, sequence_type: SequenceType, scale: int) -> tuple[np.ndarray, np.ndarray]:
    """Letters uint8 [W, L], 0 behind a window's end -> (row int64 [M], hash uint64 [M]), sorted by hash, then row, each pair once."""
    rows, hashes = [np.empty(0, np.int64)], [np.empty(0, np.uint64)]
    for block in row_blocks(*letters_WL.shape):
        hash_WM = kmer_hashes(letters_WL[block], k, sequence_type)
        sampled = np.flatnonzero(hash_WM < hash_limit(scale))
        rows.append(block.start + sampled // max(hash_WM.shape[1], 1))
        hashes.append(hash_WM.ravel()[sampled])
    return distinct_pairs(np.concatenate(rows), np.concatenate(hashes))


def distinct_pairs(row_M: np.ndarray, hash_M: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of a row (or record) and a hash it holds, each once: sorted by hash, then row."""
    order = np.lexsort((row_M, hash_M))
    row, hash_ = row_M[order], hash_M[order]
    new = np.ones(len(row), bool)
    new[1:] = (row[1:] != row[:-1]) | (hash_[1:] != hash_[:-1])
    return row[new], hash_[new]


def hash_limit(scale: int) -> np.uint64:
    """A k-mer is sampled if its hash is below this."""
    return np.uint64((2**64 - 1) // scale)


def choose_scale(num_kmers: int, *, max_hashes: int, window_kmers: int, hashes_per_window: int = 100) -> int:
    """The scale at which a window of `window_kmers` keeps about `hashes_per_window`, or coarser so that `num_kmers` keep `max_hashes`.

    With n hashes a share s is found with a standard error of sqrt(s (1 - s) / n): 0.05 at most for 100, 0.09 for 30.
    """
    return max(1, window_kmers // hashes_per_window, -(-num_kmers // max_hashes))
