"""Find exact repeats: whole records by their digests (driver), windows by hashing them and shuffling the hashes (workers).

Of equal ones the first in (file, record, start) order stays, whatever the split. A window is known by its `place`, the number
of its first base among all inputs' bases.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import ray
import ray.data

from .blocks import Block, blocks_of, drop_reasons
from .comparison import save_array
from .job import Job, Task
from .scratch import SCRATCH, bases_file
from .stages import BLOCK_BASES, Row, result_tables, results, task_rows

DIGEST_BYTES = 16
WINDOWS_PER_BUCKET = 1_000_000
"""Windows whose hashes are compared in one task, 24 bytes each."""

Batch = dict[str, np.ndarray]


def is_repeat(digest_N2: np.ndarray, place_N: np.ndarray) -> np.ndarray:
    """bool [N]: an equal digest (uint64 [N, 2]) stands at an earlier place."""
    order = np.lexsort((place_N, digest_N2[:, 1], digest_N2[:, 0]))
    same = (digest_N2[order[1:]] == digest_N2[order[:-1]]).all(axis=1)
    repeat = np.zeros(len(place_N), bool)
    repeat[order[1:][same]] = True
    return repeat


def split_digests(digests: Iterable[bytes]) -> np.ndarray:
    """16-byte digests as uint64 [N, 2]."""
    return np.frombuffer(b"".join(digests), np.uint64).reshape(-1, 2)


def repeated_records(records: pa.Table, digests_of: Callable[[pa.Table], np.ndarray]) -> np.ndarray:
    """bool [N]: the same letters stand in an earlier record (columns file, offset, length; in order).

    Only records of equal length are read for it: `digests_of` gives the digests, uint64 [M, 2], of some of them.
    """
    length_N = records["length"].to_numpy()
    _, group_N, size = np.unique(length_N, return_inverse=True, return_counts=True)
    candidates = np.flatnonzero((size[group_N] > 1) & (length_N > 0))
    repeated_N = np.zeros(len(length_N), bool)
    if len(candidates):
        chosen = records.select(["file", "offset", "length"]).take(pa.array(candidates))
        repeated_N[candidates] = is_repeat(digests_of(chosen), candidates)
    return repeated_N


def record_digests(records: pa.Table, output: Path) -> np.ndarray:
    """uint64 [N, 2] of the letters of each record, on Ray, by tasks of neighbours with about as many bases."""
    task_N = np.cumsum(records["length"].to_numpy()) // BLOCK_BASES
    ends = [*(np.flatnonzero(np.diff(task_N)) + 1).tolist(), len(records)]
    tasks = task_rows({"first": first, "last": last} for first, last in zip([0, *ends[:-1]], ends, strict=True))
    settings = {"records": records, "output": output}
    found = result_tables(tasks.map_batches(digest_records, batch_size=1, batch_format="pyarrow", fn_kwargs=settings))
    return split_digests(pa.concat_tables(found).sort_by("number")["digest"].to_pylist())


def digest_records(task: pa.Table, *, records: pa.Table, output: Path) -> pa.Table:
    """The digests of the records (columns file, offset, length) from number `first` to `last` (not included) of a task's one row."""
    first, last = task["first"][0].as_py(), task["last"][0].as_py()
    digests = []
    for row in records.slice(first, last - first).to_pylist():
        letters = np.memmap(bases_file(output, row["file"]), np.uint8, "r", row["offset"], (row["length"],))
        digests.append(hashlib.sha256(letters).digest()[:DIGEST_BYTES])
    return pa.table({"number": np.arange(first, last), "digest": pa.array(digests, pa.binary(DIGEST_BYTES))})


def repeated_windows(job: Job, tasks: list[Task], done: Callable[[Task], None]) -> np.ndarray:
    """Places, int64 and sorted, of the windows that repeat an earlier one; `done` is told of each task hashed."""
    stored = job.output / SCRATCH / "repeats.npy"
    if stored.exists():
        return np.load(stored)
    for row in results(hashed(task_rows((task._asdict() for task in tasks), bases=job.num_bases), ray.put(job))):
        done(Task(**row))
    num_buckets = -(-sum(task.last - task.first for task in tasks) // WINDOWS_PER_BUCKET)
    files = [str(hash_file(job, task)) for task in tasks]
    repeats = np.sort(np.concatenate([np.empty(0, np.int64), *_repeats(files, num_buckets)]))
    save_array(stored, repeats)
    return repeats


def hashed(tasks: ray.data.Dataset, job: ray.ObjectRef) -> ray.data.Dataset:
    """Add the stage to the plan: one row a task in, the same row out when its hashes are stored."""
    return tasks.map(hash_windows, fn_kwargs={"job": job})


def hash_windows(row: Row, *, job: ray.ObjectRef) -> Row:
    """Hash the windows of one task."""
    store_hashes(ray.get(job), Task(**row))
    return row


def store_hashes(job: Job, task: Task) -> None:
    """Write digest and place of each window of a task that passes the filters; nothing to do if they are there."""
    target = hash_file(job, task)
    if target.exists():
        return
    hashes = [_hashes(block.take(~np.any(list(drop_reasons(block, job.filters).values()), axis=0))) for block in blocks_of(job, task)]
    save_array(target, np.concatenate(hashes))


def _hashes(block: Block) -> np.ndarray:
    """uint64 [W, 3]: two halves of each window's digest, and its place."""
    letters, width = memoryview(block.letters_WL.tobytes()), block.letters_WL.shape[1]
    ends = zip(range(0, len(letters), width), block.length_W.tolist(), strict=True)
    digests = (hashlib.sha256(letters[start : start + length]).digest()[:DIGEST_BYTES] for start, length in ends)
    return np.column_stack([split_digests(digests), block.place_W.astype(np.uint64)])


def _repeats(files: list[str], num_buckets: int) -> Iterator[np.ndarray]:
    """Places of the repeats in some files of hashes, a bucket each; a single bucket needs no task of Ray's."""
    if num_buckets == 1:
        yield find_repeats(load_hashes({"path": np.array(files)}, 1))["place"]
        return
    tables = result_tables(repeats_of(task_rows({"path": path} for path in files), num_buckets))
    yield from (table["place"].to_numpy() for table in tables if table.num_rows)


def repeats_of(files: ray.data.Dataset, num_buckets: int) -> ray.data.Dataset:
    """Add the stage to the plan: one row a file of hashes in, one row a repeated window (`place`) out.

    Equal windows meet in the bucket that their digest names, through Ray Data's shuffle.
    """
    loaded = files.map_batches(load_hashes, batch_size=1, batch_format="numpy", fn_args=(num_buckets,))
    return loaded.groupby("bucket", num_partitions=num_buckets).map_groups(find_repeats, batch_format="numpy")


def load_hashes(files: Batch, num_buckets: int) -> Batch:
    """Files of hashes (`path`) to one row a window: bucket, two halves of the digest, place."""
    hashes = np.concatenate([np.load(path) for path in files["path"]])
    bucket_W = (hashes[:, 0] % num_buckets).astype(np.int64)
    return {"bucket": bucket_W, "low": hashes[:, 0], "high": hashes[:, 1], "place": hashes[:, 2].astype(np.int64)}


def find_repeats(windows: Batch) -> Batch:
    """The places of the windows of one bucket that repeat an earlier one."""
    digest_W2 = np.column_stack([windows["low"], windows["high"]])
    return {"place": windows["place"][is_repeat(digest_W2, windows["place"])]}


def hash_file(job: Job, task: Task) -> Path:
    """Where the hashes of a task's windows are."""
    return (job.output / SCRATCH / "hashes" / task.name).with_suffix(".npy")
