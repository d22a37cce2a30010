"""Find exact repeats: whole records by their digests (driver), windows by keys of a few letters, then digests of those alike (workers).

Of equal ones the first in (file, record, start) order stays, whatever the split. A window is known by its `place`, the number
of its first base among all inputs' bases.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import ray
import ray.data

from .blocks import Block, blocks_of, drop_reasons
from .comparison import are_among, save_array
from .job import Job, Task
from .scratch import SCRATCH, bases_file
from .stages import BLOCK_BASES, Row, result_tables, results, task_rows

DIGEST_BYTES = 16
WINDOWS_PER_BUCKET = 1_000_000
"""Windows whose hashes are compared in one task, 24 bytes each."""
KEY_LETTERS = 64
"""Letters of a window that its key is made of: enough that in a genome nearly all windows with equal keys are equal."""
KEY_FACTORS = np.random.default_rng(0).integers(0, 1 << 64, (KEY_LETTERS // 8, 2), np.uint64) | np.uint64(1)

Batch = dict[str, np.ndarray]


def is_repeat(digest_N2: np.ndarray, place_N: np.ndarray) -> np.ndarray:
    """bool [N]: an equal digest (uint64 [N, 2]) stands at an earlier place."""
    order = np.lexsort((place_N, digest_N2[:, 1], digest_N2[:, 0]))
    repeat = np.zeros(len(place_N), bool)
    repeat[order[1:][_equal_neighbours(digest_N2[order])]] = True
    return repeat


def is_shared(digest_N2: np.ndarray) -> np.ndarray:
    """bool [N]: an equal digest (uint64 [N, 2]) stands somewhere else."""
    order = np.lexsort((digest_N2[:, 1], digest_N2[:, 0]))
    same = _equal_neighbours(digest_N2[order])
    shared = np.zeros(len(order), bool)
    shared[order[1:][same]] = shared[order[:-1][same]] = True
    return shared


def _equal_neighbours(digest_N2: np.ndarray) -> np.ndarray:
    """bool [N - 1]: a digest is equal to the one before it."""
    return (digest_N2[1:] == digest_N2[:-1]).all(axis=1)


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
    digests, opened, letters = [], None, np.empty(0, np.uint8)
    for row in records.slice(first, last - first).to_pylist():
        if row["file"] != opened:  # opening takes longer than to digest a short record
            opened, letters = row["file"], np.asarray(np.memmap(bases_file(output, row["file"]), np.uint8, "r"))
        digests.append(hashlib.sha256(letters[row["offset"] : row["offset"] + row["length"]]).digest()[:DIGEST_BYTES])
    return pa.table({"number": np.arange(first, last), "digest": pa.array(digests, pa.binary(DIGEST_BYTES))})


def repeated_windows(job: Job, tasks: list[Task], done: Callable[[Task], None]) -> np.ndarray:
    """Places, int64 and sorted, of the windows that repeat an earlier one; `done` is told of each task whose keys are there."""
    stored = job.output / SCRATCH / "repeats.npy"
    if stored.exists():
        return np.load(stored)
    shared = ray.put(job)
    for row in results(keyed(task_rows((task._asdict() for task in tasks), bases=job.num_bases), shared)):
        done(Task(**row))
    alike = find_places([keys_file(job, task) for task in tasks], find_alike)
    concerned = [task for task in tasks if are_among(np.load(keys_file(job, task))[:, 2].astype(np.int64), alike).any()]
    rows = task_rows((task._asdict() for task in concerned), bases=len(alike) * job.cut.max_length)
    for _ in results(digested(rows, shared, ray.put(alike))) if concerned else ():
        pass
    repeats = find_places([digests_file(job, task) for task in concerned], find_repeats)
    save_array(stored, repeats)
    return repeats


def keyed(tasks: ray.data.Dataset, job: ray.ObjectRef) -> ray.data.Dataset:
    """Add the stage to the plan: one row a task in, the same row out when the keys of its windows are stored."""
    return tasks.map(key_task, fn_kwargs={"job": job})


def key_task(row: Row, *, job: ray.ObjectRef) -> Row:
    """Compute the keys of one task."""
    store_keys(ray.get(job), Task(**row))
    return row


def store_keys(job: Job, task: Task) -> None:
    """Write key and place of each window of a task; nothing to do if they are there."""
    if not keys_file(job, task).exists():
        save_array(keys_file(job, task), np.concatenate([window_keys(block) for block in blocks_of(job, task)]))


def window_keys(block: Block) -> np.ndarray:
    """uint64 [W, 3]: two numbers made of a few letters of each window, equal for equal windows, and its place."""
    length = block.letters_WL.shape[1]
    sample_WK = np.take(block.letters_WL, np.arange(KEY_LETTERS) * length // KEY_LETTERS, axis=1).view(np.uint64)
    sample_WK ^= sample_WK >> np.uint64(29)  # a letter counts in the low bits too, which a product keeps apart
    return np.column_stack([sample_WK @ KEY_FACTORS, block.place_W.astype(np.uint64)])


def digested(tasks: ray.data.Dataset, job: ray.ObjectRef, alike: ray.ObjectRef) -> ray.data.Dataset:
    """Add the stage to the plan: one row a task in, the same row out when the digests of its windows at `alike` places are stored."""
    return tasks.map(digest_task, fn_kwargs={"job": job, "alike": alike})


def digest_task(row: Row, *, job: ray.ObjectRef, alike: ray.ObjectRef) -> Row:
    """Digest the windows of one task that may have an equal."""
    store_digests(ray.get(job), Task(**row), ray.get(alike))
    return row


def store_digests(job: Job, task: Task, alike: np.ndarray) -> None:
    """Write digest and place of each window at one of the places that passes the filters; nothing to do if they are there."""
    if not digests_file(job, task).exists():
        chosen = (block.take(are_among(block.place_W, alike)) for block in blocks_of(job, task))
        hashes = [_hashes(block.take(~np.any(list(drop_reasons(block, job.filters).values()), axis=0))) for block in chosen]
        save_array(digests_file(job, task), np.concatenate(hashes))


def _hashes(block: Block) -> np.ndarray:
    """uint64 [W, 3]: two halves of each window's digest, and its place."""
    letters, width = memoryview(block.letters_WL.tobytes()), block.letters_WL.shape[1]
    ends = zip(range(0, len(letters), width), block.length_W.tolist(), strict=True)
    digests = (hashlib.sha256(letters[start : start + length]).digest()[:DIGEST_BYTES] for start, length in ends)
    return np.column_stack([split_digests(digests), block.place_W.astype(np.uint64)])


