"""The numbers of a data report against plain counting."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyena_glt.data.dataset import open_rows
from hyena_glt.dna import reverse_complement
from hyena_glt.evaluation.data_statistics import count_kmers, describe, divergence, gc_percents, row_hashes
from tests.data.made_folder import make_folder
from tests.data.small_folder import random_letters, write_folder

windows = st.lists(st.text("ACGTUN", min_size=1, max_size=12), min_size=1, max_size=6)


def matrix(rows: list[str]) -> np.ndarray:
    """uint8 [W, L], 0 behind the end."""
    letters = np.zeros((len(rows), max(map(len, rows))), np.uint8)
    for line, row in zip(letters, rows, strict=True):
        line[: len(row)] = np.frombuffer(row.encode(), np.uint8)
    return letters


@settings(deadline=None)
@given(windows)
def test_gc(rows: list[str]):
    wanted = Counter()
    for row in rows:
        if known := [letter for letter in row if letter != "N"]:
            wanted[round(100 * sum(letter in "GC" for letter in known) / len(known))] += 1
    assert {percent: n for percent, n in enumerate(gc_percents(matrix(rows)).tolist()) if n} == wanted


@settings(deadline=None)
@given(windows)
def test_kmers(rows: list[str]):
    wanted = Counter()
    for row in (row.replace("U", "T") for row in rows):
        words = (row[i : i + 4] for i in range(len(row) - 3))
        wanted.update(int(word.translate(str.maketrans("ACGT", "0123")), base=4) for word in words if "N" not in word)
    assert {number: n for number, n in enumerate(count_kmers(matrix(rows)).tolist()) if n} == wanted


@settings(deadline=None)
@given(windows)
def test_hashes_are_the_same_for_the_same_window_on_either_strand_only(rows: list[str]):
    rows = [row.replace("U", "T") for row in rows]
    both = rows + [reverse_complement(row.encode()).decode() for row in rows]
    hashes = row_hashes(matrix(both), "dna")
    for i, one in enumerate(both):
        for j, two in enumerate(both):
            assert (hashes[i] == hashes[j]) == (one == two or one == reverse_complement(two.encode()).decode())


def test_hashes_of_rna_and_protein():
    rna = row_hashes(matrix(["ACGU", "ACGU", "AACU", "AGUU"]), "rna")
    assert rna[0] == rna[1] and rna[2] == rna[3] != rna[0]
    protein = row_hashes(matrix(["ACGT", "AAGT", "ACTT"]), "protein")
    assert len(set(protein.tolist())) == 3


def test_divergence():
    one, two = {"A": 1.0, "C": 0.0}, {"A": 0.0, "C": 1.0}
    assert divergence(one, one) == 0.0 and divergence(one, two) == 1.0
    assert divergence(one, {"A": 0.5, "C": 0.5}) == pytest.approx(0.311278)


def test_describe(tmp_path):
    letters = random_letters(64)
    window, other = letters[:32], letters[32:]
    record = window + other + reverse_complement(window) + b"ACGTNNAC"
    folder = write_folder(tmp_path / "out", {"a": record}, max_length=32)
    read = []
    found = describe(open_rows(str(folder), "train"), 100, read.append)
    assert (found.num_rows, found.rows, found.tokens, found.positions, found.bases) == (4, 4, 104, 128, 104)
    assert (sum(read), found.duplicate_rows, found.unknown_tokens) == (4, 1, 2)
    assert {length: n for length, n in enumerate(found.lengths.tolist()) if n} == {32: 3, 8: 1}
    assert found.ambiguity.tolist() == [3, 0, 0, 0, 0, 1]  # 2 of 8
    assert found.gc == pytest.approx(sum(record.count(base) for base in (b"G", b"C")) / 102)
    assert found.mean_length == 26 and found.padding_share == pytest.approx(24 / 128)
    spectrum = found.composition()
    assert len(spectrum) == 136 and sum(spectrum.values()) == pytest.approx(1) and "TTTT" not in spectrum
    assert spectrum["AAAA"] == (found.kmers[0] + found.kmers[255]) / found.kmers.sum()


def test_describe_some_rows(tmp_path):
    folder = write_folder(tmp_path / "out", {"a": random_letters(16 * 30)}, max_length=16, rows_per_group=4)
    found = describe(open_rows(str(folder), "train"), 7, lambda rows: None)
    assert (found.num_rows, found.rows, found.tokens) == (30, 7, 7 * 16)


def test_weights_and_labels(tmp_path):
    rows = open_rows(str(make_folder(tmp_path / "a", {"train": ((30, 20),)}, weights=True, labels=True)), "train")
    found = describe(rows, 100, lambda rows: None)
    assert found.weights.total() == found.tokens == rows.num_tokens
    assert set(found.labels) <= {f"GO:{number}" for number in range(9)} and 0 < found.unlabelled_rows < 50
