"""From FASTA to tokenized shards: the stages in order. Runs on the driver; each stage's work runs on Ray's workers.

inputs -> checksums -> records and clean letters (haplotypes too) -> splits and windows -> repeats, near-duplicates, leakage -> shards ->
manifest
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import ray

from ..config.preprocessing import PreprocessingConfig, SplitConfig, VariantsConfig
from ..config.tree import Config
from ..errors import ConfigError, DataError, StorageError
from ..files import naming
from .dedup import record_digests, repeated_records, repeated_windows
from .index import OnProgress, index_records, join, with_places
from .job import Job, Task
from .leakage import measure_leakage
from .leakage_report import leakage_lines, located, refuse_leakage
from .manifest import MANIFEST, SPLITS, TOKENIZER, Dropped, Json, Manifest, SplitManifest, count_dropped, write_manifest
from .near_duplicates import near_duplicate_windows
from .plan import DataPlan, Genome, Run, make_plan, refuse_empty_splits
from .resume import discard, sections
from .scratch import SCRATCH
from .shard_index import Shards
from .shards import Written, written
from .single_files import converted_splits
from .stages import ray_data_context, results, task_rows
from .storage import Url, download, upload
from .verify import file_sha256

if TYPE_CHECKING:
    from .population import SampleBlock

log = logging.getLogger(__name__)


def plan_only(run: Run, on_progress: OnProgress) -> DataPlan:
    """Read the inputs, check every letter and plan the run; what it takes stands in a temporary folder, nothing is left."""
    beside = next(folder for folder in run.output.parents if folder.is_dir())
    with ray_data_context(), TemporaryDirectory(prefix=".hyena-glt-dry-run-", dir=beside) as folder:
        scratch = replace(run, output=Path(folder), destination=Path(folder))
        (scratch.output / SCRATCH).mkdir()
        plan = make_plan(scratch, read_genome(scratch, on_progress), on_progress)
        return replace(plan, job=replace(plan.job, output=run.output, destination=run.destination))


def preprocess(run: Run, on_progress: OnProgress) -> Manifest:
    """Write the shards, the tokenizer and the manifest to a folder that `resume.claim` gave; go on where a run was interrupted.

    Raises ConfigError for records that do not exist, DataError for inputs that cannot be used and for a split that stays empty: what
    was written is removed then, so that corrected settings can use the folder. After any other failure the same call goes on.
    """
    try:
        with ray_data_context():
            return write(run.cfg, make_plan(run, read_genome(run, on_progress), on_progress), on_progress)
    except StorageError:
        raise
    except (ConfigError, DataError):
        discard(run.output, run.destination)
        raise


def read_genome(run: Run, on_progress: OnProgress) -> Genome:
    """The records of the inputs, and of the haplotypes that variants make of them; their clean letters are stored."""
    pre = run.cfg.preprocessing
    records = index_records(run.inputs, pre.sequence_type, run.output, on_progress, find_lower_case=pre.soft_masked != "keep")
    sources, variants, num_inputs = tuple(run.inputs), dict[str, int](), len(records)
    if pre.variants:
        haplotypes, names, variants = _build_haplotypes(pre.variants, run, records, on_progress)
        records, sources = join([records, haplotypes]), sources + names
    records = with_places(records)
    repeated = np.zeros(len(records), bool)
    if pre.remove_duplicates:
        # Without the reference, a haplotype that carries no variant is no repeat.
        first = num_inputs if pre.variants and not pre.variants.keep_reference else 0
        repeated[first:] = repeated_records(records.slice(first).combine_chunks(), partial(record_digests, output=run.output))
    return Genome(records, sources, repeated, variants)


def _build_haplotypes(
    cfg: VariantsConfig, run: Run, records: pa.Table, on_progress: OnProgress
) -> tuple[pa.Table, tuple[str, ...], dict[str, int]]:
    """Their records, the names of their files, and what became of the variants."""
    from .population import haplotype_records, plan_blocks  # pysam is an extra

    blocks, names = plan_blocks(cfg, _local_variants(run), records, first_file=len(run.inputs))
    total, done = sum(block.num_bases for block in blocks), 0

    def count(block: SampleBlock) -> None:
        nonlocal done
        done += block.num_bases
        on_progress("haplotypes", done, total)

    built, counts = haplotype_records(blocks, run.output, count)
    return built, names, counts


def _local_variants(run: Run) -> list[Path]:
    """The VCF files; htslib wants files, so of an object in a store a copy lies in the scratch folder, which all workers see."""
    folder, files = run.output / SCRATCH / "variants", run.annotations["variants"]
    return [vcf if isinstance(vcf, Path) else _copied(vcf, folder / str(number) / vcf.name) for number, vcf in enumerate(files)]


def _copied(url: Url, file: Path) -> Path:
    """The file, once it holds the object."""
    if not file.exists():
        download(url, file)
    return file


def write(cfg: Config, plan: DataPlan, on_progress: OnProgress) -> Manifest:
    """Carry out the plan: find windows to drop, measure leakage, write the shards, then the manifest."""
    job = compare_windows(cfg.preprocessing, plan, on_progress)
    leakage = _measure_leakage(cfg.preprocessing.split, replace(plan, job=job), on_progress)
    done, parts = _counter(plan, "tokenizing", on_progress), {}
    for row in results(written(task_rows((task._asdict() for task in plan.tasks), bases=job.num_bases), ray.put(job))):
        task = Task(**{key: row[key] for key in Task._fields})
        parts[task] = Written.from_json(str(row["written"]))
        done(task)
    splits, dropped = {split: _sum_split(parts, split) for split in SPLITS}, plan.dropped | _sum_dropped(parts.values())
    refuse_empty_splits(cfg, {split: summed.rows for split, summed in splits.items()}, dropped)
    with naming(job.output / TOKENIZER):
        job.tokenizer.save(job.output / TOKENIZER)
    manifest = Manifest(
        config=sections(cfg), tokenizer=job.tokenizer.to_dict(), tokenizer_sha256=file_sha256(job.output / TOKENIZER),
        width=job.row_format.width, id_bits=job.row_format.id_bits, columns=tuple(job.row_format.schema.names), inputs=plan.inputs,
        splits={split: summed for split, summed in splits.items() if summed.rows}, dropped=dropped, variants=plan.variants, leakage=leakage,
    )
    if job.format == "hdf5":
        manifest = replace(manifest, splits=converted_splits(job, manifest))
    return _publish(job, manifest)


def compare_windows(cfg: PreprocessingConfig, plan: DataPlan, on_progress: OnProgress) -> Job:
    """The job with the windows that repeat others, exactly or nearly."""
    job = plan.job
    if cfg.remove_duplicates:
        job = replace(job, repeated_places=repeated_windows(job, list(plan.tasks), _counter(plan, "hashing", on_progress)))
    if cfg.near_duplicates:
        near = near_duplicate_windows(job, plan.tasks, cfg.near_duplicates, _counter(plan, "comparing", on_progress))
        job = replace(job, near_duplicate_places=near)
    return job


def _measure_leakage(cfg: SplitConfig, plan: DataPlan, on_progress: OnProgress) -> Json:
    """How much of val and test is found in train, if that is asked for; DataError if it is more than the settings allow."""
    if cfg.max_leakage is None:
        return {}
    dropped = np.union1d(plan.job.repeated_places, plan.job.near_duplicate_places)
    staying = replace(plan.job, repeated_places=dropped)
    leakage = measure_leakage(staying, plan.tasks, _counter(plan, "leakage", on_progress))
    for line in leakage_lines(leakage, plan.job):
        log.info(line)
    refuse_leakage(leakage, cfg.max_leakage, plan.job)
    return located(leakage, plan.job)


def _publish(job: Job, manifest: Manifest) -> Manifest:
    """Write the manifest with the shards' index, which makes the folder whole, after all else; the scratch folder is no longer needed."""
    if isinstance(job.destination, Url):
        upload(job.output / TOKENIZER, job.destination / TOKENIZER)
    with naming(job.output / MANIFEST):
        write_manifest(job.destination, manifest)
    shutil.rmtree(job.output if isinstance(job.destination, Url) else job.output / SCRATCH)
    return manifest


def _counter(plan: DataPlan, stage: str, on_progress: OnProgress) -> Callable[[Task], None]:
    """A function that is told of each task done, and reports how far a stage is, in bases as if all windows were equally long."""
    bases = plan.job.num_bases
    windows, done = sum(task.last - task.first for task in plan.tasks), 0

    def count(task: Task) -> None:
        nonlocal done
        done += task.last - task.first
        on_progress(stage, bases * done // windows, bases)

    on_progress(stage, 0, bases)
    return count


def _sum_split(parts: Mapping[Task, Written], split: str) -> SplitManifest:
    of_split = [part for task, part in sorted(parts.items()) if task.split == split]
    shards = [part.shard for part in of_split if part.shard]
    return SplitManifest(
        rows=sum(shard.rows for shard in shards), tokens=sum(shard.tokens for shard in shards),
        bases=sum(part.bases for part in of_split), shards=Shards.of(shards),
    )


def _sum_dropped(parts: Iterable[Written]) -> Dropped:
    dropped = Dropped()
    for part in parts:
        for reason, counts in part.dropped.items():
            count_dropped(dropped, reason, **counts)
    return dropped
