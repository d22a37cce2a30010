"""Open and read one shard; runs on the workers and in evaluation, without Ray."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import DataError
from .manifest import Shard
from .row_format import unpack


def row_group_sizes(folder: Path, shard: Shard) -> list[int]:
    """Rows in each row group, after comparing the shard's size with the manifest's; DataError if it is missing or cut short."""
    path = folder / shard.path
    found = path.stat().st_size if path.exists() else None
    if found != shard.size:
        raise DataError(
            f"{path}: {'missing' if found is None else f'{found:,} bytes'}, the manifest has {shard.size:,} bytes; "
            f"run `hyena-glt validate-data {folder}` for the whole damage, then preprocess again into a new folder"
        )
    metadata = _open(path).metadata
    return [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]


def read_columns(path: Path, columns: list[str]) -> pa.Table:
    """Some columns of a whole shard; the checksum of every page is compared on the way."""
    try:
        return _open(path).read(columns)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: damaged ({_first_line(error)}); preprocess again into a new folder") from error


def read_row_group(path: Path, index: int, column: str, dtype: np.dtype, width: int) -> np.ndarray:
    """A packed column [rows, width] of one row group; the checksum of every page is compared on the way."""
    try:
        file = _open(path)
        values = unpack(file.read_row_group(index, columns=[column])[column], dtype)
        wanted = file.metadata.row_group(index).num_rows, width
        if values.shape != wanted:  # a page whose header is damaged may be skipped without a word
            raise ValueError(f"{column} is {values.shape[0]} x {values.shape[1]}, wanted {wanted[0]} x {wanted[1]}")
        return values
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(
            f"{path}, row group {index}: damaged ({_first_line(error)}); "
            f"run `hyena-glt validate-data {path.parent.parent}`, then preprocess again into a new folder"
        ) from error


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a readable Parquet file ({_first_line(error)}); preprocess again into a new folder") from error


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
