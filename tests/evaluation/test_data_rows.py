"""Stored rows come back as the letters that the tokenizer decodes, whichever of them are asked for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyena_glt.config import TokenizationConfig
from hyena_glt.data.dataset import open_rows
from hyena_glt.evaluation.data_rows import decode_rows, evenly, read_blocks
from hyena_glt.tokenizers import Tokenizer
from hyena_glt.tokenizers.kmer import KmerTokenizer
from hyena_glt.tokenizers.letters import LetterTokenizer
from tests.data.made_folder import make_folder
from tests.data.small_folder import random_letters, write_folder

TOKENIZERS = [
    LetterTokenizer("dna"), LetterTokenizer("rna"), LetterTokenizer("protein"), KmerTokenizer("dna", 3, 3), KmerTokenizer("dna", 3, 1),
    KmerTokenizer("rna", 1, 1),
]


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=str)
@settings(deadline=None)
@given(rows=st.lists(st.text("ACGUNX", min_size=3, max_size=14), min_size=1, max_size=5))
def test_rows_decode_as_one_by_one(tokenizer: Tokenizer, rows: list[str]):
    encoded = [tokenizer.encode(row.encode()) for row in rows]
    ids = np.zeros((len(rows), max(map(len, encoded))), tokenizer.dtype)
    for row, own in zip(ids, encoded, strict=True):
        row[: len(own)] = own
    decoded = [letters.tobytes().rstrip(b"\0").decode() for letters in decode_rows(tokenizer, ids)]
    assert decoded == [tokenizer.decode(own) for own in encoded]


@settings(deadline=None)
@given(num_rows=st.integers(0, 300), max_rows=st.integers(1, 300))
def test_evenly(num_rows: int, max_rows: int):
    chosen = evenly(num_rows, max_rows)
    assert len(chosen) == min(num_rows, max_rows)
    gaps = np.diff(chosen)
    assert len(chosen) < 2 or (chosen[0] == 0 and gaps.min() > 0 and gaps.max() - gaps.min() <= 1 and chosen[-1] < num_rows)


def test_blocks_hold_the_chosen_rows_and_their_places(tmp_path):
    letters = random_letters(16 * 30)
    folder = write_folder(tmp_path / "out", {"a": letters}, max_length=16, rows_per_group=4, rows_per_shard=9)
    rows = open_rows(str(folder), "train", 5)  # a sequence_length cuts no stored row
    chosen = np.array([0, 3, 4, 17, 29])
    blocks = list(read_blocks(rows, chosen))
    assert np.concatenate([block.number_W for block in blocks]).tolist() == chosen.tolist()
    found = [row.tobytes() for block in blocks for row in block.letters_WL]
    assert found == [letters[16 * n : 16 * n + 16] for n in chosen]
    assert [start for block in blocks for start in block.places["start"].to_pylist()] == (16 * chosen).tolist()
    assert sum(len(block.number_W) for block in read_blocks(rows)) == 30


def test_blocks_hold_weights_and_labels_where_there_are_any(tmp_path):
    rows = open_rows(str(make_folder(tmp_path / "a", {"train": ((3, 2),)}, weights=True, labels=True)), "train")
    first, second = read_blocks(rows)
    assert first.weights_WT.shape == (3, 12) and len(second.places["labels"]) == 2
    folder = write_folder(tmp_path / "b", {"a": b"ACGT"}, max_length=4, tokenization=TokenizationConfig(kind="kmer", kmer_size=2))
    (block,) = read_blocks(open_rows(str(folder), "train"))
    assert block.weights_WT is None and "labels" not in block.places.column_names
