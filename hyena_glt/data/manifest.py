"""The format of a preprocessed folder: its files, the schema of its rows, its manifest. Needs neither Ray nor torch."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ..errors import DataError
from ..tokenizers.base import NUM_SPECIAL
from .hdf5 import is_hdf5
from .readers import embedded_manifest
from .row_format import RowFormat, id_bits
from .scratch import SCRATCH
from .storage import Location, is_folder, location, names_in, read_bytes, size, write_bytes

SCHEMA_VERSION, WHOLE_BYTES_VERSION = 3, 2
"""What is written; and what is read too: up to it every id took a byte or two."""
SPLITS = ("train", "val", "test")
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"

Json = Mapping[str, Any]
Dropped = dict[str, dict[str, int]]
"""What was left out, by reason: `windows` or `records`, and their `bases`."""


def count_dropped(dropped: Dropped, reason: str, **counts: int) -> None:
    """Add to the counts of one reason; nothing where all are 0."""
    if any(counts.values()):
        of_reason = dropped.setdefault(reason, {})
        of_reason.update({key: of_reason.get(key, 0) + count for key, count in counts.items()})


@dataclass(frozen=True, kw_only=True, slots=True)
class InputFile:
    """One FASTA file that was read; `path` is the name that its rows carry, `bases` counts residues for protein."""

    path: str
    size: int
    sha256: str
    records: int
    bases: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """One Parquet or HDF5 file; `path` is relative to the folder, `tokens` leaves out padding, `size` is in bytes."""

    path: str
    rows: int
    tokens: int
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitManifest:
    """The shards of one split in the order of their rows, and their sums; `bases` are those under a token."""

    rows: int
    tokens: int
    bases: int
    shards: tuple[Shard, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What a folder holds and how it was made."""

    config: Json
    tokenizer: Json
    tokenizer_sha256: str
    width: int
    id_bits: int
    """Bits that an id takes in Parquet: see `row_format`."""
    columns: tuple[str, ...]
    """The columns of a row, in order."""
    inputs: tuple[InputFile, ...]
    splits: Mapping[str, SplitManifest]
    dropped: Dropped
    variants: Mapping[str, int] = field(default_factory=dict)
    """What became of the variants that haplotypes were built with, counted."""
    leakage: Mapping[str, Any] = field(default_factory=dict)
    """Split -> how much of it is found in train, where that was measured (`similarity.leakage.Leakage`)."""

    @property
    def row_format(self) -> RowFormat:
        """What the rows hold."""
        return RowFormat(width=self.width, id_bits=self.id_bits, weights="weights" in self.columns, labels="labels" in self.columns)


def canonical_json(value: Json) -> bytes:
    """The one serialisation of `value`, so that any changed byte of the file shows."""
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


def encode_manifest(manifest: Manifest) -> bytes:
    """The bytes of manifest.json; `checksum` is the SHA-256 of the canonical JSON without it."""
    fields = {"schema_version": SCHEMA_VERSION, **asdict(manifest)}
    return canonical_json(fields | {"checksum": hashlib.sha256(canonical_json(fields)).hexdigest()})


def checksum(manifest: Manifest) -> str:
    """SHA-256 of manifest.json: two folders that have it in common hold the same rows, made in the same way."""
    return hashlib.sha256(encode_manifest(manifest)).hexdigest()


def decode_manifest(content: bytes) -> Manifest:
    """Inverse of `encode_manifest`; ValueError, with what is wrong, for bytes that it cannot have written."""
    try:
        fields = json.loads(content)
    except ValueError as error:
        raise ValueError(f"it is not JSON ({error})") from error
    if not isinstance(fields, dict) or canonical_json(fields) != content:
        raise ValueError("its bytes are not those of a written manifest")
    written = fields.pop("checksum", None)
    if written != hashlib.sha256(canonical_json(fields)).hexdigest():
        raise ValueError("its content does not fit its checksum")
    version = fields.pop("schema_version", None)
    if version == WHOLE_BYTES_VERSION:
        fields["id_bits"] = max(8, id_bits(fields["tokenizer"]["vocab_size"] + NUM_SPECIAL))
    elif version != SCHEMA_VERSION:
        raise ValueError(
            f"it has schema version {version}, and this version of hyena-glt reads {WHOLE_BYTES_VERSION} and {SCHEMA_VERSION}"
        )
    columns, inputs = tuple(fields.pop("columns")), tuple(InputFile(**item) for item in fields.pop("inputs"))
    stored = fields.pop("splits")
    splits = {name: _split(stored[name]) for name in SPLITS if name in stored}
    return Manifest(**fields, columns=columns, inputs=inputs, splits=splits)


