"""Sketches against Python sets of k-mers."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hyena_glt.data.similarity.fracminhash import choose_scale, distinct_pairs, hash_limit, merge, sketch_rows
from hyena_glt.data.similarity.kmers import kmer_hashes
from tests.data.similarity.at_once import sketch

dna = st.text("ACGTN", max_size=120)


def as_letters(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8)


def slow_sketch(text: str, k: int, scale: int) -> set[int]:
    return {h for h in kmer_hashes(as_letters(text), k, "dna").tolist() if h < (2**64 - 1) // scale}


@given(dna, st.integers(1, 31), st.integers(1, 5))
def test_a_sketch_is_the_set_of_low_hashes(text, k, scale):
    assert sketch(as_letters(text), k, "dna", scale).tolist() == sorted(slow_sketch(text, k, scale))


@given(dna, st.integers(1, 31), st.integers(1, 3), st.integers(1, 40))
def test_pieces_that_share_k_less_one_letters_merge_to_the_whole(text, k, scale, size):
    pieces = [text[start : start + size + k - 1] for start in range(0, len(text), size)]
    merged = merge(sketch(as_letters(piece), k, "dna", scale) for piece in pieces)
    np.testing.assert_array_equal(merged, sketch(as_letters(text), k, "dna", scale))


@given(st.lists(st.text("ACGT", max_size=60), min_size=1, max_size=6), st.integers(1, 12), st.integers(1, 3))
def test_rows_are_sketched_apart(texts, k, scale):
    matrix = np.zeros((len(texts), max(map(len, texts))), np.uint8)
    for row, text in zip(matrix, texts, strict=True):
        row[: len(text)] = as_letters(text)
    rows, hashes = sketch_rows(matrix, k, "dna", scale)
    pairs = list(zip(hashes.tolist(), rows.tolist(), strict=True))
    assert pairs == sorted((found, row) for row, text in enumerate(texts) for found in slow_sketch(text, k, scale))


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4))))
def test_distinct_pairs(pairs):
    rows, hashes = distinct_pairs(np.array([r for r, _ in pairs], np.int64), np.array([h for _, h in pairs], np.uint64))
    assert list(zip(hashes.tolist(), rows.tolist(), strict=True)) == sorted({(h, r) for r, h in pairs})


def test_a_sketch_holds_one_kmer_in_scale():
    letters = as_letters("ACGT")[np.random.default_rng(0).integers(0, 4, 50_000)]
    assert len(sketch(letters, 31, "dna", 1)) == 50_000 - 30
    assert 0.9 < len(sketch(letters, 31, "dna", 10)) / 5_000 < 1.1
    assert hash_limit(1) == 2**64 - 1


def test_the_scale_keeps_enough_of_a_window_until_memory_forbids():
    assert choose_scale(10**6, max_hashes=10**8, window_kmers=994) == 9
    assert choose_scale(10**6, max_hashes=10**8, window_kmers=50) == 1
    assert choose_scale(3 * 10**9, max_hashes=10**8, window_kmers=994) == 30
    assert choose_scale(3 * 10**9 + 1, max_hashes=10**8, window_kmers=994) == 31
