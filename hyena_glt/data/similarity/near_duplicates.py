"""Which windows are near-duplicates of one that stays, or of one in train. Pure arithmetic, for driver and workers.

Signatures are cut into bands; windows with the same hashes in one band are compared (locality-sensitive hashing). The work splits
in three: `band_rows` for any windows, `similar_pairs` for any set of keys with all the rows of each key, and `decide` for all
pairs. The outcome is the same, however the work was split.

Windows are compared as they were cut: a copy that begins elsewhere in its window shares only what both windows hold, and is found
only if that is enough for the threshold. What k-mers train holds wherever they stand is measured by `leakage`.

Suffixes: W windows, H hashes of a signature, B bands, R hashes of a band, M rows (a window in a band), T rows of train, P pairs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...dna import SequenceType
from .fracminhash import distinct_pairs
from .kmers import mix
from .minhash import NO_KMERS, similarity

NEAR_DUPLICATE_K: dict[SequenceType, int] = {"dna": 21, "rna": 21, "protein": 5}
"""The defaults of `preprocessing.near_duplicates.kmer_size`, and what leakage is measured with."""
MAX_LEADERS = 64
"""Windows of one bucket that the others are compared with, at most: bounds the work in a bucket of 100,000 to 64 looks each."""
RECALL = 0.95
"""Share of the pairs just at the threshold that are compared, at least; above the threshold it is soon 1."""
_COMPARED_ROWS = 1 << 16


class Bands(NamedTuple):
    """How signatures are cut for the search: two windows are compared if all hashes of one band are the same."""

    num_bands: int
    hashes_per_band: int

    def recall(self, similarity: float) -> float:
        """1 - (1 - s^r)^b: the probability that windows of this similarity are compared."""
        return 1 - (1 - similarity**self.hashes_per_band) ** self.num_bands


class Signatures(NamedTuple):
    """Signatures of windows by place; `place_W` int64, ascending; `hash_WH` uint16, may be memory-mapped."""

    place_W: np.ndarray
    hash_WH: np.ndarray


def choose_bands(num_hashes: int, threshold: float) -> Bands:
    """The longest bands, which bring the fewest dissimilar windows together, that still find `RECALL` of pairs at `threshold`.

    Leskovec, Rajaraman, Ullman: Mining of Massive Datasets, 3.4.
    """
    longest_first = (Bands(num_hashes // size, size) for size in range(num_hashes, 0, -1))
    return next((bands for bands in longest_first if bands.recall(threshold) >= RECALL), Bands(num_hashes, 1))


def band_rows(hash_WH: np.ndarray, place_W: np.ndarray, bands: Bands) -> tuple[np.ndarray, np.ndarray]:
    """Signatures -> (key uint64 [M], place int64 [M]), one row a window and band: equal keys have one band in common.

    Windows without a k-mer are left out: nothing is known about them.
    """
    known = hash_WH[:, 0] != NO_KMERS
    number, size = bands
    band_WBR = hash_WH[known, : number * size].reshape(-1, number, size)
    factor_BR = mix(np.arange(number * size, dtype=np.uint64)).reshape(number, size) | np.uint64(1)
    key_WB = np.einsum("wbr,br->wb", band_WBR.astype(np.uint64), factor_BR) + factor_BR[:, 0]
    return mix(key_WB).ravel(), np.repeat(place_W[known], number)


def shares_key(key_M: np.ndarray) -> np.ndarray:
    """bool [M]: another row has the same key. The others need not travel further."""
    order = np.argsort(key_M, kind="stable")
    same = key_M[order[1:]] == key_M[order[:-1]]
    shared = np.zeros(len(key_M), bool)
    shared[order[1:][same]] = shared[order[:-1][same]] = True
    return shared


def similar_pairs(key_M: np.ndarray, place_M: np.ndarray, known: Signatures, threshold: float) -> np.ndarray:
    """Rows with all that share a key -> distinct pairs int64 [P, 2] of similar windows: an earlier place, a later one.

    In each bucket (the rows of one key, by place) the first window leads: those whose similarity to it is at least `threshold`
    are paired with it and leave; the first of the rest leads next, `MAX_LEADERS` times at most.
    """
    shared = shares_key(key_M)
    order = np.lexsort((place_M[shared], key_M[shared]))
    key, place = key_M[shared][order], place_M[shared][order]
    pairs = [np.empty((0, 2), np.int64)]
    for _ in range(MAX_LEADERS):
        is_leader = np.ones(len(key), bool)
        is_leader[1:] = key[1:] != key[:-1]
        leader = np.maximum.accumulate(np.where(is_leader, np.arange(len(key)), 0))
        similar = ~is_leader & _are_similar(known, place[leader], place, threshold)
        pairs.append(np.stack([place[leader[similar]], place[similar]], axis=1))
        left = ~is_leader & ~similar
        key, place = key[left], place[left]
        if not len(key):
            break
    return np.stack(distinct_pairs(*np.concatenate(pairs).T), axis=1)


def similar_to_train(
    train: tuple[np.ndarray, np.ndarray], held_out: tuple[np.ndarray, np.ndarray], known: Signatures, threshold: float
) -> np.ndarray:
    """Band rows (key, place) of train and of held-out windows -> places, int64 sorted, of held-out windows similar to one of train.

    All rows of a key must be there; keys may be split over calls. A held-out window is compared with the first `MAX_LEADERS` windows
    of train in each of its buckets.
    """
    order = np.lexsort(train[::-1])
    key_T, place_T = train[0][order], train[1][order]
    key, place = held_out
    candidate, end = np.searchsorted(key_T, key, side="left"), np.searchsorted(key_T, key, side="right")
    found = [np.empty(0, np.int64)]
    for _ in range(MAX_LEADERS):
        left = candidate < end
        place, candidate, end = place[left], candidate[left], end[left]
        if not len(place):
            break
        similar = _are_similar(known, place_T[candidate], place, threshold)
        found.append(place[similar])
        place, candidate, end = place[~similar], candidate[~similar] + 1, end[~similar]
    return np.unique(np.concatenate(found))


def _are_similar(known: Signatures, a_M: np.ndarray, b_M: np.ndarray, threshold: float) -> np.ndarray:
    """bool [M] for two lists of places, some rows at a time."""
    rows_a, rows_b = np.searchsorted(known.place_W, a_M), np.searchsorted(known.place_W, b_M)
    blocks = [slice(first, first + _COMPARED_ROWS) for first in range(0, len(a_M), _COMPARED_ROWS)]
    scores = [similarity(known.hash_WH[rows_a[block]], known.hash_WH[rows_b[block]]) for block in blocks]
    return np.concatenate([np.empty(0), *scores]) >= threshold


def decide(pairs_P2: np.ndarray) -> np.ndarray:
    """All similar pairs -> places, int64 sorted, of the windows that go: a window goes if it is similar to an earlier one that stays.

    Each window that goes is so represented by one that stays. To drop whatever is similar to any earlier window would empty
    a genome cut into overlapping windows, where each is similar to the one before.
    """
    dropped: set[int] = set()
    in_order = pairs_P2[np.argsort(pairs_P2[:, 1], kind="stable")]
    for earlier, later in zip(*in_order.T.tolist(), strict=True):
        if earlier not in dropped:
            dropped.add(later)
    return np.array(sorted(dropped), np.int64)
