"""Preprocessed rows from Parquet to HDF5 or back, into a new folder. Runs on the driver, without Ray."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

from hyena_glt.data.convert import Format, stored_as, write_split
from hyena_glt.data.hdf5 import is_hdf5
from hyena_glt.data.manifest import MANIFEST, TOKENIZER, Manifest, read_manifest, write_manifest
from hyena_glt.data.shard_index import Shards
from hyena_glt.data.storage import Url, location
from hyena_glt.errors import ConfigError, DataError
from hyena_glt.tokenizers import load_tokenizer

from ._progress import ProgressBar

Result = dict[str, object]


def convert(source: str, target: str) -> Result:
    """Copy a preprocessed folder, or an HDF5 file that stands for itself, to the other format; the result is plain JSON.

    `target` appears when all is written. The same call on the finished folder gives its result again; ConfigError for a folder that
    holds something else, DataError for damaged rows and for a file that cannot be read or written (a full disk).
    """
    folder, out = location(source), Path(os.path.abspath(_local(target)))
    manifest = read_manifest(folder)
    wanted: Format = "parquet" if manifest.config["output"]["format"] == "hdf5" else "hdf5"
    if not _finished_before(out, stored_as(manifest, wanted, dict(manifest.splits))):
        try:
            _write(folder, manifest, out, wanted)
        except OSError as error:
            raise DataError(f"a file could not be read or written ({error}); when that is cured, run the same command again") from error
    written = read_manifest(out)
    rows = {name: split.rows for name, split in written.splits.items()}
    num_bytes = sum(shard.size for split in written.splits.values() for shard in split.shards)
    return {"path": str(out), "format": wanted, "rows": rows, "bytes": num_bytes}


def _local(target: str) -> str:
    if isinstance(location(target), Url):
        raise ConfigError(f"convert writes local folders, got {target}; convert to one, then copy it there, manifest.json last")
    if is_hdf5(Path(target)):
        raise ConfigError(f"convert writes a folder with a file for each split, got {target}; name a folder")
    return target


def _write(source: Path | Url, manifest: Manifest, out: Path, wanted: Format) -> None:
    """Fill a folder beside `out`, manifest last, then give it the name."""
    staged = out.with_name(f".{out.name}.converting")
    shutil.rmtree(staged, ignore_errors=True)  # of a run that was stopped
    staged.mkdir(parents=True)
    progress, total = ProgressBar("rows"), sum(split.rows for split in manifest.splits.values())
    splits, done = {}, 0
    try:
        for name in manifest.splits:
            progress("converting", done, total)
            splits[name] = write_split(source, manifest, name, staged, wanted)
            done += splits[name].rows
        progress("converting", done, total)
        load_tokenizer(manifest.tokenizer).save(staged / TOKENIZER)
        write_manifest(staged, stored_as(manifest, wanted, splits))
        staged.replace(out)
    finally:
        progress.close()
        shutil.rmtree(staged, ignore_errors=True)


def _finished_before(out: Path, wanted: Manifest) -> bool:
    """Whether the folder is the result of this conversion; ConfigError if it holds anything else."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if (out / MANIFEST).is_file() and _without_shards(read_manifest(out)) == _without_shards(wanted):
        return True
    raise ConfigError(f"{out} holds something else than this conversion would write; name a new or empty folder")


def _without_shards(manifest: Manifest) -> Manifest:
    return replace(manifest, splits={name: replace(split, shards=Shards.of(())) for name, split in manifest.splits.items()})
