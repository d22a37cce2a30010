"""The format of a preprocessed folder: its files, the schema of its rows, its manifest. Needs neither Ray nor torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..files import atomic_write

SCHEMA_VERSION = 2
SPLITS = ("train", "val", "test")
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
SCRATCH = ".preprocess"
"""Where an unfinished run keeps its intermediate files, inside the output folder."""

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
    """One Parquet file; `path` is relative to the folder, `tokens` leaves out padding, `size` is in bytes."""

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
    columns: tuple[str, ...]
    """The columns of a row, in order."""
    inputs: tuple[InputFile, ...]
    splits: Mapping[str, SplitManifest]
    dropped: Dropped


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
    if version != SCHEMA_VERSION:
        raise ValueError(f"it has schema version {version}, and this version of hyena-glt reads {SCHEMA_VERSION}")
    columns, inputs = tuple(fields.pop("columns")), tuple(InputFile(**item) for item in fields.pop("inputs"))
    stored = fields.pop("splits")
    splits = {name: _split(stored[name]) for name in SPLITS if name in stored}
    return Manifest(**fields, columns=columns, inputs=inputs, splits=splits)


def _split(fields: dict[str, Any]) -> SplitManifest:
    return SplitManifest(**fields | {"shards": tuple(Shard(**shard) for shard in fields["shards"])})


def read_manifest(folder: str | Path) -> Manifest:
    """The manifest of a preprocessed folder; DataError when it is missing or any byte of it has changed."""
    path = Path(folder) / MANIFEST
    try:
        return decode_manifest(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); {_state(Path(folder))}") from error
    except ValueError as error:
        raise DataError(f"{path}: is damaged, {error}; restore it, or preprocess again into a new folder") from error


def write_manifest(folder: str | Path, manifest: Manifest) -> None:
    """Write manifest.json in one step: a reader sees none or the whole."""
    atomic_write(Path(folder) / MANIFEST, encode_manifest(manifest))


def output_around(path: str | Path) -> tuple[Path, str | None]:
    """(folder, split) if `path` is a split folder of a preprocessing output, else `path` itself and no split. Nothing is checked."""
    folder = Path(path)
    if folder.name in SPLITS and (folder.parent / MANIFEST).is_file():
        return folder.parent, folder.name
    return folder, None


def locate_split(path: str | Path, split: str) -> tuple[Path, str]:
    """(folder, split) for a preprocessing output, or for one of its split folders, whose own name then counts.

    DataError, with what was found instead, for anything else.
    """
    folder, named = output_around(path)
    split = named or split
    if not (folder / MANIFEST).is_file():
        raise DataError(f"{folder} is neither a preprocessing output nor one of its split folders: {_state(folder)}")
    if not (folder / split).is_dir():
        found = [name for name in SPLITS if (folder / name).is_dir()]
        raise DataError(f"{folder} has no {split} split, only {', '.join(found)}; preprocess again with preprocessing.split.{split}")
    return folder, split


def _state(folder: Path) -> str:
    """What stands where a preprocessed folder was expected, and what to do."""
    if not folder.exists():
        return "nothing is there; check the path, or make it with `hyena-glt preprocess`"
    if not folder.is_dir():
        return "it is a file; name the folder that `hyena-glt preprocess` wrote"
    if (folder / SCRATCH).is_dir():
        return "a preprocessing run has not finished there; the same `hyena-glt preprocess` command goes on with it"
    found = sorted(item.name for item in folder.iterdir())
    return f"it holds {', '.join(found[:5]) or 'nothing'}{', ...' if len(found) > 5 else ''}; make it with `hyena-glt preprocess`"
