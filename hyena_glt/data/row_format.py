"""The columns of a stored row, and the packing of its ids and weights. Needs neither Ray nor torch.

Ids and weights are fixed-size binary, not lists: Parquet stores a list of bytes as 32-bit numbers with levels of their own, which is
several times slower to write and to read.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

WEIGHT = np.dtype("<f2")
"""Weights of tokens are half precision: three digits, two bytes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RowFormat:
    """What a stored row holds: `width` ids of `dtype` padded with PAD, and what was asked for beside them."""

    width: int
    dtype: np.dtype
    weights: bool = False
    """Whether each token has a weight in the loss."""
    labels: bool = False
    """Whether each row has labels, from annotations."""

    @property
    def schema(self) -> pa.Schema:
        """Columns: ids, the file, the record, the window's first base (0-based), its bases; then `weights` and `labels`."""
        columns = {
            "input_ids": pa.binary(self.width * self.dtype.itemsize),
            "source": pa.string(), "record": pa.string(), "start": pa.int64(), "length": pa.int32(),
        }
        columns |= {"weights": pa.binary(self.width * WEIGHT.itemsize)} if self.weights else {}
        columns |= {"labels": pa.list_(pa.field("element", pa.string(), nullable=False))} if self.labels else {}
        packing = {"input_ids": f"{self.width} {self.dtype.name}, little-endian", "weights": f"{self.width} float16, little-endian"}
        metadata = {key: text for key, text in packing.items() if key in columns}
        return pa.schema([pa.field(name, kind, nullable=False) for name, kind in columns.items()], metadata)


def pack(values: np.ndarray) -> pa.FixedSizeBinaryArray:
    """[rows, width] to one binary value a row, little-endian."""
    rows, width = values.shape
    little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(width * little.itemsize), rows, [None, pa.py_buffer(little)])


def unpack(column: pa.Array | pa.ChunkedArray, dtype: np.dtype) -> np.ndarray:
    """Inverse of `pack`: [rows, width] of `dtype`, read-only, a view where the column is in one piece."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):  # an empty column has no chunk to combine
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], column.type)
    width = array.type.byte_width // dtype.itemsize
    values = np.frombuffer(array.buffers()[1], dtype.newbyteorder("<"), len(array) * width, array.offset * array.type.byte_width)
    return values.reshape(len(array), width)
