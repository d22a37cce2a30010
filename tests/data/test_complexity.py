"""Low complexity against plain counting."""

from __future__ import annotations

from collections import Counter
from math import log2

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyena_glt.data.complexity import low_complexity_fraction


def as_matrix(texts: list[str], width: int) -> np.ndarray:
    matrix = np.zeros((len(texts), width), np.uint8)
    for row, text in zip(matrix, texts, strict=True):
        row[: len(text)] = np.frombuffer(text.encode(), np.uint8)
    return matrix


def is_low_dna(chunk: str) -> bool:
    triplets = [chunk[i : i + 3].replace("U", "T") for i in range(len(chunk) - 2)]
    counts = Counter(triplet for triplet in triplets if not set(triplet) - set("ACGT"))
    score = sum(c * (c - 1) / 2 for c in counts.values())
    return score > 2.0 * max(counts.total() - 1, 0)


def is_low_protein(chunk: str) -> bool:
    counts = Counter(residue for residue in chunk if residue in "ACDEFGHIKLMNOPQRSTUVWY")
    n = counts.total()
    # Of the most that n residues can reach, the same part as 2.2 bits are for 12.
    return n > 1 and -sum(c / n * log2(c / n) for c in counts.values()) < 2.2 * log2(n) / log2(12)


def slow_fraction(text: str, sequence_type: str) -> float:
    size, is_low = (12, is_low_protein) if sequence_type == "protein" else (64, is_low_dna)
    chunks = [text[start : start + size] for start in range(0, len(text), size)]
    return sum(len(chunk) for chunk in chunks if is_low(chunk)) / max(len(text), 1)


def repetitive(letters: str, size: int) -> st.SearchStrategy[str]:
    """Stretches of few kinds of letters and of many, one after another."""
    run = st.builds(lambda unit, times: unit * times, st.text(letters, min_size=1, max_size=4), st.integers(1, 40))
    return st.lists(run | st.text(letters, max_size=40), max_size=8).map(lambda parts: "".join(parts)[:size])


@given(st.lists(repetitive("ACGTN", 200), min_size=1, max_size=4), st.integers(200, 220))
def test_dna(texts, width):
    assert low_complexity_fraction(as_matrix(texts, width), "dna").tolist() == [slow_fraction(text, "dna") for text in texts]


@given(st.lists(repetitive("ACDEFGHIKLMNPQRSTVWYX", 60), min_size=1, max_size=4), st.integers(60, 80))
def test_protein(texts, width):
    found = low_complexity_fraction(as_matrix(texts, width), "protein").tolist()
    assert found == [slow_fraction(text, "protein") for text in texts]


@pytest.mark.parametrize(
    "text, sequence_type, share",
    [
        ("A" * 64, "dna", 1.0),
        ("CA" * 32 + "ACGTTGCATCGGATCCTAGACTGACCATTGCAGTCAAGCTCGATTACGGCATGTCCGAATCTGC", "dna", 0.5),
        ("U" * 64, "rna", 1.0),
        ("N" * 64, "dna", 0.0),
        ("", "dna", 0.0),
        ("QQQQQQQQQQQQ" + "ACDEFGHIKLMN", "protein", 0.5),
        ("AAAABBBBXXXX", "protein", 1.0),
        ("XXXXXXXXXXXX", "protein", 0.0),
    ],
)
def test_known_sequences(text, sequence_type, share):
    assert low_complexity_fraction(as_matrix([text], 128), sequence_type).tolist() == [share]


def test_the_score_must_be_above_the_level():
    """A repeat of n letters whose triplets are all the same scores (n - 2) / 2."""
    low = [low_complexity_fraction(as_matrix(["A" * n], 64), "dna")[0] for n in range(10)]
    assert low == [0, 0, 0, 0, 0, 0, 0, 1, 1, 1]
