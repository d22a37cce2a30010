"""Rows of a preprocessed split: where each lies, and reading them back; runs on the workers and in evaluation, without Ray."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np

from ..errors import DataError
from ..files import insist
from ..tokenizers import Tokenizer, load_tokenizer
from ..tokenizers.base import CLS, PAD, SEP
from .manifest import Manifest, locate_split, read_manifest
from .places import Places, read_places
from .readers import find_shard, read_row_group, with_row_groups
from .shard_index import Shards
from .storage import Location


@dataclass(frozen=True, slots=True)
class RowGroup:
    """One unit of reading: where it lies."""

    path: Location
    index: int
    """Its number in the shard."""
    num_rows: int


@dataclass(frozen=True, slots=True)
class TokenRows:
    """B rows of L tokens, padding at the end: ids [B, L]; their weights in the loss float32 [B, L], or None where all count 1."""

    ids: np.ndarray
    weights: np.ndarray | None

    @property
    def filled(self) -> np.ndarray:
        """Tokens of each row that are not padding, int64 [B]."""
        return (self.ids != PAD).sum(axis=1)


@dataclass(slots=True)
class Rows:
    """The rows of one split, numbered from 0 in the order of the genome.

    With `sequence_length` S, a stored row of more than S tokens becomes several: nothing is lost, the last is padded.
    """

    folder: Location
    split: str
    manifest: Manifest
    tokenizer: Tokenizer
    sequence_length: int | None
    cached_row_groups: int
    """Row groups kept in memory, about 1 MiB of ids each."""
    retry_s: float = 0.0
    """How long what the storage does not give is asked for again."""
    _starts: tuple[np.ndarray, np.ndarray] | None = None
    """Of row groups and shards, once a row is read or the order of rows is drawn."""
    _found: set[int] = field(default_factory=set)
    """Numbers of the shards that were looked for."""
    _cache: OrderedDict[tuple[str, int], np.ndarray] = field(default_factory=OrderedDict)

    @property
    def shards(self) -> Shards:
        """In the order of the rows."""
        return self.manifest.splits[self.split].shards

    @property
    def group_starts(self) -> np.ndarray:
        """The first stored row of each row group, and the end of the last, int64 [groups + 1]."""
        return self._find_starts()[0]

    @property
    def shard_starts(self) -> np.ndarray:
        """The first row group of each shard, and the end of the last, int64 [shards + 1]."""
        return self._find_starts()[1]

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
        return self.pieces * self.manifest.splits[self.split].rows

    @property
    def num_tokens(self) -> int:
        """Tokens that are not padding, without specials."""
        return self.manifest.splits[self.split].tokens

    @property
    def padding_share(self) -> float:
        """Share of positions that hold [PAD]."""
        return 1.0 - self.num_tokens / (self.num_rows * self.piece_length)

    @property
    def weighted(self) -> bool:
        """Whether the tokens have weights."""
        return "weights" in self.manifest.columns

    def group_sizes(self) -> np.ndarray:
        """Rows in each row group, int64 [groups]."""
        return np.diff(self.group_starts) * self.pieces

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Token ids [len(rows), width] in the order asked for, with the tokenizer's [CLS] and [SEP]."""
        ids = self._gather("input_ids", rows)
        return add_specials(ids) if self.tokenizer.add_special_tokens else ids

    def tokens(self, rows: np.ndarray) -> TokenRows:
        """Ids and weights [len(rows), piece_length] in the order asked for, without specials."""
        weights = self._gather("weights", rows).astype(np.float32) if self.weighted else None
        return TokenRows(self._gather("input_ids", rows), weights)

    def row_group(self, number: int) -> RowGroup:
        """Where a row group lies; DataError at the first one of a shard that is missing or cut short."""
        shard = int(np.searchsorted(self.shard_starts, number, side="right")) - 1
        described = self.shards[shard]
        if shard not in self._found:
            find_shard(self.folder, described)
            self._found.add(shard)
        num_rows = int(self.group_starts[number + 1] - self.group_starts[number])
        return RowGroup(self.folder / described.path, number - int(self.shard_starts[shard]), num_rows)

    def places(self) -> Places:
        """Where the stored rows lie; reads four columns of every shard."""
        return read_places(find_shard(self.folder, shard) for shard in self.shards)

    def _find_starts(self) -> tuple[np.ndarray, np.ndarray]:
        if self._starts is None:
            self._starts = with_row_groups(self.folder, self.shards).starts()
        return self._starts

    def _gather(self, column: str, rows: np.ndarray) -> np.ndarray:
        """A packed column [len(rows), piece_length]."""
        stored, piece = np.divmod(rows, self.pieces)
        groups = np.searchsorted(self.group_starts, stored, side="right") - 1
        within = (stored - self.group_starts[groups]) * self.pieces + piece
        return np.stack([self._group(column, int(group))[row] for group, row in zip(groups, within, strict=True)])

    def _group(self, column: str, number: int) -> np.ndarray:
        """A packed column of one row group, cut to pieces; the most recently used stay in memory."""
        if (column, number) in self._cache:
            self._cache.move_to_end((column, number))
            return self._cache[column, number]
        values = insist(lambda: self._read_group(column, number), retry_s=self.retry_s)
        self._cache[column, number] = values
        if len(self._cache) > self.cached_row_groups * (1 + self.weighted):
            self._cache.popitem(last=False)
        return values

    def _read_group(self, column: str, number: int) -> np.ndarray:
        group, packing = self.row_group(number), self.manifest.row_format.packings[column]
        return cut_rows(read_row_group(group.path, group.index, group.num_rows, column, packing), self.piece_length)


def open_rows(
    path: str, split: str, sequence_length: int | None = None, *, cached_row_groups: int = 2, retry_s: float = 0.0
) -> Rows:
    """The rows of `split` below a preprocessing output, or of the split folder that `path` names.

    Rows read in order need few row groups in memory; shuffled ones need as many as are shuffled together. `retry_s` is how long a read
    waits for a storage that is away.

    Raises DataError where the folder, its manifest or the index of its shards is missing or damaged. A shard is looked for when one of
    its rows is read; without an index (`readers.with_row_groups`) all are, when the first is.
    """
    folder, split = locate_split(path, split)
    manifest = read_manifest(folder)
    if split not in manifest.splits:
        raise DataError(f"{folder} has no split {split!r}, only {', '.join(sorted(manifest.splits))}")
    return Rows(folder, split, manifest, load_tokenizer(manifest.tokenizer), sequence_length, cached_row_groups, retry_s)


def cut_rows(values: np.ndarray, length: int) -> np.ndarray:
    """[rows, width] -> [rows * ceil(width / length), length], the last piece of a row padded with 0: [PAD], or no weight."""
    width = values.shape[1]
    padded = np.pad(values, ((0, 0), (0, -width % length)))
    return padded.reshape(-1, length)


def add_specials(ids: np.ndarray) -> np.ndarray:
    """[rows, width] -> [rows, width + 2]: [CLS] in front, [SEP] behind the last token that is not padding."""
    framed = np.pad(ids, ((0, 0), (1, 1)), constant_values=PAD)
    framed[:, 0] = CLS
    filled = (ids != PAD).sum(axis=1)  # padding stands only at the end
    framed[np.arange(len(ids)), filled + 1] = SEP
    return framed


def frame(rows: TokenRows) -> TokenRows:
    """`add_specials` to ids and weights; the specials weigh nothing, as they are never predicted."""
    return TokenRows(add_specials(rows.ids), None if rows.weights is None else np.pad(rows.weights, ((0, 0), (1, 1))))
