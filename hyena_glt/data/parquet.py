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


def open_plain(source: Path | pa.NativeFile) -> pq.ParquetFile:
    """A file for reading, all of whose columns are plain; pa.ArrowInvalid for another.

    Where Ray Data is imported, a file can say of a column that its values are pickles, and then runs code when one is looked at.
    """
    file = pq.ParquetFile(source, page_checksum_verification=True)
    for column in file.schema_arrow:
        if _is_extension(column.type):
            raise pa.ArrowInvalid(f"its column {column.name} is of the type {column.type}, and only plain ones are read")
    return file


def _is_extension(kind: pa.DataType) -> bool:
    """Whether a type, or one inside it, is not of Arrow's plain ones."""
    inner = [kind.value_type] if pa.types.is_dictionary(kind) else [kind.field(number).type for number in range(kind.num_fields)]
    return isinstance(kind, pa.BaseExtensionType) or any(map(_is_extension, inner))


def _open(path: Location) -> pq.ParquetFile:
    if isinstance(path, Path):
        return _opened(path)
    file = _objects.pop(path, None) or _opened(path)
    _objects[path] = file
    while len(_objects) > MAX_OBJECTS:
        _objects.popitem(last=False)
    return file


def _opened(path: Location) -> pq.ParquetFile:
    """DataError for what is not Parquet; OSError, with its number, where the system cannot read it."""
    try:
        return open_plain(path if isinstance(path, Path) else open_file(path))
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:  # the system's, of a file that may be whole
            raise
        raise DataError(f"{path} is not a readable Parquet file ({first_line(error)}); preprocess again into a new folder") from error
