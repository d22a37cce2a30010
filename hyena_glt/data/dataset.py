"""Rows of a preprocessed split: where each lies, and reading them back; runs on the workers and in evaluation, without Ray."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from ..errors import DataError
from ..tokenizers import Tokenizer, load_tokenizer
from ..tokenizers.base import CLS, PAD, SEP
from .manifest import Manifest, Shard, locate_split, read_manifest
from .readers import read_columns, read_row_group, row_group_sizes


@dataclass(frozen=True, slots=True)
class RowGroup:
    """One unit of reading: a Parquet row group."""

    shard: int
    index: int
    num_rows: int


@dataclass(slots=True)
class Rows:
    """The rows of one split, numbered from 0 in the order of the genome.

    With `sequence_length` S, a stored row of more than S tokens becomes several: nothing is lost, the last is padded.
    """

    folder: Path
    split: str
    manifest: Manifest
    tokenizer: Tokenizer
    sequence_length: int | None
    shards: tuple[Shard, ...]
    row_groups: tuple[RowGroup, ...]
    cached_row_groups: int
    """Row groups kept in memory, about 1 MiB of ids each."""
    _cache: OrderedDict[int, np.ndarray] = field(default_factory=OrderedDict)

    @property
    def pieces(self) -> int:
        """Rows that one stored row is cut into."""
        return -(-self.manifest.width // self.piece_length)

    @property
    def piece_length(self) -> int:
        """Tokens in a row without specials."""
        return min(self.sequence_length or self.manifest.width, self.manifest.width)

    @property
    def width(self) -> int:
        """Tokens in a row, with [CLS] and [SEP] where the tokenizer adds them."""
        return self.piece_length + 2 * self.tokenizer.add_special_tokens

    @property
    def num_rows(self) -> int:
        return self.pieces * sum(group.num_rows for group in self.row_groups)

    @property
    def num_tokens(self) -> int:
        """Tokens that are not padding, without specials."""
        return self.manifest.splits[self.split].tokens

    @property
    def padding_share(self) -> float:
        """Share of positions that hold [PAD]."""
        return 1.0 - self.num_tokens / (self.num_rows * self.piece_length)

    def group_sizes(self) -> np.ndarray:
        """Rows in each row group, int64 [groups]."""
        return np.array([group.num_rows * self.pieces for group in self.row_groups], np.int64)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Token ids [len(rows), width] in the order asked for."""
        starts = np.concatenate([[0], np.cumsum(self.group_sizes())])
        groups = np.searchsorted(starts, rows, side="right") - 1
        ids = np.stack([self._group(int(g))[int(r - starts[g])] for g, r in zip(groups, rows, strict=True)])
        return add_specials(ids) if self.tokenizer.add_special_tokens else ids

    def shared_bases(self) -> np.ndarray:
        """Bases at the start of each stored row that the row before it holds too, int64 [stored rows]; 0 without overlap."""
        places = pa.concat_tables(read_columns(self.folder / shard.path, ["source", "record", "start", "length"]) for shard in self.shards)
        start, length = (places[name].to_numpy().astype(np.int64) for name in ("start", "length"))
        source, record = (places[name].combine_chunks().dictionary_encode().indices.to_numpy() for name in ("source", "record"))
        follows = (source[1:] == source[:-1]) & (record[1:] == record[:-1])
        shared = np.clip(start[:-1] + length[:-1] - start[1:], 0, None)
        return np.concatenate([[0], np.where(follows, shared, 0)])

    def _group(self, number: int) -> np.ndarray:
        """Ids of one row group, cut to pieces; the most recently used stay in memory."""
        if number in self._cache:
            self._cache.move_to_end(number)
            return self._cache[number]
        group = self.row_groups[number]
        path = self.folder / self.shards[group.shard].path
        ids = cut_rows(read_row_group(path, group.index, "input_ids", self.tokenizer.dtype, self.manifest.width), self.piece_length)
        self._cache[number] = ids
        if len(self._cache) > self.cached_row_groups:
            self._cache.popitem(last=False)
        return ids


def open_rows(path: str, split: str, sequence_length: int | None = None, *, cached_row_groups: int = 2) -> Rows:
    """The rows of `split` below a preprocessing output, or of the split folder that `path` names.

    Rows read in order need few row groups in memory; shuffled ones need as many as are shuffled together.

    Raises DataError where the folder, its manifest or a shard is missing, cut short or unreadable.
    """
    folder, split = locate_split(path, split)
    manifest = read_manifest(folder)
    if split not in manifest.splits:
        raise DataError(f"{folder} has no split {split!r}, only {', '.join(sorted(manifest.splits))}")
    shards = tuple(manifest.splits[split].shards)
    groups = [
        RowGroup(number, index, size) for number, shard in enumerate(shards) for index, size in enumerate(row_group_sizes(folder, shard))
    ]
    tokenizer = load_tokenizer(folder / "tokenizer.json")
    return Rows(folder, split, manifest, tokenizer, sequence_length, shards, tuple(groups), cached_row_groups)


def cut_rows(ids: np.ndarray, length: int) -> np.ndarray:
    """[rows, width] -> [rows * ceil(width / length), length], the last piece of a row padded."""
    width = ids.shape[1]
    padded = np.pad(ids, ((0, 0), (0, -width % length)), constant_values=PAD)
    return padded.reshape(-1, length)


def add_specials(ids: np.ndarray) -> np.ndarray:
    """[rows, width] -> [rows, width + 2]: [CLS] in front, [SEP] behind the last token that is not padding."""
    framed = np.pad(ids, ((0, 0), (1, 1)), constant_values=PAD)
    framed[:, 0] = CLS
    filled = (ids != PAD).sum(axis=1)  # padding stands only at the end
    framed[np.arange(len(ids)), filled + 1] = SEP
    return framed
