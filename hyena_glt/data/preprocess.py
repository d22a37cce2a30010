"""From FASTA to tokenized shards: the stages in order. Runs on the driver; each stage's work runs on Ray's workers.

inputs -> checksums -> records and clean letters -> splits and windows -> repeats -> shards -> manifest
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import ray

from ..config.tree import Config
from ..errors import ConfigError, DataError
from .dedup import repeated_windows
from .index import OnProgress, index_records
from .job import Task
from .manifest import SCRATCH, SPLITS, TOKENIZER, Dropped, Manifest, SplitManifest, count_dropped, write_manifest
from .plan import DataPlan, Run, make_plan, refuse_empty_splits
from .resume import discard, sections
from .shards import Written, written
from .stages import quiet_ray_data, results, task_rows
from .verify import file_sha256


def plan_only(run: Run, on_progress: OnProgress) -> DataPlan:
    """Read the inputs, check every letter and plan the run; nothing is written."""
    with quiet_ray_data():
        return make_plan(run, index_records(run.inputs, run.cfg.preprocessing.sequence_type, None, on_progress))


def preprocess(run: Run, on_progress: OnProgress) -> Manifest:
    """Write the shards, the tokenizer and the manifest to a folder that `resume.claim` gave; go on where a run was interrupted.

    Raises ConfigError for records that do not exist, DataError for inputs that cannot be used and for a split that stays empty: what
    was written is removed then, so that corrected settings can use the folder. After any other failure the same call goes on.
    """
    try:
        with quiet_ray_data():
            records = index_records(run.inputs, run.cfg.preprocessing.sequence_type, run.output, on_progress)
            return write(run.cfg, make_plan(run, records), on_progress)
    except (ConfigError, DataError):
        discard(run.output)
        raise


def write(cfg: Config, plan: DataPlan, on_progress: OnProgress) -> Manifest:
    """Carry out the plan: find repeated windows, write the shards, then the manifest."""
    job = plan.job
    if cfg.preprocessing.remove_duplicates:
        job = replace(job, repeated_places=repeated_windows(job, list(plan.tasks), _counter(plan, "hashing", on_progress)))
    done, parts = _counter(plan, "tokenizing", on_progress), {}
    for row in results(written(task_rows(task._asdict() for task in plan.tasks), ray.put(job))):
        task = Task(**{key: row[key] for key in Task._fields})
        parts[task] = Written.from_json(str(row["written"]))
        done(task)
    splits, dropped = {split: _sum_split(parts, split) for split in SPLITS}, plan.dropped | _sum_dropped(parts.values())
    refuse_empty_splits(cfg, {split: summed.rows for split, summed in splits.items()}, dropped)
    job.tokenizer.save(job.output / TOKENIZER)
    manifest = Manifest(
        config=sections(cfg), tokenizer=job.tokenizer.to_dict(), tokenizer_sha256=file_sha256(job.output / TOKENIZER),
        width=job.row_format.width, columns=tuple(job.row_format.schema.names), inputs=plan.inputs,
        splits={split: summed for split, summed in splits.items() if summed.rows}, dropped=dropped,
    )
    write_manifest(job.output, manifest)
    shutil.rmtree(job.output / SCRATCH)
    return manifest


def _counter(plan: DataPlan, stage: str, on_progress: OnProgress) -> Callable[[Task], None]:
    """A function that is told of each task done, and reports how far a stage is, in bases as if all windows were equally long."""
    bases = sum(int((regions.end_R - regions.start_R).sum()) for regions in plan.job.regions.values())
    windows, done = sum(task.last - task.first for task in plan.tasks), 0

    def count(task: Task) -> None:
        nonlocal done
        done += task.last - task.first
        on_progress(stage, bases * done // windows, bases)

    on_progress(stage, 0, bases)
    return count


def _sum_split(parts: Mapping[Task, Written], split: str) -> SplitManifest:
    of_split = [part for task, part in sorted(parts.items()) if task.split == split]
    shards = tuple(part.shard for part in of_split if part.shard)
    return SplitManifest(
        rows=sum(shard.rows for shard in shards), tokens=sum(shard.tokens for shard in shards),
        bases=sum(part.bases for part in of_split), shards=shards,
    )


def _sum_dropped(parts: Iterable[Written]) -> Dropped:
    dropped = Dropped()
    for part in parts:
        for reason, counts in part.dropped.items():
            count_dropped(dropped, reason, **counts)
    return dropped
