"""Shifted and turned rows against plain strings: what a row reads, where it may not move, and what its weights do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyena_glt.config import DataConfig, TokenizationConfig
from hyena_glt.data.augment import Augmentation, build_augmentation, opposite_strand
from hyena_glt.data.dataset import TokenRows
from hyena_glt.data.mixture import Mixture, open_training
from hyena_glt.data.places import Places
from hyena_glt.dna import reverse_complement
from hyena_glt.errors import ConfigError
from hyena_glt.tokenizers import Tokenizer, build_tokenizer
from tests.tiny_run import pad_rows, random_bases, write_data

CHAR = build_tokenizer("dna", TokenizationConfig(kind="char"))
DISJOINT = build_tokenizer("dna", TokenizationConfig(kmer_size=3))
OVERLAPPING = build_tokenizer("dna", TokenizationConfig(kmer_size=3, kmer_stride=1))
tokenizers = pytest.mark.parametrize("tokenizer", [CHAR, DISJOINT, OVERLAPPING], ids=["char", "disjoint", "overlapping"])


def drawn(positions: np.ndarray, share: float = 0.5, max_shift: int = 7, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    return Augmentation(reverse_complement=share, max_shift=max_shift, seed=seed).draw(positions)


def test_draws_depend_on_seed_and_place_alone():
    shifts, turned = drawn(np.arange(4000))
    for place in (3999, 0, 17):
        assert [found.tolist() for found in drawn(np.array([place]))] == [[shifts[place]], [turned[place]]]
    assert np.bincount(shifts, minlength=8) / 4000 == pytest.approx([1 / 8] * 8, abs=0.025)
    assert turned.mean() == pytest.approx(0.5, abs=0.03)
    assert (drawn(np.arange(4000), seed=1)[0] != shifts).mean() > 0.8
    assert drawn(np.arange(100), share=1.0)[1].all() and not drawn(np.arange(100), share=0.0)[1].any()


def test_nothing_is_drawn_where_nothing_was_asked_for():
    assert build_augmentation(DataConfig(), 3) is None
    assert build_augmentation(DataConfig(max_shift=2), 3) == Augmentation(reverse_complement=0.0, max_shift=2, seed=3)


@tokenizers
@given(st.lists(st.tuples(st.text("ACGTN", max_size=8), st.booleans()), min_size=1, max_size=5))
def test_the_other_strand_is_the_strings_reverse_complement(tokenizer: Tokenizer, drawn_rows):
    strings = [text * 3 for text, _ in drawn_rows]  # whole 3-mers
    turned = np.array([flag for _, flag in drawn_rows])
    wanted = [reverse_complement(s.encode()) if flag else s.encode() for s, flag in zip(strings, turned, strict=True)]
    ids = [tokenizer.encode(s.encode()) for s in strings]
    weights = [np.arange(1, len(row) + 1, dtype=np.float32) for row in ids]
    found = opposite_strand(TokenRows(pad_rows(ids, 24), pad_rows(weights, 24)), turned, tokenizer)
    assert (found.ids == pad_rows([tokenizer.encode(s) for s in wanted], 24)).all()
    moved = [row[::-1] if flag else row for row, flag in zip(weights, turned, strict=True)]
    assert (found.weights == pad_rows(moved, 24)).all()
    assert opposite_strand(TokenRows(pad_rows(ids, 24), None), turned, tokenizer).weights is None


def mixture_of(folder: Path, tokenizer: Tokenizer, letters: str, *, max_length: int, stride: int, length: int | None) -> Mixture:
    soft_masked = 0.5 if tokenizer.span == 1 else None
    write_data(folder, tokenizer, {"train": letters.encode()}, max_length=max_length, stride=stride, soft_masked=soft_masked)
    return open_training(DataConfig(train_path=str(folder), sequence_length=length, max_shift=3))


def sequence(number: int) -> str:
    """Random bases, lower-case in stretches."""
    letters = random_bases(number)
    return "".join(letters[i : i + 5].lower() + letters[i + 5 : i + 12] for i in range(0, number, 12))


@tokenizers
@pytest.mark.parametrize("length", [None, 4, 5])
def test_a_shifted_row_reads_on_in_its_record(tmp_path, tokenizer: Tokenizer, length: int | None):
    """Windows of 8 tokens without a gap between them; each piece of each window at each shift, against the letters."""
    k, step = tokenizer.span, tokenizer.bases_per_token
    letters, max_length = sequence(8 * step * 12 + k - step), 8 * step + k - step
    mixture = mixture_of(tmp_path / "data", tokenizer, letters, max_length=max_length, stride=8 * step, length=length)
    every, [rows] = tokenizer.encode(letters.encode()), mixture.rows
    numbers, piece = np.arange(rows.num_rows), min(length or 8, 8)
    plain = mixture.tokens(np.zeros_like(numbers), numbers)
    for shift in range(4):
        found = mixture.tokens(np.zeros_like(numbers), numbers, np.full(len(numbers), shift))
        moved = []
        for number, (ids, own) in enumerate(zip(found.ids, plain.ids, strict=True)):
            first, filled = number // rows.pieces * 8 + number % rows.pieces * piece, int((own != 0).sum())
            shifted = every[first + shift : first + shift + filled]
            following = plain.ids[number + 1] if number + 1 < len(numbers) else np.zeros(0)
            if first + filled >= len(every) or shift > (following != 0).sum():
                assert (ids == own).all(), "the record ends, or the next piece is too short"
                continue
            moved.append(number)
            assert ids[:filled].tolist() == shifted.tolist() and not ids[filled:].any()
            if found.weights is not None:
                lower = [letter.islower() for letter in letters[first + shift : first + shift + filled]]
                assert found.weights[number, :filled].tolist() == [0.5 if soft else 1.0 for soft in lower]
        assert len(moved) > 0.6 * len(numbers)
        said = np.flatnonzero(mixture.moved(np.zeros_like(numbers), numbers, np.full(len(numbers), shift)))
        assert said.tolist() == (moved if shift else [])


def test_rows_go_on_only_where_the_next_token_follows():
    records = [("a", 0, 6), ("a", 6, 6), ("a", 12, 5), ("a", 17, 6), ("a", 25, 6), ("a", 29, 6), ("b", 35, 6), ("b", 41, 6)]
    names, start, length = (np.array(column) for column in zip(*records, strict=True))
    places = Places(start, length, np.append(False, names[1:] == names[:-1]))
    assert places.goes_on(CHAR).tolist() == [True, True, True, False, False, False, True, False]
    assert places.goes_on(DISJOINT).tolist() == [True, True, False, False, False, False, True, False], "5 bases leave 2 over"
    assert places.goes_on(OVERLAPPING).tolist() == [False] * 4 + [True] + [False] * 3, "2 bases of the k - 1 must be shared"
    assert places.shared_bases().tolist() == [0, 0, 0, 0, 0, 2, 0, 0]


def test_a_shift_that_could_move_nothing_is_refused(tmp_path):
    folder = write_data(tmp_path / "data", OVERLAPPING, {"train": sequence(80).encode()}, max_length=10)
    with pytest.raises(ConfigError, match="data.max_shift: no row of data goes on in the next one, so none can be shifted; remove it, or"):
        open_training(DataConfig(train_path=str(folder), max_shift=2))
    with pytest.raises(ConfigError, match=r"data.max_shift \(9\) must be at most the 8 tokens of a row of .*data$"):
        open_training(DataConfig(train_path=str(folder), max_shift=9))


def test_a_protein_has_no_other_strand(tmp_path):
    tokenizer = build_tokenizer("protein", TokenizationConfig(kind="amino_acid"))
    folder = write_data(tmp_path / "data", tokenizer, {"train": b"MKVLAW" * 4}, max_length=6)
    with pytest.raises(ConfigError, match="data.reverse_complement: a protein has no other strand; remove it"):
        open_training(DataConfig(train_path=str(folder), reverse_complement=0.5))
