"""Whose output folder is this: a finished run's, an interrupted one's to go on with, or another run's? Runs on the driver."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

from ..config.tree import Config
from ..errors import ConfigError
from ..files import atomic_write, naming
from . import inputs
from .manifest import MANIFEST, SCHEMA_VERSION, SPLITS, TOKENIZER, Json, Manifest, canonical_json, read_manifest
from .scratch import SCRATCH
from .shard_index import INDEX
from .storage import Location, Url, is_folder, names_in, remove_folder, size

IDENTITY = "run.json"
SECTIONS = ("preprocessing", "tokenization", "output")
FREE = ("preprocessing.input_path", "output.path", "output.scratch_path", *(f"preprocessing.{section}.path" for section in inputs.SECTIONS))
"""Settings that do not make another run: the inputs are known by their names and checksums."""


def sections(cfg: Config) -> Json:
    """The settings that shape the output, as plain JSON values."""
    return json.loads(json.dumps({name: asdict(getattr(cfg, name)) for name in SECTIONS}))


def identity(config: Json, tokenizer: Json, checksums: Mapping[str, str]) -> dict[str, object]:
    """All that decides the output's bytes: dotted setting, or `input NAME` -> value."""
    settings = {key: value for key, value in _leaves(config) if key not in FREE}
    inputs = {f"input {source}": sha256 for source, sha256 in checksums.items()}
    return {"schema version": SCHEMA_VERSION} | settings | {f"tokenizer {key}": value for key, value in tokenizer.items()} | inputs


def _leaves(tree: Json, above: str = "") -> Iterator[tuple[str, object]]:
    """Dotted key and value of every leaf."""
    for key, value in tree.items():
        yield from _leaves(value, f"{above}{key}.") if isinstance(value, dict) else [(above + key, value)]


def claim(output: Path, destination: Location, wanted: Mapping[str, object]) -> Manifest | None:
    """Make `destination` the output of this run, which works in `output`; its manifest if the run was finished before.

    ConfigError, naming what differs, when the folder is another run's, and when it holds something else.
    """
    manifest = refuse_other_run(output, destination, wanted)
    if manifest:
        shutil.rmtree(output if isinstance(destination, Url) else output / SCRATCH, ignore_errors=True)
        return manifest
    if not (output / SCRATCH / IDENTITY).exists():  # killed before it was written, or while it went
        shutil.rmtree(output / SCRATCH, ignore_errors=True)
    for half_written in hidden_files(output):
        half_written.unlink(missing_ok=True)  # a worker of the run that failed may not have ended yet, and removes its own
    with naming(output / SCRATCH / IDENTITY):
        (output / SCRATCH).mkdir(parents=True, exist_ok=True)
        atomic_write(output / SCRATCH / IDENTITY, canonical_json(wanted))
    return None


def hidden_files(output: Path) -> list[Path]:
    """What a killed process was writing (see `files.unfinished_name`): in the output folder itself, and below the scratch folder."""
    scratch = output / SCRATCH
    written = (MANIFEST, INDEX, *(f"{split}.h5" for split in SPLITS))
    half_written = [path for name in written for path in output.glob(f".{name}.[0-9]*")]
    return [*half_written, *scratch.rglob(".*"), *scratch.glob("*.parquet.*")]


def refuse_other_run(output: Path, destination: Location, wanted: Mapping[str, object]) -> Manifest | None:
    """The check of `claim` alone: nothing is written."""
    if size(destination / MANIFEST) is not None:
        manifest = read_manifest(destination)
        found = identity(manifest.config, manifest.tokenizer, input_checksums(manifest))
        _refuse_difference(destination, found, wanted)
        return manifest
    if (output / SCRATCH / IDENTITY).exists():
        _refuse_difference(destination, json.loads((output / SCRATCH / IDENTITY).read_text()), wanted)
    elif is_folder(destination) and (names := {*names_in(destination)} - {SCRATCH, *(path.name for path in hidden_files(output))}):
        raise ConfigError(
            f"output.path: {destination} holds {', '.join(sorted(names)[:5])}, which no preprocessing run wrote; name a new or empty folder"
        )
    return None


def input_checksums(manifest: Manifest) -> dict[str, str]:
    """Source -> SHA-256 of the inputs of a finished run."""
    return {item.path: item.sha256 for item in manifest.inputs}


def _refuse_difference(output: Location, found: Mapping[str, object], wanted: Mapping[str, object]) -> None:
    keys = [key for key in sorted(found.keys() | wanted.keys()) if found.get(key) != wanted.get(key)]
    if keys:
        shown = [f"{key}: {_value(found, key)} there, {_value(wanted, key)} here" for key in keys[:10]]
        raise ConfigError(
            f"output.path: {output} is the output folder of another run; name another folder, remove this one, or use its settings",
            *shown, *([f"and {len(keys) - 10} more"] if len(keys) > 10 else []),
        )


def _value(settings: Mapping[str, object], key: str) -> str:
    """How a setting or a file's checksum is shown."""
    if key not in settings:
        return "absent"
    return f"checksum {str(settings[key])[:12]}" if key.startswith("input ") else json.dumps(settings[key])


def discard(output: Path, destination: Location) -> None:
    """Remove what an unfinished run wrote, so that corrected settings or inputs may use the folder."""
    (output / SCRATCH / IDENTITY).unlink(missing_ok=True)  # first: the scratch folder of a run that has none is never gone on with
    if isinstance(destination, Url):
        remove_folder(destination)
    for name in SPLITS:
        shutil.rmtree(output / name, ignore_errors=True)
    for leftover in (output / TOKENIZER, output / INDEX, *output.glob("*.h5"), *hidden_files(output)):
        leftover.unlink(missing_ok=True)
    shutil.rmtree(output / SCRATCH, ignore_errors=True)  # last: while it is there, the rest is known to be a run's
