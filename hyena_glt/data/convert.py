"""Copy the rows of a preprocessed split into the other format, Parquet or HDF5; a split is one task. Needs neither Ray nor torch.

Row groups stay as they are, so that training on either format sees the same batches, and a folder converted there and back is the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from ..errors import DataError
from ..files import appearing
from ..tokenizers.base import PAD
from . import hdf5, parquet
from .manifest import Manifest, SplitManifest, encode_manifest
from .readers import read_rows, row_group_sizes
from .row_format import RowFormat
from .shard_index import Shard, Shards
from .storage import Location
from .verify import file_sha256

Format = Literal["parquet", "hdf5"]
RowGroups = Iterator[tuple[int, pa.Table]]
"""Number of the Parquet shard that a row group lies in, or would lie in, and its rows."""


def stored_as(manifest: Manifest, wanted: Format, splits: dict[str, SplitManifest]) -> Manifest:
    """The manifest of the same rows in another format, in the shards of `splits`."""
    output = {**manifest.config["output"], "format": wanted}
    return replace(manifest, config={**manifest.config, "output": output}, splits=splits)


def write_split(folder: Location, manifest: Manifest, split: str, target: Path, wanted: Format) -> SplitManifest:
    """Copy one split of `folder`, whose manifest is given, into `target`, compressed or not as the manifest's settings say.

    Each file appears whole, under its name: `<split>.h5`, or `<split>/part-*.parquet`. The same rows give the same bytes.
    DataError for a damaged shard, and for rows that are not as many as the manifest says.
    """
    rows, compress = manifest.row_format, bool(manifest.config["output"]["compress"])
    groups, summed = _row_groups(folder, manifest.splits[split].shards), manifest.splits[split]
    if wanted == "hdf5":
        described = encode_manifest(stored_as(manifest, wanted, {split: summed}))
        shards = [_write_hdf5(target, split, groups, rows, summed.rows, described, compress=compress)]
    else:
        shards = [
            _write_parquet(target, f"{split}/part-{number:05d}.parquet", (table for _, table in of_shard), rows, compress=compress)
            for number, of_shard in groupby(groups, lambda group: group[0])
        ]
    found = sum(shard.rows for shard in shards), sum(shard.tokens for shard in shards)
    if found != (summed.rows, summed.tokens):
        raise DataError(
            f"{folder}: its {split} split has {found[0]:,} rows and {found[1]:,} tokens, the manifest says {summed.rows:,} and "
            f"{summed.tokens:,}; preprocess again into a new folder"
        )
    return replace(summed, shards=Shards.of(shards))


def _row_groups(folder: Location, shards: Shards) -> RowGroups:
    for number, shard in enumerate(shards):
        path = folder / shard.path
        sizes = row_group_sizes(folder, shard)
        numbers = hdf5.row_groups(path)[:, 1].tolist() if hdf5.is_hdf5(path) else [number] * len(sizes)
        for index, (of_shard, num_rows) in enumerate(zip(numbers, sizes, strict=True)):
            yield of_shard, read_rows(path, index, num_rows)


def _write_hdf5(
    target: Path, split: str, groups: RowGroups, rows: RowFormat, num_rows: int, manifest: bytes, *, compress: bool
) -> Shard:
    path, tokens, sizes = target / f"{split}.h5", 0, list[int]()

    def counted() -> RowGroups:
        nonlocal tokens
        for number, table in groups:
            tokens += _num_tokens(table, rows)
            sizes.append(table.num_rows)
            yield number, table

    with appearing(path) as unfinished:
        hdf5.write(unfinished, rows, num_rows, counted(), manifest=manifest, compress=compress)
    return _described(target, path.name, tokens, sizes)


def _write_parquet(target: Path, name: str, tables: Iterator[pa.Table], rows: RowFormat, *, compress: bool) -> Shard:
    tokens, sizes = 0, list[int]()
    with appearing(target / name) as unfinished, parquet.writer(unfinished, rows.schema, compress=compress) as writer:
        for table in tables:
            writer.write_table(table, row_group_size=table.num_rows)
            tokens += _num_tokens(table, rows)
            sizes.append(table.num_rows)
    return _described(target, name, tokens, sizes)


def _described(target: Path, name: str, tokens: int, sizes: list[int]) -> Shard:
    """A file that was written, with its row groups' sizes."""
    path = target / name
    return Shard(
        path=name, rows=sum(sizes), tokens=tokens, size=path.stat().st_size, sha256=file_sha256(path), row_groups=tuple(sizes)
    )


def _num_tokens(table: pa.Table, rows: RowFormat) -> int:
    return int(np.count_nonzero(rows.packings["input_ids"].unpack(table["input_ids"]) != PAD))
