"""Turn the shards of each split into one HDF5 file, one Ray task a split (runs on the workers)."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import ray
import ray.data

from ..files import atomic_write, naming
from .convert import write_split
from .job import Job
from .manifest import Manifest, SplitManifest, canonical_json
from .scratch import SCRATCH
from .shard_index import Shard, Shards
from .stages import Row, results, task_rows
from .storage import Url, size, upload
from .verify import file_sha256


def converted_splits(job: Job, manifest: Manifest) -> dict[str, SplitManifest]:
    """The splits of `manifest`, whose shards lie in `job.shards`, as HDF5 files in the destination."""
    tasks = task_rows({"split": split} for split in manifest.splits)
    for _ in results(converted(tasks, ray.put(job), ray.put(manifest))):
        pass
    return {name: replace(split, shards=Shards.of([_read(_record(job.output, name))])) for name, split in manifest.splits.items()}


def converted(splits: ray.data.Dataset, job: ray.ObjectRef, manifest: ray.ObjectRef) -> ray.data.Dataset:
    """Add the stage to the plan: one row a split in, the same row out when its file stands."""
    return splits.map(convert_split, fn_kwargs={"job": job, "manifest": manifest})


def convert_split(row: Row, *, job: ray.ObjectRef, manifest: ray.ObjectRef) -> Row:
    """Write the file of one split, unless it stands already."""
    shared, split = ray.get(job), str(row["split"])
    record = _record(shared.output, split)
    if not (record.exists() and _still_there(shared, _read(record))):
        (shard,) = write_split(shared.shards, ray.get(manifest), split, shared.output, "hdf5").shards
        if isinstance(shared.destination, Url):
            upload(shared.output / shard.path, shared.destination / shard.path)
            (shared.output / shard.path).unlink()
        with naming(record):
            record.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(record, canonical_json(asdict(shard)))
    return row


def _still_there(job: Job, shard: Shard) -> bool:
    if isinstance(job.destination, Url):
        return size(job.destination / shard.path) == shard.size
    return (job.output / shard.path).is_file() and file_sha256(job.output / shard.path) == shard.sha256


def _read(record: Path) -> Shard:
    return Shard.from_json(json.loads(record.read_text()))


def _record(output: Path, split: str) -> Path:
    """What was written for a split."""
    return output / SCRATCH / "converted" / f"{split}.json"
