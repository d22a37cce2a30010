"""Open and read one shard, Parquet or HDF5, local or in an object store; runs on the workers and in evaluation, without Ray.

The format follows the name. The modules of both have `schema`, `row_group_sizes` and `read`, which give the same for the same rows.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa

from ..errors import DataError, StorageError
from . import hdf5, parquet
from .row_format import Packing
from .shard_index import Shard, Shards
from .storage import Location, Url, first_line, is_folder, size

REQUESTS = 16
"""Shards of an object store that are opened at once: each waits for the network a few times."""


def find_shard(folder: Location, shard: Shard) -> Location:
    """Where a shard lies that has the manifest's size; DataError if it is missing or cut short, StorageError if the whole folder is."""
    path = folder / shard.path
    if isinstance(path, Url):
        parquet.forget(path)
    found = size(path)
    if found is None and not is_folder(folder):
        raise StorageError(f"{folder}: is not there; when its storage is back, the same command goes on")
    if found != shard.size:
        raise DataError(
            f"{path}: {'missing' if found is None else f'{found:,} bytes'}, the manifest has {shard.size:,} bytes; "
            f"run `hyena-glt validate-data {folder}` for the whole damage, then preprocess again into a new folder"
        )
    return path


def row_group_sizes(folder: Location, shard: Shard) -> list[int]:
    """Rows in each row group, as the shard itself says; DataError as for `find_shard`."""
    path = find_shard(folder, shard)
    with _damage(path):
        return _format(path).row_group_sizes(path)


def with_row_groups(folder: Location, shards: Shards) -> Shards:
    """The same shards with the sizes of their row groups.

    Where no index tells them (older folders, an HDF5 file alone) each shard is asked, those of an object store side by side.
    """
    if shards.tell_row_groups:
        return shards
    if isinstance(folder, Path):
        sizes = [row_group_sizes(folder, shard) for shard in shards]
    else:
        with ThreadPoolExecutor(REQUESTS) as threads:
            sizes = list(threads.map(row_group_sizes, repeat(folder), shards))
    return Shards.of([replace(shard, row_groups=tuple(own)) for shard, own in zip(shards, sizes, strict=True)])


def schema(path: Location) -> pa.Schema:
    """The columns of a row."""
    with _damage(path):
        return _format(path).schema(path)


def read_columns(path: Location, columns: list[str]) -> pa.Table:
    """Some columns of a whole shard; the checksum of every page or chunk is compared on the way."""
    with _damage(path):
        return _format(path).read(path, columns)


def read_rows(path: Location, index: int, num_rows: int) -> pa.Table:
    """All columns of one row group of `num_rows` rows, checked in the same way."""
    with _damage(path, index):
        return _read_group(path, index, num_rows, None)


def read_row_group(path: Location, index: int, num_rows: int, column: str, packing: Packing) -> np.ndarray:
    """A packed column [rows, width] of one row group of `num_rows` rows, checked in the same way."""
    with _damage(path, index):
        return packing.unpack(_read_group(path, index, num_rows, [column])[column])


def _read_group(path: Location, index: int, num_rows: int, columns: list[str] | None) -> pa.Table:
    table = _format(path).read(path, columns, index)
    if table.num_rows != num_rows:  # of another data set, or a page whose damaged header was skipped without a word
        raise ValueError(f"{table.num_rows} rows, wanted {num_rows}")
    return table


def embedded_manifest(path: Location) -> bytes:
    """The manifest inside an HDF5 file."""
    with _damage(path):
        return hdf5.read_manifest(path)


def _format(path: Location) -> ModuleType:
    return hdf5 if hdf5.is_hdf5(path) else parquet


@contextmanager
def _damage(path: Location, index: int | None = None) -> Iterator[None]:
    """What pyarrow and h5py raise at a damaged file becomes a DataError that names it, and the row group if there is one.

    A StorageError where the system says why it could not be read.
    """
    try:
        yield
    except (pa.ArrowException, OSError, LookupError, RuntimeError, ValueError) as error:
        if isinstance(error, OSError) and error.errno:
            reason = os.strerror(error.errno)
            raise StorageError(f"{path}: could not be read ({reason}); when that is cured, the same command goes on") from error
        whole = path if hdf5.is_hdf5(path) else path.parent.parent
        where = path if index is None else f"{path}, row group {index}"
        raise DataError(
            f"{where}: damaged ({first_line(error)}); run `hyena-glt validate-data {whole}`, then preprocess again into a new folder"
        ) from error
