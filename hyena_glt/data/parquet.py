"""One Parquet shard: its columns, its row groups, reading and writing them; local or in an object store. Needs neither Ray nor torch."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import DataError
from .storage import Location, Url, first_line, open_file

ZSTD_LEVEL = 1
"""On bases the higher levels take longer and save nothing."""
MAX_OBJECTS = 256
"""Objects that stay open, each with its footer in memory."""
_objects: OrderedDict[Url, pq.ParquetFile] = OrderedDict()
"""Open objects of this process, used last at the end: the size and footer of one cost requests, and then each row group only one."""


def schema(path: Location) -> pa.Schema:
    """The columns of a row."""
    return _open(path).schema_arrow


def row_group_sizes(path: Location) -> list[int]:
    """Rows in each row group."""
    metadata = _open(path).metadata
    return [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]


def read(path: Location, columns: list[str] | None = None, row_group: int | None = None) -> pa.Table:
    """Some columns (default: all) of one row group (default: all); the checksum of every page is compared on the way."""
    file = _open(path)
    table = file.read(columns) if row_group is None else file.read_row_group(row_group, columns=columns)
    wanted = file.metadata.num_rows if row_group is None else file.metadata.row_group(row_group).num_rows
    if table.num_rows != wanted:  # a page whose header is damaged may be skipped without a word
        raise OSError(f"{table.num_rows} rows, wanted {wanted}")
    return table


def forget(path: Url) -> None:
    """Open an object anew when it is read next: it may have been replaced since the last time."""
    _objects.pop(path, None)


def writer(path: Path, rows: pa.Schema, *, compress: bool) -> pq.ParquetWriter:
    """Page checksums let a reader notice damage without reading the whole shard."""
    return pq.ParquetWriter(
        path, rows, write_page_checksum=True, use_dictionary=["source", "record"],
        compression="zstd" if compress else "none", compression_level=ZSTD_LEVEL if compress else None,
    )


def _open(path: Location) -> pq.ParquetFile:
    if isinstance(path, Path):
        return _opened(path)
    file = _objects.pop(path, None) or _opened(path)
    _objects[path] = file
    while len(_objects) > MAX_OBJECTS:
        _objects.popitem(last=False)
    return file


def _opened(path: Location) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path if isinstance(path, Path) else open_file(path), page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a readable Parquet file ({first_line(error)}); preprocess again into a new folder") from error
