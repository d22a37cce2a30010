"""Stored rows read back as letters, a row group at a time; needs neither Ray nor torch.

Suffixes: W rows (windows), T tokens, L letters, I ids.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import pyarrow as pa

from ..data.dataset import Rows
from ..data.readers import read_rows
from ..dna import ALPHABETS
from ..tokenizers import Tokenizer
from ..tokenizers.base import NUM_SPECIAL, PAD, UNK


@dataclass(frozen=True, slots=True)
class RowBlock:
    """Consecutive rows of a split, or those of them that were asked for."""

    number_W: np.ndarray
    """Place in the split, int64."""
    ids_WT: np.ndarray
    letters_WL: np.ndarray
    """uint8; N (X for protein) under [UNK], 0 behind the end."""
    places: pa.Table
    """Their other columns: `source`, `record`, `start`, `length`, and `labels` where the rows have them."""
    weights_WT: np.ndarray | None
    """float16, where the rows have them."""


def read_blocks(rows: Rows, chosen_W: np.ndarray | None = None) -> Iterator[RowBlock]:
    """All rows, or those at `chosen_W` (int64, ascending), in order; row groups without a chosen row are not read.

    These are stored rows: a `sequence_length` with which `rows` was opened cuts none. DataError for a damaged shard.
    """
    tokenizer, starts = rows.tokenizer, rows.group_starts
    groups = range(len(starts) - 1) if chosen_W is None else np.unique(np.searchsorted(starts, chosen_W, side="right") - 1).tolist()
    for number in groups:
        first, end = starts[number], starts[number + 1]
        wanted = np.arange(first, end) if chosen_W is None else chosen_W[slice(*np.searchsorted(chosen_W, [first, end]))]
        group = rows.row_group(number)
        table = read_rows(group.path, group.index, group.num_rows).take(wanted - first)
        packed = {name: packing.unpack(table[name]) for name, packing in rows.manifest.row_format.packings.items()}
        ids = packed["input_ids"]
        yield RowBlock(wanted, ids, decode_rows(tokenizer, ids), table.drop(["input_ids"]), packed.get("weights"))


def evenly(num_rows: int, max_rows: int) -> np.ndarray:
    """At most `max_rows` of the numbers below `num_rows`, int64, evenly spaced, ascending."""
    if num_rows <= max_rows:
        return np.arange(num_rows)
    return np.arange(max_rows) * num_rows // max_rows


@cache
def letter_table(tokenizer: Tokenizer) -> np.ndarray:
    """The letters under each id, uint8 [I, span]; those under [UNK] are N or X, of other specials 0."""
    alphabet = np.frombuffer(ALPHABETS[tokenizer.sequence_type], np.uint8)
    table = np.zeros((tokenizer.num_ids, tokenizer.span), np.uint8)
    table[UNK] = ord("X" if tokenizer.sequence_type == "protein" else "N")
    table[NUM_SPECIAL:] = alphabet[np.indices((len(alphabet),) * tokenizer.span).reshape(tokenizer.span, -1).T]  # alphabetical, as ids are
    return table


def decode_rows(tokenizer: Tokenizer, ids_WT: np.ndarray) -> np.ndarray:
    """Ids padded at their end -> letters uint8 [W, L], as `Tokenizer.decode` gives them row by row, 0 behind the end."""
    table, (num_rows, tokens) = letter_table(tokenizer), ids_WT.shape
    stride, span = tokenizer.bases_per_token, tokenizer.span
    letters_WL = np.zeros((num_rows, (tokens - 1) * stride + span), np.uint8)
    # Symbols come second: where k-mers overlap they know the letters that an [UNK] beside them leaves open.
    for among in (ids_WT == UNK, ids_WT >= NUM_SPECIAL) if span > stride else (ids_WT != PAD,):
        for place in range(span):
            column = letters_WL[:, place : place + (tokens - 1) * stride + 1 : stride]
            np.copyto(column, table[ids_WT, place], where=among)
    return letters_WL
