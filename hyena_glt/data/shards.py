"""Tokenize windows and write them as Parquet shards, one Ray task a shard (runs on the workers).

A shard is written below the scratch folder, renamed, and then recorded beside it in a file that says what was written. A task
whose record fits its shard has nothing left to do: this is how an interrupted run goes on, and gives the same bytes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data

from ..files import atomic_write
from ..tokenizers.base import PAD
from .job import Job, Task, Window, why_dropped, windows_of
from .manifest import SCRATCH, Dropped, Shard, canonical_json, count_dropped
from .row_format import pack
from .stages import Row
from .verify import file_sha256

ROW_GROUP_TOKENS = 1 << 20
"""Tokens in a row group, about: what a reader holds in memory at once, and what training shuffles."""
ZSTD_LEVEL = 1
"""On bases the higher levels take longer and save nothing."""


@dataclass(slots=True)
class Written:
    """What became of one task's windows; `shard` is None if none of them stayed."""

    shard: Shard | None = None
    bases: int = 0
    dropped: Dropped = field(default_factory=dict)

    @classmethod
    def from_json(cls, text: str) -> Written:
        fields = json.loads(text)
        return cls(fields["shard"] and Shard(**fields["shard"]), fields["bases"], fields["dropped"])


def written(tasks: ray.data.Dataset, job: ray.ObjectRef) -> ray.data.Dataset:
    """Add the stage to the plan: one row a task in, the same row with `written`, a `Written` as JSON, out."""
    return tasks.map(write_task, fn_kwargs={"job": job})


def write_task(row: Row, *, job: ray.ObjectRef) -> Row:
    """Write the shard of one task, unless it stands already."""
    shared: Job = ray.get(job)
    task = Task(**row)
    record = (shared.output / SCRATCH / "written" / task.name).with_suffix(".json")
    if not (record.exists() and _still_there(shared.output, Written.from_json(record.read_text()).shard)):
        record.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(record, canonical_json(asdict(write_shard(shared, task))))
    return {**row, "written": record.read_text()}


def _still_there(output: Path, shard: Shard | None) -> bool:
    return shard is None or ((output / shard.path).is_file() and file_sha256(output / shard.path) == shard.sha256)


def write_shard(job: Job, task: Task) -> Written:
    """Tokenize the windows of a task that stay, and write them to `<split>/part-<number>.parquet`."""
    result = Written()
    path = job.output / f"{task.name}.parquet"
    unfinished = job.output / SCRATCH / f"{task.split}-{path.name}.{os.getpid()}"
    rows, tokens = 0, 0
    with _writer(unfinished, job) as writer:
        for table, table_tokens in _row_groups(job, _kept(job, task, result), result):
            writer.write_table(table)
            rows, tokens = rows + table.num_rows, tokens + table_tokens
    if rows:
        path.parent.mkdir(exist_ok=True)
        size, sha256 = unfinished.stat().st_size, file_sha256(unfinished)
        result.shard = Shard(path=f"{task.name}.parquet", rows=rows, tokens=tokens, size=size, sha256=sha256)
        unfinished.replace(path)
    else:
        unfinished.unlink()
    return result


def _writer(path: Path, job: Job) -> pq.ParquetWriter:
    """Page checksums let a reader notice damage without reading the whole shard."""
    return pq.ParquetWriter(
        path, job.row_format.schema, write_page_checksum=True, use_dictionary=["source", "record"],
        compression="zstd" if job.compress else "none", compression_level=ZSTD_LEVEL if job.compress else None,
    )


def _kept(job: Job, task: Task, result: Written) -> Iterator[Window]:
    """The windows that stay; the others are counted."""
    for window in windows_of(job, task):
        reason = why_dropped(window.letters, job.filters) or ("duplicate" if _is_repeat(window.place, job.repeated_places) else None)
        if reason:
            count_dropped(result.dropped, f"{reason}_windows", windows=1, bases=len(window.letters))
        else:
            yield window


def _is_repeat(place: int, repeated: np.ndarray) -> bool:
    at = np.searchsorted(repeated, place)
    return bool(at < len(repeated) and repeated[at] == place)


def _row_groups(job: Job, windows: Iterable[Window], result: Written) -> Iterator[tuple[pa.Table, int]]:
    """Tables of one row group each, with the tokens in them."""
    schema, windows = job.row_format.schema, iter(windows)
    while group := list(islice(windows, max(1, ROW_GROUP_TOKENS // job.width))):
        ids = np.full((len(group), job.width), PAD, job.tokenizer.dtype)
        lengths = [_encode(window, job, row, result) for window, row in zip(group, ids, strict=True)]
        columns = {
            "input_ids": pack(ids),
            "source": [window.source for window in group],
            "record": [window.record for window in group],
            "start": [window.start for window in group],
            "length": lengths,
        }
        yield pa.table(columns, schema=schema), int((ids != PAD).sum())


def _encode(window: Window, job: Job, row: np.ndarray, result: Written) -> int:
    """Put a window's ids into `row` [width]; returns the bases under them, and counts those left over behind the last."""
    ids = job.tokenizer.encode(window.letters)
    row[: len(ids)] = ids
    covered = (len(ids) - 1) * job.tokenizer.bases_per_token + job.tokenizer.span
    if covered < len(window.letters):
        count_dropped(result.dropped, "leftover_bases", windows=1, bases=len(window.letters) - covered)
    result.bases += covered
    return covered
