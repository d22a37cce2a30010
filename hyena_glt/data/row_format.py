"""The columns of a stored row, and the packing of its ids and weights. Needs neither Ray nor torch.

Ids and weights are fixed-size binary, not lists: Parquet stores a list of bytes as 32-bit numbers with levels of their own, which is
several times slower to write and to read. Up to 16 ids (bases) go two to a byte: half as much for zstd, and fewer bytes behind it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

WEIGHT = np.dtype("<f2")
"""Weights of tokens are half precision: three digits, two bytes."""
NIBBLE = 4


def id_bits(num_ids: int) -> int:
    """Bits that one of so many ids takes in Parquet: 4, 8 or 16."""
    return NIBBLE if num_ids <= 16 else 8 if num_ids <= 256 else 16


@dataclass(frozen=True, slots=True)
class Packing:
    """How the `width` values of a row, in arrays of `dtype`, become one binary value: little-endian, or two to a byte."""

    width: int
    dtype: np.dtype
    bits: int

    @property
    def num_bytes(self) -> int:
        """Of a row."""
        return -(-self.width * self.bits // 8)

    def __str__(self) -> str:
        return f"{self.width} {self.dtype.name}, " + ("two a byte, the first in its low bits" if self.bits == NIBBLE else "little-endian")

    def pack(self, values: np.ndarray) -> pa.FixedSizeBinaryArray:
        """[rows, width] to one binary value a row."""
        packed = _pack_pairs(values) if self.bits == NIBBLE else np.ascontiguousarray(values, self.dtype.newbyteorder("<"))
        return pa.FixedSizeBinaryArray.from_buffers(pa.binary(self.num_bytes), len(values), [None, pa.py_buffer(packed)])

    def unpack(self, column: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """Inverse of `pack`: [rows, width], to be read only; a view where values take whole bytes. ValueError for rows of another size."""
        array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        if isinstance(array, pa.ChunkedArray):  # an empty column has no chunk to combine
            array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], column.type)
        found, rows = array.type.byte_width, len(array)
        if found != self.num_bytes:
            raise ValueError(f"rows of {found:,} bytes, wanted {self.num_bytes:,} for {self}")
        stored = np.frombuffer(array.buffers()[1], np.uint8, rows * found, array.offset * found)
        if self.bits == NIBBLE:
            return _unpack_pairs(stored).reshape(rows, 2 * found)[:, : self.width]
        return stored.view(self.dtype.newbyteorder("<")).reshape(rows, self.width)


def _pack_pairs(values: np.ndarray) -> np.ndarray:
    """uint8 [rows, width] to uint8 [rows, bytes], an odd width filled up with 0; ValueError for a value that 4 bits do not hold."""
    if values.size and values.max() >= 1 << NIBBLE:
        raise ValueError(f"id {values.max()} does not fit into {NIBBLE} bits")
    even = np.ascontiguousarray(np.pad(values, ((0, 0), (0, 1))) if values.shape[1] % 2 else values, np.uint8)
    pairs = even.view("<u2")
    return (pairs | pairs >> NIBBLE).astype(np.uint8)


def _unpack_pairs(packed: np.ndarray) -> np.ndarray:
    """uint8 [bytes] to uint8 [2 * bytes]."""
    pairs = packed.astype("<u2")
    pairs |= pairs << NIBBLE
    pairs &= 0x0F0F
    return pairs.view(np.uint8)


@dataclass(frozen=True, kw_only=True, slots=True)
class RowFormat:
    """What a stored row holds: `width` ids of `id_bits` bits padded with PAD, and what was asked for beside them."""

    width: int
    id_bits: int
    weights: bool = False
    """Whether each token has a weight in the loss."""
    labels: bool = False
    """Whether each row has labels, from annotations."""

    @property
    def packings(self) -> dict[str, Packing]:
        """Of `input_ids`, and of `weights` where rows have them."""
        ids = Packing(self.width, np.dtype(np.uint16 if self.id_bits == 16 else np.uint8), self.id_bits)
        return {"input_ids": ids} | ({"weights": Packing(self.width, WEIGHT, 16)} if self.weights else {})

    @property
    def schema(self) -> pa.Schema:
        """Columns: ids, the file, the record, the window's first base (0-based), its bases; then `weights` and `labels`."""
        packed = {name: pa.binary(packing.num_bytes) for name, packing in self.packings.items()}
        columns = {
            "input_ids": packed.pop("input_ids"),
            "source": pa.string(), "record": pa.string(), "start": pa.int64(), "length": pa.int32(),
        }
        columns |= packed
        columns |= {"labels": pa.list_(pa.field("element", pa.string(), nullable=False))} if self.labels else {}
        metadata = {name: str(packing) for name, packing in self.packings.items()}
        return pa.schema([pa.field(name, kind, nullable=False) for name, kind in columns.items()], metadata)
