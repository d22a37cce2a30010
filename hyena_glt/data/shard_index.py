"""The shard index of a preprocessed folder, shards.parquet: what each shard holds. Needs neither Ray nor torch.

One row a shard, in the order of the data's rows. The manifest, which is written after it, has its checksum. It says how many rows each
row group has, so that a data set of any number of shards opens without a look into one of them.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..errors import DataError
from ..files import LEADS_OUT
from .parquet import open_plain
from .storage import Location, read_bytes

INDEX = "shards.parquet"
COLUMNS = pa.schema({
    "path": pa.string(), "rows": pa.int64(), "tokens": pa.int64(), "size": pa.int64(), "sha256": pa.binary(),
    "row_groups": pa.list_(pa.int32()),
})
SCHEMA = COLUMNS.insert(0, pa.field("split", pa.string()))
SHARDS_AT_ONCE = 10_000
"""Shards that are decoded at once, which takes several times the memory of the columns."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """One Parquet or HDF5 file; `path` is relative to the folder, `tokens` leaves out padding, `size` is in bytes."""

    path: str
    rows: int
    tokens: int
    size: int
    sha256: str
    row_groups: tuple[int, ...] | None
    """Rows in each row group; None where only the file itself says."""

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Shard:
        """Inverse of `asdict`; folders written before there was an index have no row groups."""
        sizes = fields.get("row_groups")
        return cls(**{**fields, "row_groups": None if sizes is None else tuple(sizes)})


class Shards:
    """The shards of a split in the order of their rows, kept as columns: a `Shard` is made when it is asked for."""

    def __init__(self, columns: pa.Table) -> None:
        """ValueError for a path that leads out of the folder."""
        outside = columns.filter(pc.match_substring_regex(columns["path"], LEADS_OUT))["path"]
        if len(outside):
            raise ValueError(f"the shard {outside[0].as_py()!r} lies outside of the folder")
        self._columns = columns

    @classmethod
    def of(cls, shards: Sequence[Shard]) -> Shards:
        """Inverse of `tuple`."""
        columns = {name: [getattr(shard, name) for shard in shards] for name in COLUMNS.names}
        return cls(pa.table(columns | {"sha256": list(map(bytes.fromhex, columns["sha256"]))}, COLUMNS))

    @property
    def columns(self) -> pa.Table:
        """As `COLUMNS` says."""
        return self._columns

    @property
    def tell_row_groups(self) -> bool:
        """Whether the row groups of all shards are known."""
        return not self._columns["row_groups"].null_count

    def starts(self) -> tuple[np.ndarray, np.ndarray]:
        """(First row of each row group, first row group of each shard), and the end of the last, int64 [groups + 1] and [shards + 1]."""
        parts = self._columns["row_groups"].chunks
        return _starts([part.flatten() for part in parts]), _starts([part.value_lengths() for part in parts])

    def __len__(self) -> int:
        return self._columns.num_rows

    def __getitem__(self, number: int) -> Shard:
        return next(iter(Shards(self._columns.slice(range(len(self))[number], 1))))

    def __iter__(self) -> Iterator[Shard]:
        for batch in self._columns.to_batches(SHARDS_AT_ONCE):
            for row in batch.to_pylist():
                yield Shard.from_json(row | {"sha256": row["sha256"].hex()})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Shards) and self._columns.equals(other._columns)


def _starts(parts: Sequence[pa.Array]) -> np.ndarray:
    """Sizes, in parts -> where each begins and the last one ends."""
    starts = np.zeros(sum(map(len, parts)) + 1, np.int64)
    np.concatenate([part.to_numpy() for part in parts], out=starts[1:])
    return np.cumsum(starts, out=starts)


def encode_index(splits: Mapping[str, Shards]) -> bytes:
    """The bytes of shards.parquet, no row group of which belongs to two splits."""
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, SCHEMA, compression="zstd", use_dictionary=["split", "row_groups.list.element"]) as writer:
        for name, shards in splits.items():
            of_split = pa.array([name] * len(shards), pa.string())
            writer.write_table(shards.columns.add_column(0, "split", of_split), row_group_size=SHARDS_AT_ONCE)
    return sink.getvalue()


def read_index(folder: Location, sha256: str) -> dict[str, Shards]:
    """The shards of each split; DataError where shards.parquet is missing, or is not the one whose SHA-256 the manifest has."""
    path = folder / INDEX
    try:
        content = read_bytes(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); restore it, or preprocess again into a new folder") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise DataError(f"{path}: is damaged, its SHA-256 is not the manifest's; restore it, or preprocess again into a new folder")
    file = open_plain(pa.BufferReader(content))
    parts: dict[str, list[pa.Table]] = {}
    for number in range(file.num_row_groups):
        part = file.read_row_group(number)
        parts.setdefault(part["split"][0].as_py(), []).append(part.drop_columns("split"))
    return {name: Shards(pa.concat_tables(of_split)) for name, of_split in parts.items()}
