"""One split as an HDF5 file: its layout, reading and writing it. Needs neither Ray nor torch, and h5py only where a file is opened.

input_ids      [rows, width] uint8 or uint16, padded with PAD; its attribute `id_bits` says how many a Parquet copy has, 8 or 16 if absent
start, length  [rows] int64, int32: the window's first base (0-based) and its bases
source, record [rows] int32: numbers of names in source_names, record_names (UTF-8 of fixed size)
weights        [rows, width] float16, where asked for
label_ends     [rows] int64, where asked for: the labels of row i are label[label_ends[i - 1] : label_ends[i]],
label          int32, numbers of names in label_names
row_groups     [groups, 2] int64: rows, and number of the shard, of the row groups that a Parquet copy has; training shuffles these
manifest       uint8: JSON, as manifest.json, of this split alone, so that the file can be used by itself

Every chunk carries a Fletcher-32 checksum, and HDF5 1.10's metadata theirs, so that reading notices damage.

On E. coli as bases, one core: gzip level 1 takes 0.33 bytes a base, level 4 0.30 (and twice the time to write), LZF 0.59 without being
quicker to read; on 6-mers 0.26, 0.26 and 0.31. So gzip 1, which every HDF5 library has. Zstandard in Parquet takes 0.31 and 0.29.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ..errors import DataError
from .row_format import WEIGHT, RowFormat
from .storage import Location, first_line, open_file

if TYPE_CHECKING:
    import h5py

SUFFIXES = (".h5", ".hdf5")
FORMAT, FORMAT_VERSION = "hyena-glt rows", 1
CHUNK_BYTES = 1 << 18
"""A quarter of a row group: those do not begin at chunks, and few bytes are then read in vain."""
CACHE_BYTES = 16 << 20
"""Room for chunks that are not full yet, so that none is compressed twice."""
GZIP_LEVEL = 1
NAMED = {"source": "source_names", "record": "record_names"}


def is_hdf5(path: Location) -> bool:
    """Whether the name is that of an HDF5 file."""
    return path.suffix in SUFFIXES


# Reading


def schema(path: Location) -> pa.Schema:
    """The columns of a row."""
    with _open(path) as file:
        return _row_format(file).schema


def row_group_sizes(path: Location) -> list[int]:
    """Rows in each row group."""
    return row_groups(path)[:, 0].tolist()


def row_groups(path: Location) -> np.ndarray:
    """Rows of each row group, and the number of its shard in a Parquet copy, int64 [groups, 2]."""
    with _open(path) as file:
        return file["row_groups"][:]


def read(path: Location, columns: list[str] | None = None, row_group: int | None = None) -> pa.Table:
    """Some columns (default: all) of one row group (default: all); the checksum of every chunk is compared on the way."""
    with _open(path) as file:
        wanted = _row_format(file).schema
        ends = np.cumsum(file["row_groups"][:, 0])
        rows = slice(0, int(ends[-1])) if row_group is None else slice(int(ends[row_group - 1]) if row_group else 0, int(ends[row_group]))
        names = wanted.names if columns is None else columns
        return pa.table([_column(file, name, rows) for name in names], schema=pa.schema([wanted.field(n) for n in names], wanted.metadata))


def read_manifest(path: Location) -> bytes:
    """The bytes of the manifest inside a file."""
    with _open(path) as file:
        return file["manifest"][:].tobytes()


@contextmanager
def _open(path: Location) -> Iterator[h5py.File]:
    """Opened anew for each use: a handle of HDF5 survives neither fork nor spawn. DataError for HDF5 of another kind or version."""
    h5 = _h5py(path)
    try:
        opened = h5.File(path if isinstance(path, Path) else open_file(path), "r")
    except OSError as error:
        if error.errno:  # the system's, of a file that may be whole
            raise
        raise DataError(f"{path} is not a readable HDF5 file ({first_line(error)}); preprocess again into a new folder") from error
    with opened as file:
        found = file.attrs.get("format"), file.attrs.get("format_version")
        if found != (FORMAT, FORMAT_VERSION):
            raise DataError(
                f"{path}: its format is {found[0]}, version {found[1]}, and this version of hyena-glt reads {FORMAT}, version "
                f"{FORMAT_VERSION}; give a file that `hyena-glt preprocess` or `hyena-glt convert` wrote"
            )
        if elsewhere := [name for name in file if not _is_within(h5, file, name)]:
            raise DataError(f"{path}: its {elsewhere[0]} lies in another file, which is not read; give a file that holds all of it")
        yield file


def _is_within(h5: ModuleType, file: h5py.File, name: str) -> bool:
    """Whether a dataset is the file's own: HDF5 follows links to other files, takes raw bytes of any, and views of datasets elsewhere."""
    if not isinstance(file.get(name, getlink=True), h5.HardLink):
        return False
    found = file[name]
    return isinstance(found, h5.Dataset) and not found.external and not found.is_virtual


def _h5py(path: Location) -> ModuleType:
    try:
        import h5py
    except ImportError as error:
        raise DataError(f"{path}: HDF5 files need h5py; pip install 'hyena-glt[hdf5]'") from error
    return h5py


def _row_format(file: h5py.File) -> RowFormat:
    ids = file["input_ids"]
    bits = int(ids.attrs.get("id_bits", 8 * ids.dtype.itemsize))
    return RowFormat(width=ids.shape[1], id_bits=bits, weights="weights" in file, labels="label" in file)