def _split(fields: dict[str, Any]) -> SplitManifest:
    return SplitManifest(**fields | {"shards": tuple(Shard(**shard) for shard in fields["shards"])})


def read_manifest(folder: str | Location) -> Manifest:
    """The manifest of a preprocessed folder, or of an HDF5 file; DataError when it is missing or any byte of it has changed."""
    place = location(folder)
    path = place if is_hdf5(place) else place / MANIFEST
    try:
        return _manifest_within(place) if is_hdf5(place) else decode_manifest(read_bytes(path))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); {_state(place)}") from error
    except ValueError as error:
        raise DataError(f"{path}: is damaged, {error}; restore it, or preprocess again into a new folder") from error


def _manifest_within(path: Location) -> Manifest:
    """The manifest inside an HDF5 file that stands for itself: its own only shard, whose checksum is not known."""
    found = size(path)
    if found is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    manifest = decode_manifest(embedded_manifest(path))
    splits = {
        name: replace(split, shards=(Shard(path=".", rows=split.rows, tokens=split.tokens, size=found, sha256=""),))
        for name, split in manifest.splits.items()
    }
    return replace(manifest, splits=splits)


def write_manifest(folder: str | Location, manifest: Manifest) -> None:
    """Write manifest.json in one step: a reader sees none or the whole."""
    write_bytes(location(folder) / MANIFEST, encode_manifest(manifest))


def output_around(path: str | Location) -> tuple[Location, str | None]:
    """(folder, split) if `path` is a split folder or an HDF5 file of a preprocessing output, else `path` itself and no split.

    An HDF5 file without a manifest beside it stands for itself. Nothing is checked.
    """
    place = location(path)
    split = place.stem if is_hdf5(place) else place.name
    if split in SPLITS and size(place.parent / MANIFEST) is not None and not (is_hdf5(place) and is_folder(place.parent / split)):
        return place.parent, split
    return place, None


def locate_split(path: str | Location, split: str) -> tuple[Location, str]:
    """(folder, split) for a preprocessing output, or for one of its split folders or HDF5 files, whose own name then counts.

    An HDF5 file that stands for itself is its own folder. DataError, with what was found instead, for anything else.
    """
    folder, named = output_around(path)
    split = named or split
    if is_hdf5(folder):
        return folder, next(iter(read_manifest(folder).splits))
    if size(folder / MANIFEST) is None:
        raise DataError(f"{folder} is neither a preprocessing output nor one of its split folders: {_state(folder)}")
    found = [name for name in SPLITS if is_folder(folder / name) or size(folder / f"{name}.h5") is not None]
    if split not in found:
        raise DataError(f"{folder} has no {split} split, only {', '.join(found)}; preprocess again with preprocessing.split.{split}")
    return folder, split


def _state(folder: Location) -> str:
    """What stands where a preprocessed folder was expected, and what to do."""
    if not is_folder(folder):
        if size(folder) is not None:
            return "it is a file; name the folder that `hyena-glt preprocess` wrote"
        return "nothing is there; check the path, or make it with `hyena-glt preprocess`"
    found = names_in(folder)
    if SCRATCH in found:
        return "a preprocessing run has not finished there; the same `hyena-glt preprocess` command goes on with it"
    return f"it holds {', '.join(found[:5]) or 'nothing'}{', ...' if len(found) > 5 else ''}; make it with `hyena-glt preprocess`"
