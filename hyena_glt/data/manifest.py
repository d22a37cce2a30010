"""The format of a preprocessed folder: its files, the schema of its rows, its manifest. Needs neither Ray nor torch."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ..errors import DataError
from ..tokenizers.base import NUM_SPECIAL
from .hdf5 import is_hdf5
from .readers import embedded_manifest
from .row_format import RowFormat, id_bits
from .scratch import SCRATCH
from .shard_index import INDEX, Shard, Shards, encode_index, read_index
from .storage import Location, is_folder, location, names_in, read_bytes, size, write_bytes

SCHEMA_VERSION, NO_INDEX_VERSION, WHOLE_BYTES_VERSION = 4, 3, 2
"""What is written; and what is read too: up to the second the manifest lists the shards, up to the third every id took a byte or two."""
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
class SplitManifest:
    """The shards of one split in the order of their rows, and their sums; `bases` are those under a token."""

    rows: int
    tokens: int
    bases: int
    shards: Shards


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
    checksum: str = field(default="", compare=False)
    """SHA-256 of the bytes that this was read from: two folders that have it in common hold the same rows, made in the same way."""

    @property
    def row_format(self) -> RowFormat:
        """What the rows hold."""
        return RowFormat(width=self.width, id_bits=self.id_bits, weights="weights" in self.columns, labels="labels" in self.columns)


def canonical_json(value: Json) -> bytes:
    """The one serialisation of `value`, so that any changed byte of the file shows."""
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


def encode_manifest(manifest: Manifest, index_sha256: str | None = None) -> bytes:
    """The bytes of manifest.json, where the shards stand in an index; of the manifest inside an HDF5 file, which is its own shard."""
    fields = {
        **asdict(replace(manifest, splits={})), "schema_version": SCHEMA_VERSION, "index_sha256": index_sha256,
        "splits": {name: {"rows": split.rows, "tokens": split.tokens, "bases": split.bases} for name, split in manifest.splits.items()},
    }
    del fields["checksum"]
    return _signed(canonical_json(fields))


CHECKSUM = re.compile(rb'{\n "checksum": "(.*)",\n')


def _signed(content: bytes) -> bytes:
    """Canonical JSON with its own SHA-256, whose key is the first of all."""
    return content.replace(b"{\n", b'{\n "checksum": "%b",\n' % hashlib.sha256(content).hexdigest().encode(), 1)


def _unsigned(content: bytes) -> bytes:
    """Inverse of `_signed`, without encoding anything again; ValueError for bytes that it cannot have written."""
    signature = CHECKSUM.match(content)
    if not signature:
        raise ValueError("its bytes are not those of a written manifest")
    unsigned = b"{\n" + content[signature.end() :]
    if hashlib.sha256(unsigned).hexdigest().encode() != signature[1]:
        raise ValueError("its content does not fit its checksum")
    return unsigned


def decode_manifest(content: bytes, folder: Location) -> Manifest:
    """Inverse of `encode_manifest`, with the shards in the index of `folder`, where there is one.

    Raises ValueError, with what is wrong, for bytes that it cannot have written, DataError for an index that is missing or damaged.
    """
    fields, checksum = json.loads(_unsigned(content)), hashlib.sha256(content).hexdigest()
    version = fields.pop("schema_version")
    if version == WHOLE_BYTES_VERSION:
        fields["id_bits"] = max(8, id_bits(fields["tokenizer"]["vocab_size"] + NUM_SPECIAL))
    elif version not in (NO_INDEX_VERSION, SCHEMA_VERSION):
        raise ValueError(
            f"it has schema version {version}, and this version of hyena-glt reads {WHOLE_BYTES_VERSION} to {SCHEMA_VERSION}"
        )
    stored, index_sha256 = fields.pop("splits"), fields.pop("index_sha256", None)
    if version == SCHEMA_VERSION:
        shards = read_index(folder, index_sha256) if index_sha256 else {}
    else:
        shards = {name: Shards.of([Shard.from_json(shard) for shard in split.pop("shards")]) for name, split in stored.items()}
    columns, inputs = tuple(fields.pop("columns")), tuple(InputFile(**item) for item in fields.pop("inputs"))
    splits = {name: SplitManifest(**stored[name], shards=shards.get(name, Shards.of(()))) for name in SPLITS if name in stored}
    return Manifest(**fields, columns=columns, inputs=inputs, splits=splits, checksum=checksum)


def read_manifest(folder: str | Location) -> Manifest:
    """The manifest of a preprocessed folder, or of an HDF5 file; DataError when it is missing or any byte of it has changed."""
    place = location(folder)
    path = place if is_hdf5(place) else place / MANIFEST
    try:
        return _manifest_within(place) if is_hdf5(place) else decode_manifest(read_bytes(path), place)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); {_state(place)}") from error
    except ValueError as error:
        raise DataError(f"{path}: is damaged, {error}; restore it, or preprocess again into a new folder") from error


def _manifest_within(path: Location) -> Manifest:
    """The manifest inside an HDF5 file that stands for itself: its own only shard, whose checksum is not known."""
    found = size(path)
    if found is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    manifest = decode_manifest(embedded_manifest(path), path)
    own = {
        name: Shard(path=".", rows=split.rows, tokens=split.tokens, size=found, sha256="", row_groups=None)
        for name, split in manifest.splits.items()
    }
    return replace(manifest, splits={name: replace(split, shards=Shards.of([own[name]])) for name, split in manifest.splits.items()})


def write_manifest(folder: str | Location, manifest: Manifest) -> None:
    """Write the index of the shards, then manifest.json in one step: a reader sees none or the whole."""
    index = encode_index({name: split.shards for name, split in manifest.splits.items()})
    write_bytes(location(folder) / INDEX, index)
    write_bytes(location(folder) / MANIFEST, encode_manifest(manifest, hashlib.sha256(index).hexdigest()))


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
