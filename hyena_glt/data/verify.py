"""Find damage in a preprocessed folder. Needs neither Ray nor torch.

Kinds of damage that are found:
    the manifest is missing, is not the canonical JSON that was written, does not fit its own checksum or schema version;
    tokenizer.json is missing, differs from the manifest's checksum, describes another tokenizer;
    a shard is missing, or its size or SHA-256 differs from the manifest's;
    shards.parquet is missing or its SHA-256 differs from the manifest's;
    a file or folder is there that the manifest does not name;
    a shard is not readable Parquet or HDF5, or has other columns than the manifest's width and tokenizer ask for;
    rows, row groups or tokens of a shard, or the sums of a split, differ from the manifest's;
    an id is outside the vocabulary, padding stands before a token, or `length` does not fit the number of tokens.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from ..errors import DataError
from ..tokenizers import Tokenizer, load_tokenizer
from ..tokenizers.base import PAD
from .hdf5 import is_hdf5
from .manifest import MANIFEST, TOKENIZER, Manifest, SplitManifest, read_manifest
from .readers import read_rows, row_group_sizes, schema
from .row_format import RowFormat
from .shard_index import INDEX, Shard
from .storage import Location, list_files, location, open_file, read_bytes, size


def verify(folder: str | Location) -> list[str]:
    """Every damage found, a sentence each; an empty list if the folder, or the HDF5 file that stands alone, is as it was written."""
    folder = location(folder)
    try:
        manifest = read_manifest(folder)
    except DataError as error:
        return [str(error)]
    damage = [] if is_hdf5(folder) else [*_unknown_files(folder, manifest), *_tokenizer_damage(folder, manifest)]
    tokenizer = load_tokenizer(manifest.tokenizer)
    for name, split in manifest.splits.items():
        damage += _split_damage(folder, name, split, tokenizer, manifest.row_format)
    return damage


def _unknown_files(folder: Location, manifest: Manifest) -> Iterator[str]:
    shards = {folder / shard.path for split in manifest.splits.values() for shard in split.shards}
    known = shards | {path.parent for path in shards} | {folder, folder / MANIFEST, folder / INDEX, folder / TOKENIZER}
    found = folder.rglob("*") if isinstance(folder, Path) else list_files(folder)
    for path in sorted(set(found) - known):
        yield f"{path}: is not in the manifest; remove it"


def _tokenizer_damage(folder: Location, manifest: Manifest) -> Iterator[str]:
    path = folder / TOKENIZER
    problem = _file_damage(path, None, manifest.tokenizer_sha256)
    if problem:
        yield problem
    elif json.loads(read_bytes(path)) != manifest.tokenizer:
        yield f"{path}: describes another tokenizer than the manifest"


def _file_damage(path: Location, wanted: int | None, sha256: str | None) -> str | None:
    """A sentence if the file is not the one that was written; None for a checksum that was not recorded."""
    found = size(path)
    if found is None:
        return f"{path}: is missing"
    if wanted is not None and found != wanted:
        return f"{path}: has {found:,} bytes, the manifest says {wanted:,}"
    if sha256 and file_sha256(path) != sha256:
        return f"{path}: its SHA-256 is not the manifest's: its bytes have changed"
    return None


def file_sha256(path: Location) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") if isinstance(path, Path) else open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _split_damage(folder: Location, name: str, split: SplitManifest, tokenizer: Tokenizer, rows: RowFormat) -> Iterator[str]:
    whole = True
    for shard in split.shards:
        problem = _file_damage(folder / shard.path, shard.size, shard.sha256)
        problems = [problem] if problem else list(_shard_damage(folder, shard, tokenizer, rows))
        whole = whole and not problems
        yield from problems
    sums = sum(shard.rows for shard in split.shards), sum(shard.tokens for shard in split.shards)
    if whole and sums != (split.rows, split.tokens):
        wanted = f"the manifest says {split.rows:,} and {split.tokens:,}"
        yield f"{folder / name}: its shards have {sums[0]:,} rows and {sums[1]:,} tokens, {wanted}"


def _shard_damage(folder: Location, shard: Shard, tokenizer: Tokenizer, rows: RowFormat) -> Iterator[str]:
    """Damage in the rows of a shard whose bytes are those that the manifest was written for."""
    path, tokens = folder / shard.path, 0
    try:
        if not schema(path).equals(rows.schema):
            yield f"{path}: has other columns than {rows.width} ids of {rows.id_bits} bits and {', '.join(rows.schema.names[1:])}"
            return
        sizes = row_group_sizes(folder, shard)
        for group, num_rows in enumerate(sizes):
            tokens += yield from _row_group_damage(f"{path}, row group {group}", read_rows(path, group, num_rows), tokenizer, rows)
    except DataError as error:
        yield str(error)
        return
    if (sum(sizes), tokens) != (shard.rows, shard.tokens):
        yield f"{path}: has {sum(sizes):,} rows and {tokens:,} tokens, the manifest says {shard.rows:,} and {shard.tokens:,}"
    if shard.row_groups not in (None, tuple(sizes)):
        yield f"{path}: its row groups have other numbers of rows than {INDEX} says"


def _row_group_damage(where: str, table: pa.Table, tokenizer: Tokenizer, rows: RowFormat) -> Iterator[str]:
    """Yields damage in the ids [rows, width] and lengths of one row group; returns the tokens counted."""
    ids = rows.packings["input_ids"].unpack(table["input_ids"])
    filled = (ids != PAD).sum(axis=1)
    if ids.size and ids.max() >= tokenizer.num_ids:
        yield f"{where}: holds id {ids.max()}, outside the vocabulary of {tokenizer.num_ids} ids"
    if ((ids == PAD) != (np.arange(ids.shape[1]) >= filled[:, None])).any():
        yield f"{where}: has padding before a token"
    if any(tokenizer.num_tokens(length) != tokens for length, tokens in zip(table["length"].to_pylist(), filled.tolist(), strict=True)):
        yield f"{where}: has a row whose `length` does not fit its tokens"
    return int(filled.sum())