def _column(file: h5py.File, name: str, rows: slice) -> pa.Array:
    """One column of a slice of rows, as Parquet has it."""
    if name in ("input_ids", "weights"):
        return _row_format(file).packings[name].pack(file[name][rows])
    if name == "labels":
        first = int(file["label_ends"][rows.start - 1]) if rows.start else 0
        ends = file["label_ends"][rows]
        labels = _names(file["label_names"], file["label"][first : ends[-1] if len(ends) else first])
        return pa.ListArray.from_arrays(pa.array(np.append(first, ends) - first, pa.int32()), labels)
    return _names(file[NAMED[name]], file[name][rows]) if name in NAMED else pa.array(file[name][rows])


def _names(names: h5py.Dataset, codes: np.ndarray) -> pa.Array:
    """The names behind `codes`; numbers were given in the order of the rows, so that those of neighbours lie together."""
    if not len(codes):
        return pa.array([], pa.string())
    first = int(codes.min())
    return pa.array([name.decode() for name in names[first : int(codes.max()) + 1]], pa.string()).take(pa.array(codes - first))


# Writing


def write(path: Path, rows: RowFormat, num_rows: int, groups: Iterable[tuple[int, pa.Table]], *, manifest: bytes, compress: bool) -> None:
    """Write `num_rows` rows from tables of one row group each, with the number of the shard that a Parquet copy has it in.

    The same rows give the same bytes.
    """
    h5 = _h5py(path)
    with _Sink(path, "w+") as sink:
        with h5.File(sink, "w", libver=("v110", "v110"), rdcc_nbytes=CACHE_BYTES, track_order=False) as file:
            file.attrs.update({"format": FORMAT, "format_version": FORMAT_VERSION})
            writer = _Writer(file, rows, num_rows, compress=compress)
            for shard, table in groups:
                writer.append(shard, table)
                if sink.error:
                    break
            else:
                writer.finish(manifest)
        if sink.error:
            raise sink.error


class _Sink(io.FileIO):
    """A file whose first error is kept for later: HDF5 loses those of closing, and a process in which one happened ends in a crash."""

    error: OSError | None = None

    def write(self, content: memoryview) -> int:
        left = content
        try:
            while left and not self.error:
                left = left[super().write(left) :]
        except OSError as error:
            self.error = error
        return content.nbytes


class _Writer:
    """Fills the datasets of a new file from its first row to its last."""

    def __init__(self, file: h5py.File, rows: RowFormat, num_rows: int, *, compress: bool) -> None:
        self._file, self._rows, self._compress = file, rows, compress
        self._done, self._groups = 0, list[tuple[int, int]]()
        self._codes: dict[str, dict[str, int]] = {"source": {}, "record": {}, "label": {}}
        self._create("input_ids", rows.packings["input_ids"].dtype, num_rows, rows.width).attrs["id_bits"] = rows.id_bits
        self._create("start", np.dtype("<i8"), num_rows)
        for name in ("length", *NAMED):
            self._create(name, np.dtype("<i4"), num_rows)
        if rows.weights:
            self._create("weights", WEIGHT, num_rows, rows.width)
        if rows.labels:
            self._create("label_ends", np.dtype("<i8"), num_rows)
            self._create("label", np.dtype("<i4"), 0)

    def _create(self, name: str, dtype: np.dtype, *shape: int) -> h5py.Dataset:
        """A dataset in chunks of whole rows, to which rows can be added."""
        chunk_rows = max(1, CHUNK_BYTES // (dtype.itemsize * int(np.prod(shape[1:]))))
        return self._file.create_dataset(
            name, shape, dtype, chunks=(min(chunk_rows, shape[0] or chunk_rows), *shape[1:]), maxshape=(None, *shape[1:]), fletcher32=True,
            shuffle=self._compress, compression="gzip" if self._compress else None, compression_opts=GZIP_LEVEL if self._compress else None,
        )

    def append(self, shard: int, table: pa.Table) -> None:
        """The next row group."""
        at = slice(self._done, self._done + table.num_rows)
        for name, packing in self._rows.packings.items():
            self._file[name][at] = packing.unpack(table[name])
        for name in ("start", "length"):
            self._file[name][at] = table[name].to_numpy()
        for name in NAMED:
            self._file[name][at] = self._encode(name, table[name])
        if self._rows.labels:
            self._append_labels(at, table["labels"].combine_chunks())
        self._done = at.stop
        self._groups.append((table.num_rows, shard))

    def _append_labels(self, at: slice, labels: pa.ListArray | pa.ChunkedArray) -> None:
        labels = labels if isinstance(labels, pa.ListArray) else pa.concat_arrays(labels.chunks)
        codes, stored = self._encode("label", labels.flatten()), self._file["label"]
        before = stored.shape[0]
        self._file["label_ends"][at] = before + np.cumsum(labels.value_lengths().to_numpy())
        stored.resize(before + len(codes), axis=0)
        stored[before:] = codes

    def _encode(self, name: str, values: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """The numbers of names, int32; a new name gets the next one."""
        known = self._codes[name]
        encoded = (values if isinstance(values, pa.Array) else pa.concat_arrays(values.chunks)).dictionary_encode()
        codes = [known.setdefault(value, len(known)) for value in encoded.dictionary.to_pylist()]
        return np.array(codes, np.int32)[encoded.indices.to_numpy()]

    def finish(self, manifest: bytes) -> None:
        """What is known only behind the last row."""
        tables = NAMED | ({"label": "label_names"} if self._rows.labels else {})
        for column, name in tables.items():
            names = [value.encode() for value in self._codes[column]]
            dtype = _h5py(Path(self._file.filename)).string_dtype("utf-8", max([1, *map(len, names)]))
            self._create(name, dtype, len(names))[:] = np.array(names, dtype)
        self._create("row_groups", np.dtype("<i8"), len(self._groups), 2)[:] = np.array(self._groups).reshape(-1, 2)
        self._create("manifest", np.dtype(np.uint8), len(manifest))[:] = np.frombuffer(manifest, np.uint8)
