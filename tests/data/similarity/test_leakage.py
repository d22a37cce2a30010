"""Leakage against sets of k-mers as Python strings."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyena_glt.data.similarity.fracminhash import merge
from hyena_glt.data.similarity.leakage import Matches, match_windows, summarise
from hyena_glt.dna import reverse_complement
from tests.data.similarity.at_once import sketch


def as_matrix(texts: list[str]) -> np.ndarray:
    matrix = np.zeros((len(texts), max(map(len, texts))), np.uint8)
    for row, text in zip(matrix, texts, strict=True):
        row[: len(text)] = np.frombuffer(text.encode(), np.uint8)
    return matrix


def slow_kmers(text: str, k: int) -> set[str]:
    kmers = (text[start : start + k] for start in range(len(text) - k + 1))
    return {min(kmer, reverse_complement(kmer.encode()).decode()) for kmer in kmers if not set(kmer) - set("ACGT")}


texts = st.lists(st.text("ACGTN", min_size=1, max_size=60), min_size=1, max_size=5)


@given(texts, texts, st.integers(2, 8))
def test_at_scale_1_the_shares_are_exact(train, held_out, k):
    train_sketch = merge(sketch(as_matrix([text])[0], k, "dna", 1) for text in train)
    matches = match_windows(as_matrix(held_out), np.arange(len(held_out)), train_sketch, k, "dna", 1)
    train_kmers = set().union(*(slow_kmers(text, k) for text in train))
    wanted = [(len(slow_kmers(text, k)), len(slow_kmers(text, k) & train_kmers)) for text in held_out]
    assert list(zip(matches.sampled_W.tolist(), matches.found_W.tolist(), strict=True)) == wanted


def test_a_sampled_share_is_near_the_exact_one_on_either_strand():
    rng = np.random.default_rng(0)
    train = np.frombuffer(b"ACGT", np.uint8)[rng.integers(0, 4, 20_000)]
    half = np.concatenate([train[5000:6000], np.frombuffer(b"ACGT", np.uint8)[rng.integers(0, 4, 1000)]])
    other = np.frombuffer(reverse_complement(half.tobytes()), np.uint8)
    place, train_sketch = np.array([7, 9]), sketch(train, 31, "dna", 5)
    matches = match_windows(np.stack([half, other]), place, train_sketch, 31, "dna", 5)
    np.testing.assert_array_equal(matches.sampled_W, matches.sampled_W[0])
    np.testing.assert_array_equal(matches.found_W, matches.found_W[0])
    assert matches.found_W[0] / matches.sampled_W[0] == pytest.approx(970 / 1970, abs=0.08)


def test_the_summary_of_a_table_written_by_hand():
    parts = [
        Matches(np.array([10, 20, 30]), np.array([10, 10, 0]), np.array([5, 9, 0])),
        Matches(np.array([40, 50]), np.array([20, 10]), np.array([0, 9])),
    ]
    result = summarise(parts, 2, k=31, scale=9, near_duplicate_threshold=0.8, num_worst=3)
    assert dataclasses.asdict(result) == {
        "k": 31, "scale": 9, "windows": 5, "unsampled_windows": 1, "sampled_kmers": 50, "found_kmers": 23, "kmer_share": 0.46,
        "half_found_share": 0.75, "mostly_found_share": 0.5, "near_duplicate_threshold": 0.8, "near_duplicate_share": 0.4,
        "worst": ((20, 0.9), (50, 0.9), (10, 0.5)),
    }  # fmt: skip
    assert summarise(parts[::-1], 2, k=31, scale=9, near_duplicate_threshold=0.8, num_worst=3) == result
    json.dumps(dataclasses.asdict(result))


def test_a_split_of_which_nothing_was_sampled():
    empty = Matches(np.array([1]), np.array([0]), np.array([0]))
    result = summarise([empty], 0, k=31, scale=9, near_duplicate_threshold=0.8)
    assert (result.windows, result.unsampled_windows, result.kmer_share, result.half_found_share, result.worst) == (1, 1, 0, 0, ())
