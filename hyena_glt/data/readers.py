"""Open and read one shard, Parquet or HDF5, local or in an object store; runs on the workers and in evaluation, without Ray.

The format follows the name. The modules of both have `schema`, `row_group_sizes` and `read`, which give the same for the same rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ..errors import DataError
from . import hdf5, parquet
from .row_format import Packing
from .storage import Location, first_line, size

if TYPE_CHECKING:
    from .manifest import Shard

REQUESTS = 16
"""Shards of an object store that are opened at once: each waits for the network a few times."""


def row_group_sizes(folder: Location, shard: Shard) -> list[int]:
    """Rows in each row group, after comparing the shard's size with the manifest's; DataError if it is missing or cut short."""
    path = folder / shard.path
    found = size(path)
    if found != shard.size:
        raise DataError(
            f"{path}: {'missing' if found is None else f'{found:,} bytes'}, the manifest has {shard.size:,} bytes; "
            f"run `hyena-glt validate-data {folder}` for the whole damage, then preprocess again into a new folder"
        )
    with _damage(path):
        return _format(path).row_group_sizes(path)


def all_row_group_sizes(folder: Location, shards: Sequence[Shard]) -> list[list[int]]:
    """`row_group_sizes` of each shard; those of an object store are asked for side by side."""
    if isinstance(folder, Path):
        return [row_group_sizes(folder, shard) for shard in shards]
    with ThreadPoolExecutor(REQUESTS) as threads:
        return list(threads.map(row_group_sizes, repeat(folder), shards))


def schema(path: Location) -> pa.Schema:
    """The columns of a row."""
    with _damage(path):
        return _format(path).schema(path)


def read_columns(path: Location, columns: list[str]) -> pa.Table:
    """Some columns of a whole shard; the checksum of every page or chunk is compared on the way."""
    with _damage(path):
        return _format(path).read(path, columns)


def read_rows(path: Location, index: int) -> pa.Table:
    """All columns of one row group, checked in the same way."""
    with _damage(path, index):
        return _format(path).read(path, None, index)


def read_row_group(path: Location, index: int, column: str, packing: Packing) -> np.ndarray:
    """A packed column [rows, width] of one row group, checked in the same way."""
    with _damage(path, index):
        return packing.unpack(_format(path).read(path, [column], index)[column])


def embedded_manifest(path: Location) -> bytes:
    """The manifest inside an HDF5 file."""
    with _damage(path):
        return hdf5.read_manifest(path)


def _format(path: Location) -> ModuleType:
    return hdf5 if hdf5.is_hdf5(path) else parquet


@contextmanager
def _damage(path: Location, index: int | None = None) -> Iterator[None]:
    """What pyarrow and h5py raise at a damaged file becomes a DataError that names it, and the row group if there is one."""
    try:
        yield
    except (pa.ArrowException, OSError, KeyError, RuntimeError, ValueError) as error:
        whole = path if hdf5.is_hdf5(path) else path.parent.parent
        where = path if index is None else f"{path}, row group {index}"
        raise DataError(
            f"{where}: damaged ({first_line(error)}); run `hyena-glt validate-data {whole}`, then preprocess again into a new folder"
        ) from error
