"""Homology clusters: records that share enough of their k-mers, directly or through others, belong together. Runs on the driver.

Suffixes: N records, M hashes of all records one after another, E edges.
"""

from __future__ import annotations

import numpy as np

from .fracminhash import distinct_pairs

NEIGHBOURS = 64
"""A hash pairs each record that holds it with the next so many that do, by number; bounds the pairs of a hash that all hold."""
MIN_SHARED_HASHES = 3
"""Fewer hashes in common say nothing: records of a handful of hashes would join others by chance."""


def cluster_records(record_M: np.ndarray, hash_M: np.ndarray, num_records: int, threshold: float) -> np.ndarray:
    """Sketches as pairs (record's number int64, hash uint64), in any order -> label int64 [N]: the cluster's first record.

    Two records are joined when at least `threshold` of the smaller sketch lies in the larger one (max containment), because a
    fragment leaks as much as a copy of its whole, and Jaccard similarity is small for any two records of unlike length.
    Clusters are the connected components. A record without a hash is alone.
    """
    record, hash_ = distinct_pairs(record_M, hash_M)
    size_N = np.bincount(record, minlength=num_records)
    a_E, b_E, shared_E = _shared_hashes(record, hash_, num_records)
    smaller = np.minimum(size_N[a_E], size_N[b_E])
    joined = (shared_E >= threshold * smaller) & (shared_E >= np.minimum(MIN_SHARED_HASHES, smaller))
    return connected_components(num_records, a_E[joined], b_E[joined])


def _shared_hashes(record_M: np.ndarray, hash_M: np.ndarray, num_records: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs sorted by hash, then record -> pairs of records (a < b) and how many hashes they share.

    Exact unless a hash is in more than NEIGHBOURS records; then records far apart in number share at least so many, and a
    family that large is found through its neighbours.
    """
    edges, counts = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for step in range(1, NEIGHBOURS + 1):
        first = np.flatnonzero(hash_M[step:] == hash_M[:-step])
        if not len(first):
            break
        edge, count = np.unique(record_M[first] * num_records + record_M[first + step], return_counts=True)
        edges.append(edge)
        counts.append(count)
    order = np.argsort(np.concatenate(edges), kind="stable")
    edge_E = np.concatenate(edges)[order]
    first = np.flatnonzero(np.diff(edge_E, prepend=-1))
    a_E, b_E = np.divmod(edge_E[first], num_records)
    return a_E, b_E, np.add.reduceat(np.concatenate(counts)[order], first)


def connected_components(num_nodes: int, a_E: np.ndarray, b_E: np.ndarray) -> np.ndarray:
    """Edges -> the lowest node that each is connected with, int64 [num_nodes].

    Each node points to a lower one of its component, or to itself; an edge pulls the pointed at of both its ends to the lower,
    and pointers are shortened, until nothing moves (Shiloach and Vishkin 1982).
    """
    label = np.arange(num_nodes)
    while True:
        low_E = np.minimum(label[a_E], label[b_E])
        lower = label.copy()
        np.minimum.at(lower, label[a_E], low_E)
        np.minimum.at(lower, label[b_E], low_E)
        lower = lower[lower]
        if np.array_equal(lower, label):
            return label
        label = lower
