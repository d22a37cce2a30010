"""Measure how much of val and test is found in train: k-mers and signatures on the workers, the summary on the driver.

Runs once it is known which windows stay, and before shards are written, so that a run can be refused early. What the workers find is
stored, so that a run goes on where it was. Suffixes: W windows, L letters, M hashes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import ray
import ray.data

from ..files import atomic_write
from .blocks import Block, blocks_of
from .comparison import (
    Search,
    are_among,
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
from .similarity.fracminhash import choose_scale, merge, sketch_rows
from .similarity.leakage import LEAKAGE_K, NUM_HASHES, THRESHOLD, Leakage, Matches, match_windows, summarise
from .similarity.near_duplicates import NEAR_DUPLICATE_K, similar_to_train
from .stages import Row, results, task_rows

MAX_HASHES = 1 << 26
"""Sampled k-mers of train, about: 512 MiB, once on each node."""
_NUM_RANGES = 16


class Work(NamedTuple):
    """Passed to the workers once."""

    job: Job
    train: Sequence[Task]
    held_out: Sequence[Task]
    search: Search
    k: int
    scale: int

    def file(self, task: Task) -> Path:
        """Of train the sketch, uint64 [M]; else `Matches`, int64 [3, W]."""
        return self.search.file(task, "kmers")

    @property
    def train_file(self) -> Path:
        """The sketch of the whole of train, uint64 [M]."""
        return self.search.folder / "train.npy"

    def found_file(self, bucket: int) -> Path:
        """Places, int64, of the held-out windows of a bucket that are similar to one of train."""
        return self.search.folder / "found" / f"{bucket:05d}.npy"


def measure_leakage(job: Job, tasks: Sequence[Task], done: Callable[[Task], None]) -> dict[str, Leakage]:
    """Held-out split -> what train holds of it, on either strand; `done` is told of each task read.

    Compared are windows that pass the filters and are not among `job.repeated_places`. A split without a task is not there.
    """
    if all(task.split == "train" for task in tasks):
        return {}
    stored = job.output / SCRATCH / "leakage.json"
    if not stored.exists():
        work = plan_work(job, tasks)
        shared = ray.put(work)
        for row in results(sketched(task_rows((task._asdict() for task in work.train), bases=job.num_bases), shared)):
            done(Task(**row))
        store_train_sketch(work)
        sketch = ray.put(np.load(work.train_file))
        for row in results(matched(task_rows((task._asdict() for task in work.held_out), bases=job.num_bases), shared, sketch)):
            done(Task(**row))
        for _ in results(searched(task_rows({"bucket": bucket} for bucket in range(work.search.num_buckets)), shared)):
            pass
        atomic_write(stored, json.dumps({split: asdict(found) for split, found in summarise_all(work).items()}))
    found = json.loads(stored.read_text())
    return {split: Leakage(**{**fields, "worst": tuple(map(tuple, fields["worst"]))}) for split, fields in found.items()}


def plan_work(job: Job, tasks: Sequence[Task]) -> Work:
    """Sample as many k-mers as a window needs, or as train's bases leave room for."""
    kind, regions = job.filters.sequence_type, job.regions["train"]
    num_bases = int((regions.end_R - regions.start_R).sum())
    return Work(
        job=job, train=[task for task in tasks if task.split == "train"], held_out=[task for task in tasks if task.split != "train"],
        search=plan_search(job, tasks, "leakage", k=NEAR_DUPLICATE_K[kind], num_hashes=NUM_HASHES, threshold=THRESHOLD),
        k=LEAKAGE_K[kind], scale=choose_scale(num_bases, max_hashes=MAX_HASHES, window_kmers=job.cut.max_length),
    )


def sketched(tasks: ray.data.Dataset, work: ray.ObjectRef) -> ray.data.Dataset:
    """Add the stage to the plan: one row a task of train in, the same row out when its sketch and signatures are stored."""
    return tasks.map(sketch_row, fn_kwargs={"work": work})


def sketch_row(row: Row, *, work: ray.ObjectRef) -> Row:
    """Sketch one task of train."""
    store_sketch(ray.get(work), Task(**row))
    return row


def store_sketch(work: Work, task: Task) -> None:
    """Store the sketch and signatures of a task of train; nothing to do if they are there.

    Each window is sketched with the k - 1 letters behind it, because train holds the k-mers across two windows, though no single one
    does: a copy may be cut elsewhere.
    """
    if has_signatures(work.search, task):
        return
    signed = sign_windows(work.search, work.job, task)
    wider = replace(work.job, cut=replace(work.job.cut, max_length=work.job.cut.max_length + work.k - 1))
    blocks = _blocks_at(signed.place_W, wider, task)
    kind = work.job.filters.sequence_type
    save_array(work.file(task), merge(sketch_rows(block.letters_WL, work.k, kind, work.scale)[1] for block in blocks))
    save_signatures(work.search, task, signed)