def find_places(files: Sequence[Path], find: Callable[[Batch], Batch]) -> np.ndarray:
    """The places, sorted, that `find` finds in files of hashes, a bucket at a time; a single bucket needs no task of Ray's."""
    num_windows = sum(len(np.load(path, mmap_mode="r")) for path in files)
    num_buckets, paths = -(-num_windows // WINDOWS_PER_BUCKET), [str(path) for path in files]
    if num_buckets <= 1:
        return np.sort(find(load_hashes({"path": np.array(paths)}, 1))["place"]) if files else np.empty(0, np.int64)
    tables = result_tables(found_in(task_rows({"path": path} for path in paths), num_buckets, find))
    return np.sort(np.concatenate([np.empty(0, np.int64), *(table["place"].to_numpy() for table in tables if table.num_rows)]))


def found_in(files: ray.data.Dataset, num_buckets: int, find: Callable[[Batch], Batch]) -> ray.data.Dataset:
    """Add the stage to the plan: one row a file of hashes in, one row a window that `find` finds (`place`) out.

    Equal windows meet in the bucket that their hash names, through Ray Data's shuffle.
    """
    loaded = files.map_batches(load_hashes, batch_size=1, batch_format="numpy", fn_args=(num_buckets,))
    return loaded.groupby("bucket", num_partitions=num_buckets).map_groups(find, batch_format="numpy")


def load_hashes(files: Batch, num_buckets: int) -> Batch:
    """Files of hashes (`path`) to one row a window: bucket, two halves of the hash, place."""
    hashes = np.concatenate([np.load(path) for path in files["path"]])
    bucket_W = (hashes[:, 0] % num_buckets).astype(np.int64)
    return {"bucket": bucket_W, "low": hashes[:, 0], "high": hashes[:, 1], "place": hashes[:, 2].astype(np.int64)}


def find_repeats(windows: Batch) -> Batch:
    """The places of the windows of one bucket that repeat an earlier one."""
    return {"place": windows["place"][is_repeat(_both_halves(windows), windows["place"])]}


def find_alike(windows: Batch) -> Batch:
    """The places of the windows of one bucket that have their hash in common with another."""
    return {"place": windows["place"][is_shared(_both_halves(windows))]}


def _both_halves(windows: Batch) -> np.ndarray:
    return np.column_stack([windows["low"], windows["high"]])


def keys_file(job: Job, task: Task) -> Path:
    """Where the keys of a task's windows are."""
    return (job.output / SCRATCH / "keys" / task.name).with_suffix(".npy")


def digests_file(job: Job, task: Task) -> Path:
    """Where the digests of a task's windows are."""
    return (job.output / SCRATCH / "digests" / task.name).with_suffix(".npy")
