"""From FASTA to tokenized shards: the stages in order. Runs on the driver; each stage's work runs on Ray's workers.

inputs -> checksums -> records and clean letters -> splits and windows -> repeats -> shards -> manifest
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import ray

from ..config.tree import Config
from ..errors import ConfigError, DataError
from .dedup import repeated_windows
from .index import OnProgress, index_records, join, with_places
from .job import Job, Task
from .manifest import SPLITS, TOKENIZER, Dropped, Manifest, SplitManifest, count_dropped, write_manifest
from .plan import DataPlan, Genome, Run, make_plan, refuse_empty_splits
from .resume import discard, sections
from .scratch import SCRATCH
from .shards import Written, written
from .single_files import converted_splits
from .stages import quiet_ray_data, results, task_rows
from .storage import Url, upload
from .verify import file_sha256

if TYPE_CHECKING:
    from .population import SampleBlock


def plan_only(run: Run, on_progress: OnProgress) -> DataPlan:
    """Read the inputs, check every letter and plan the run; what it takes stands in a temporary folder, nothing is left."""
    beside = next(folder for folder in run.output.parents if folder.is_dir())
    with quiet_ray_data(), TemporaryDirectory(prefix=".hyena-glt-dry-run-", dir=beside) as folder:
        scratch = replace(run, output=Path(folder), destination=Path(folder))
        (scratch.output / SCRATCH).mkdir()
        plan = make_plan(scratch, read_genome(scratch, on_progress))
        return replace(plan, job=replace(plan.job, output=run.output, destination=run.destination))


def preprocess(run: Run, on_progress: OnProgress) -> Manifest:
    """Write the shards, the tokenizer and the manifest to a folder that `resume.claim` gave; go on where a run was interrupted.

    Raises ConfigError for records that do not exist, DataError for inputs that cannot be used and for a split that stays empty: what
    was written is removed then, so that corrected settings can use the folder. After any other failure the same call goes on.
    """
    try:
        with quiet_ray_data():
            return write(run.cfg, make_plan(run, read_genome(run, on_progress)), on_progress)
    except (ConfigError, DataError):
        discard(run.output, run.destination)
        raise


def read_genome(run: Run, on_progress: OnProgress) -> Genome:
    """The records of the inputs, and of the haplotypes that variants make of them; their clean letters are stored."""
    pre = run.cfg.preprocessing
    records = index_records(run.inputs, pre.sequence_type, run.output, on_progress, find_lower_case=pre.soft_masked != "keep")
    if pre.variants is None:
        return Genome(with_places(records), tuple(run.inputs), {})
    from .population import haplotype_records, plan_blocks  # pysam is an extra

    blocks, haplotypes = plan_blocks(pre.variants, run.annotations["variants"], records, first_file=len(run.inputs))
    total, done = sum((block.end - block.start) * len(block.samples) * 2 for block in blocks), 0

    def count(block: SampleBlock) -> None:
        nonlocal done
        done += (block.end - block.start) * len(block.samples) * 2
        on_progress("haplotypes", done, total)

    built, counts = haplotype_records(blocks, run.output, count)
    return Genome(with_places(join([records, built])), (*run.inputs, *haplotypes), counts)


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
        splits={split: summed for split, summed in splits.items() if summed.rows}, dropped=dropped, variants=plan.variants,
    )
    if job.format == "hdf5":
        manifest = replace(manifest, splits=converted_splits(job, manifest))
    return _publish(job, manifest)


def _publish(job: Job, manifest: Manifest) -> Manifest:
    """Write the manifest, which makes the folder whole, after all else; the scratch folder is no longer needed."""
    if isinstance(job.destination, Url):
        upload(job.output / TOKENIZER, job.destination / TOKENIZER)
    write_manifest(job.destination, manifest)
    shutil.rmtree(job.output if isinstance(job.destination, Url) else job.output / SCRATCH)
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