def matched(tasks: ray.data.Dataset, work: ray.ObjectRef, sketch: ray.ObjectRef) -> ray.data.Dataset:
    """Add the stage to the plan: one row a held-out task in, the same row out when its matches and signatures are stored.

    `sketch` is that of train, which the tasks of a node share.
    """
    return tasks.map(match_row, fn_kwargs={"work": work, "sketch": sketch})


def match_row(row: Row, *, work: ray.ObjectRef, sketch: ray.ObjectRef) -> Row:
    """Look one held-out task up in train."""
    store_matches(ray.get(work), Task(**row), ray.get(sketch))
    return row


def store_matches(work: Work, task: Task, train_sketch_M: np.ndarray) -> None:
    """Store the matches and signatures of a held-out task; nothing to do if they are there."""
    if has_signatures(work.search, task):
        return
    signed = sign_windows(work.search, work.job, task)
    kind = work.job.filters.sequence_type
    matches = [
        match_windows(block.letters_WL, block.place_W, train_sketch_M, work.k, kind, work.scale)
        for block in _blocks_at(signed.place_W, work.job, task)
    ]
    save_array(work.file(task), np.concatenate(matches, axis=1))
    save_signatures(work.search, task, signed)


def _blocks_at(place_W: np.ndarray, job: Job, task: Task) -> Iterator[Block]:
    """The windows of a task that begin at one of some places, so that they are filtered once."""
    return (block.take(are_among(block.place_W, place_W)) for block in blocks_of(job, task))


def store_train_sketch(work: Work) -> None:
    """Merge the sketches of train's tasks, a range of hashes at a time, so that little more than the result is in memory."""
    if work.train_file.exists():
        return
    stored = [np.load(work.file(task), mmap_mode="r") for task in work.train]
    merged, size = np.empty(sum(map(len, stored)), np.uint64), 0
    edges = [2**64 // work.scale // _NUM_RANGES * number for number in range(1, _NUM_RANGES)]
    ends = [np.concatenate([[0], np.searchsorted(hashes, np.array(edges, np.uint64)), [len(hashes)]]) for hashes in stored]
    for number in range(_NUM_RANGES):
        part = merge(hashes[end[number] : end[number + 1]] for hashes, end in zip(stored, ends, strict=True))
        merged[size : size + len(part)] = part
        size += len(part)
    save_array(work.train_file, merged[:size])


def searched(buckets: ray.data.Dataset, work: ray.ObjectRef) -> ray.data.Dataset:
    """Add the stage to the plan: one row a bucket in, the same row out when its near-duplicates of train are stored."""
    return buckets.map(search_row, fn_kwargs={"work": work})


def search_row(row: Row, *, work: ray.ObjectRef) -> Row:
    """Compare the held-out windows of one bucket with those of train."""
    store_found(ray.get(work), int(row["bucket"]))
    return row


def store_found(work: Work, bucket: int) -> None:
    """Store the held-out windows of one bucket that are similar to one of train; nothing to do if they are there."""
    if work.found_file(bucket).exists():
        return
    train, held_out = (bucket_rows(work.search, tasks, bucket) for tasks in (work.train, work.held_out))
    held_out = held_out.take(are_among(held_out.key_M, np.sort(train.key_M)))
    train = train.take(are_among(train.key_M, np.sort(held_out.key_M)))
    known = read_signatures(work.search, [*work.train, *work.held_out], train.followed_by(held_out))
    found = similar_to_train((train.key_M, train.place_M), (held_out.key_M, held_out.place_M), known, work.search.threshold)
    save_array(work.found_file(bucket), found)


def summarise_all(work: Work) -> dict[str, Leakage]:
    """From what the workers stored to the result of each held-out split."""
    parts: dict[str, list[Matches]] = {}
    for task in work.held_out:
        parts.setdefault(task.split, []).append(Matches(*np.load(work.file(task))))
    found = np.sort(np.concatenate([np.load(work.found_file(bucket)) for bucket in range(work.search.num_buckets)]))
    return {
        split: summarise(
            matches, sum(int(are_among(part.place_W, found).sum()) for part in matches), k=work.k, scale=work.scale,
            near_duplicate_threshold=work.search.threshold,
        )
        for split, matches in parts.items()
    }
