"""Clusters against all pairs of Python sets."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hyena_glt.data.similarity.clusters import NEIGHBOURS, cluster_records, connected_components
from tests.data.similarity.at_once import sketch


def slow_components(num_nodes: int, edges: list[tuple[int, int]]) -> list[int]:
    label = list(range(num_nodes))
    for a, b in edges:
        old, new = max(label[a], label[b]), min(label[a], label[b])
        label = [new if found == old else found for found in label]
    return label


def slow_clusters(sets: list[set[int]], threshold: float) -> list[int]:
    edges = []
    for a in range(len(sets)):
        for b in range(a):
            shared, smaller = len(sets[a] & sets[b]), min(len(sets[a]), len(sets[b]))
            if smaller and shared >= threshold * smaller and shared >= min(3, smaller):
                edges.append((a, b))
    return slow_components(len(sets), edges)


def clusters(sets: list[set[int]], threshold: float) -> list[int]:
    record = np.repeat(np.arange(len(sets)), [len(s) for s in sets])
    hashes = np.array([h for s in sets for h in s], np.uint64)
    return cluster_records(record, hashes, len(sets), threshold).tolist()


@given(st.integers(1, 12).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1))))))
def test_connected_components(drawn):
    num_nodes, edges = drawn
    a, b = np.array([a for a, _ in edges], np.int64), np.array([b for _, b in edges], np.int64)
    assert connected_components(num_nodes, a, b).tolist() == slow_components(num_nodes, edges)


def test_a_long_path_in_random_order_is_one_component():
    node = np.random.default_rng(0).permutation(3000)
    assert not connected_components(3000, node[1:], node[:-1]).any()


@given(st.lists(st.sets(st.integers(0, 25), max_size=12), min_size=1, max_size=12), st.sampled_from([0.2, 0.5, 0.75, 1.0]))
def test_clusters_are_those_of_all_pairs(sets, threshold):
    assert clusters(sets, threshold) == slow_clusters(sets, threshold)


@given(st.permutations([(r, h) for r in range(4) for h in range(5 * (r // 2), 5 * (r // 2) + 6)] * 2))
def test_order_and_repetition_of_the_hashes_do_not_matter(pairs):
    labels = cluster_records(np.array([r for r, _ in pairs]), np.array([h for _, h in pairs], np.uint64), 4, 0.5)
    assert labels.tolist() == [0, 0, 2, 2]


def test_a_family_larger_than_the_bound_on_pairs_is_one_cluster():
    family = [{*range(10), 1000 + n} for n in range(3 * NEIGHBOURS)]
    stranger = {5000, 5001, 5002}
    assert clusters([*family, stranger], 0.5) == [0] * len(family) + [len(family)]


def test_a_fragment_on_the_other_strand_joins_its_whole():
    rng = np.random.default_rng(3)
    genome, other = (np.frombuffer(b"ACGT", np.uint8)[rng.integers(0, 4, 5000)] for _ in range(2))
    complement = np.frombuffer(bytes.maketrans(b"ACGT", b"TGCA"), np.uint8)
    sketches = [sketch(letters, 21, "dna", 4) for letters in (other, genome, complement[genome[2000:2600][::-1]])]
    record = np.repeat(np.arange(3), [len(s) for s in sketches])
    assert cluster_records(record, np.concatenate(sketches), 3, 0.9).tolist() == [0, 1, 1]
