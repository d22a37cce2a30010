"""What the stages that compare windows share: the windows that take part, their stored signatures, and buckets of them. On the workers.

Signatures are cut into bands, and windows are compared only where they have the key of a band in common. A bucket is a range of
keys, so it has all windows of each of its keys, and its size does not grow with the data: there are as many as it takes.
Suffixes: W windows, H hashes of a signature, M rows (a window in a band) or values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..files import appearing
from .blocks import Block, blocks_of, drop_reasons
from .job import Job, Task
from .scratch import SCRATCH
from .similarity.minhash import signatures
from .similarity.near_duplicates import Bands, Signatures, band_rows, choose_bands

ROWS_PER_BUCKET = 2_000_000
"""Rows that are compared in one task, at most, 16 bytes each before their signatures."""
SIGNATURE_BYTES_PER_BUCKET = 1 << 28
"""The signatures of those rows, at most."""


class Search(NamedTuple):
    """How windows that are alike are looked for, and where the files for it are."""

    folder: Path
    k: int
    num_hashes: int
    threshold: float
    num_buckets: int

    @property
    def bands(self) -> Bands:
        return choose_bands(self.num_hashes, self.threshold)

    def file(self, task: Task, kind: str) -> Path:
        """`places` int64 [W], ascending; `signatures` uint16 [W, H]; `bands` uint64 [2, M], keys in order and the places."""
        return (self.folder / task.name).with_suffix(f".{kind}.npy")


def plan_search(job: Job, tasks: Sequence[Task], name: str, *, k: int, num_hashes: int, threshold: float) -> Search:
    """As many buckets as keep one small; `name` is the folder's."""
    rows = sum(task.last - task.first for task in tasks) * choose_bands(num_hashes, threshold).num_bands
    rows_per_bucket = min(ROWS_PER_BUCKET, SIGNATURE_BYTES_PER_BUCKET // (2 * num_hashes))
    return Search(job.output / SCRATCH / name, k, num_hashes, threshold, max(1, -(-rows // rows_per_bucket)))


def staying_blocks(job: Job, task: Task) -> Iterator[Block]:
    """The windows of a task that pass the filters and were not found to be repeats."""
    for block in blocks_of(job, task):
        filtered_W = np.any(list(drop_reasons(block, job.filters).values()), axis=0)
        yield block.take(~(filtered_W | are_among(block.place_W, job.repeated_places)))


def sign_windows(search: Search, job: Job, task: Task) -> Signatures:
    """The signatures of the windows of a task that stay."""
    places, hashes = [], []
    for block in staying_blocks(job, task):
        places.append(block.place_W)
        hashes.append(signatures(block.letters_WL, search.k, job.filters.sequence_type, search.num_hashes))
    return Signatures(np.concatenate(places), np.concatenate(hashes))


def save_array(path: Path, array: np.ndarray) -> None:
    """Under a temporary name, then renamed: a file that is there is whole."""
    with appearing(path) as unfinished, unfinished.open("wb") as file:
        np.save(file, array)


def save_signatures(search: Search, task: Task, signed: Signatures) -> None:
    """Store a task's signatures and the rows of their bands; `has_signatures` is true once all of it is there."""
    key_M, place_M = band_rows(signed.hash_WH, signed.place_W, search.bands)
    order = np.argsort(key_M)
    save_array(search.file(task, "bands"), np.stack([key_M[order], place_M[order].astype(np.uint64)]))
    save_array(search.file(task, "places"), signed.place_W)
    save_array(search.file(task, "signatures"), signed.hash_WH)


def has_signatures(search: Search, task: Task) -> bool:
    """Whether a task has nothing left to do."""
    return search.file(task, "signatures").exists()


class BucketRows(NamedTuple):
    """The rows of some tasks in one bucket, task after task."""

    key_M: np.ndarray
    place_M: np.ndarray
    ends: np.ndarray
    """Where the rows of each task end."""

    def take(self, kept_M: np.ndarray) -> BucketRows:
        """The rows for which a mask is true."""
        return BucketRows(self.key_M[kept_M], self.place_M[kept_M], np.append(0, np.cumsum(kept_M))[self.ends])

    def followed_by(self, others: BucketRows) -> BucketRows:
        """The rows of these tasks, then those of others."""
        ends = np.append(self.ends, len(self.key_M) + others.ends)
        return BucketRows(np.append(self.key_M, others.key_M), np.append(self.place_M, others.place_M), ends)


def bucket_rows(search: Search, tasks: Sequence[Task], bucket: int) -> BucketRows:
    """Only this bucket's part of each file is read."""
    low, high = (np.uint64(edge) for edge in (bucket * 2**64 // search.num_buckets, (bucket + 1) * 2**64 // search.num_buckets - 1))
    parts = []
    for task in tasks:
        stored = np.load(search.file(task, "bands"), mmap_mode="r")
        parts.append(np.array(stored[:, np.searchsorted(stored[0], low) : np.searchsorted(stored[0], high, side="right")]))
    key_M, place_M = np.concatenate([np.empty((2, 0), np.uint64), *parts], axis=1)
    return BucketRows(key_M, place_M.astype(np.int64), np.cumsum([part.shape[1] for part in parts], dtype=np.int64))


def read_signatures(search: Search, tasks: Sequence[Task], rows: BucketRows) -> Signatures:
    """The signatures of the windows in some rows of `tasks`; what else the files hold is not read."""
    wanted = [_distinct(place_M) for place_M in np.split(rows.place_M, rows.ends[:-1])]
    place_W = np.sort(np.concatenate([np.empty(0, np.int64), *wanted]))
    hash_WH = np.empty((len(place_W), search.num_hashes), np.uint16)
    for task, places in zip(tasks, wanted, strict=True):
        if len(places):
            row_W = np.searchsorted(np.load(search.file(task, "places"), mmap_mode="r"), places)
            hash_WH[np.searchsorted(place_W, places)] = np.load(search.file(task, "signatures"), mmap_mode="r")[row_W]
    return Signatures(place_W, hash_WH)


def _distinct(place_M: np.ndarray) -> np.ndarray:
    """Sorted; np.unique uses a hash table, many times slower."""
    ordered = np.sort(place_M)
    return ordered[np.diff(ordered, prepend=-1) > 0]


def are_among(value_M: np.ndarray, sorted_values: np.ndarray) -> np.ndarray:
    """bool [M]: a value is one of `sorted_values`."""
    at_M = np.searchsorted(sorted_values, value_M)
    inside = at_M < len(sorted_values)
    inside[inside] = sorted_values[at_M[inside]] == value_M[inside]
    return inside
