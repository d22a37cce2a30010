"""Find windows that are nearly the same as an earlier one: signatures and buckets on the workers, the decision on the driver.

Runs after exact repeats are known, on the windows that stay. What the workers find is stored, so that a run goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import ray
import ray.data

from ..config.preprocessing import NearDuplicatesConfig
from .comparison import (
    Search,
    bucket_rows,
    has_signatures,
    plan_search,
    read_signatures,
    save_array,
    save_signatures,
    sign_windows,
)
from .job import Job, Task
from .scratch import SCRATCH
from .similarity.fracminhash import distinct_pairs
from .similarity.near_duplicates import NEAR_DUPLICATE_K, decide, shares_key, similar_pairs
from .stages import Row, results, task_rows


class Work(NamedTuple):
    """Passed to the workers once."""

    job: Job
    tasks: Sequence[Task]
    search: Search


def near_duplicate_windows(job: Job, tasks: Sequence[Task], cfg: NearDuplicatesConfig, done: Callable[[Task], None]) -> np.ndarray:
    """Places, int64 and sorted, of the windows that are similar to an earlier one that stays; `done` is told of each task read.

    Windows that the filters drop, and `job.repeated_places`, take no part. With an ambiguous base in each k-mer nothing is known
    of a window, and it stays.
    """
    stored = job.output / SCRATCH / "near_duplicates.npy"
    if stored.exists():
        return np.load(stored)
    work = plan_work(job, tasks, cfg)
    shared = ray.put(work)
    for row in results(signed(task_rows((task._asdict() for task in tasks), bases=job.num_bases), shared)):
        done(Task(**row))
    buckets = range(work.search.num_buckets)
    for _ in results(paired(task_rows({"bucket": bucket} for bucket in buckets), shared)):
        pass
    places = decide_all(work.search)
    save_array(stored, places)
    return places


def plan_work(job: Job, tasks: Sequence[Task], cfg: NearDuplicatesConfig) -> Work:
    """What the settings ask for."""
    k = cfg.kmer_size or NEAR_DUPLICATE_K[job.filters.sequence_type]
    return Work(job, tasks, plan_search(job, tasks, "near_duplicates", k=k, num_hashes=cfg.num_hashes, threshold=cfg.threshold))


def signed(tasks: ray.data.Dataset, work: ray.ObjectRef) -> ray.data.Dataset:
    """Add the stage to the plan: one row a task in, the same row out when its signatures are stored."""
    return tasks.map(sign_row, fn_kwargs={"work": work})


def sign_row(row: Row, *, work: ray.ObjectRef) -> Row:
    """Make the signatures of one task's windows."""
    store_signatures(ray.get(work), Task(**row))
    return row


def store_signatures(work: Work, task: Task) -> None:
    """Store the signatures of a task's windows; nothing to do if they are there."""
    if not has_signatures(work.search, task):
        save_signatures(work.search, task, sign_windows(work.search, work.job, task))


def paired(buckets: ray.data.Dataset, work: ray.ObjectRef) -> ray.data.Dataset:
    """Add the stage to the plan: one row a bucket in, the same row out when its similar windows are stored."""
    return buckets.map(pair_row, fn_kwargs={"work": work})


def pair_row(row: Row, *, work: ray.ObjectRef) -> Row:
    """Compare the windows of one bucket."""
    store_pairs(ray.get(work), int(row["bucket"]))
    return row


def store_pairs(work: Work, bucket: int) -> None:
    """Store the pairs of similar windows of one bucket, int64 [P, 2]; nothing to do if they are there."""
    target = pairs_file(work.search, bucket)
    if target.exists():
        return
    rows = bucket_rows(work.search, work.tasks, bucket)
    rows = rows.take(shares_key(rows.key_M))
    known = read_signatures(work.search, work.tasks, rows)
    save_array(target, similar_pairs(rows.key_M, rows.place_M, known, work.search.threshold))


def decide_all(search: Search) -> np.ndarray:
    """From the pairs of all buckets to the places of the windows that go."""
    pairs = [np.load(pairs_file(search, bucket)) for bucket in range(search.num_buckets)]
    return decide(np.stack(distinct_pairs(*np.concatenate(pairs).T), axis=1))


def pairs_file(search: Search, bucket: int) -> Path:
    """Where the similar windows of a bucket are."""
    return search.folder / "pairs" / f"{bucket:05d}.npy"
