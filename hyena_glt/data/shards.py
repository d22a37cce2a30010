"""Tokenize windows and write them as Parquet shards, one Ray task a shard (runs on the workers).

A shard is written below the scratch folder, renamed, and then recorded beside it in a file that says what was written. A task
whose record fits its shard has nothing left to do: this is how an interrupted run goes on, and gives the same bytes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field

import numpy as np
import pyarrow as pa
import ray
import ray.data

from ..files import atomic_write, naming
from ..tokenizers import Tokenizer
from ..tokenizers.base import PAD
from . import parquet
from .blocks import Block, blocks_of, concatenate, drop_reasons
from .comparison import are_among
from .features import Weights
from .job import Job, Task
from .manifest import Dropped, canonical_json, count_dropped
from .row_format import WEIGHT
from .scratch import SCRATCH
from .shard_index import Shard
from .sources.intervals import Intervals, overlapping
from .stages import Row
from .storage import Url, size, upload
from .verify import file_sha256


@dataclass(slots=True)
class Written:
    """What became of one task's windows; `shard` is None if none of them stayed."""

    shard: Shard | None = None
    bases: int = 0
    dropped: Dropped = field(default_factory=dict)

    @classmethod
    def from_json(cls, text: str) -> Written:
        fields = json.loads(text)
        return cls(fields["shard"] and Shard.from_json(fields["shard"]), fields["bases"], fields["dropped"])


def written(tasks: ray.data.Dataset, job: ray.ObjectRef) -> ray.data.Dataset:
    """Add the stage to the plan: one row a task in, the same row with `written`, a `Written` as JSON, out."""
    return tasks.map(write_task, fn_kwargs={"job": job})


def write_task(row: Row, *, job: ray.ObjectRef) -> Row:
    """Write the shard of one task, unless it stands already."""
    shared: Job = ray.get(job)
    task = Task(**row)
    record = (shared.output / SCRATCH / "written" / task.name).with_suffix(".json")
    if not (record.exists() and _still_there(shared, Written.from_json(record.read_text()).shard)):
        record.parent.mkdir(parents=True, exist_ok=True)
        with naming(shared.shards / f"{task.name}.parquet"):
            atomic_write(record, canonical_json(asdict(_deliver(shared, write_shard(shared, task)))))
    return {**row, "written": record.read_text()}


def _deliver(job: Job, result: Written) -> Written:
    """Move a shard to the object store that is the destination, if it is one and the shard will not be converted first."""
    if result.shard and isinstance(job.destination, Url) and job.format == "parquet":
        upload(job.shards / result.shard.path, job.destination / result.shard.path)
        (job.shards / result.shard.path).unlink()
    return result


def _still_there(job: Job, shard: Shard | None) -> bool:
    """Whether what was recorded stands; an object store keeps objects whole, so that their size is enough."""
    if shard is None:
        return True
    if isinstance(job.destination, Url) and job.format == "parquet":
        return size(job.destination / shard.path) == shard.size
    return (job.shards / shard.path).is_file() and file_sha256(job.shards / shard.path) == shard.sha256


def write_shard(job: Job, task: Task) -> Written:
    """Tokenize the windows of a task that stay, and write them to `<split>/part-<number>.parquet`."""
    result = Written()
    path = job.shards / f"{task.name}.parquet"
    unfinished = job.output / SCRATCH / f"{task.split}-{path.name}.{os.getpid()}"
    sizes, tokens = list[int](), 0
    with parquet.writer(unfinished, job.row_format.schema, compress=job.compress) as writer:
        for block in _joined((_stay(block, job, result) for block in blocks_of(job, task)), job.rows_per_group // 2):
            table, block_tokens = _table(block, task.split, job, result)
            writer.write_table(table, row_group_size=table.num_rows)
            sizes.append(table.num_rows)
            tokens += block_tokens
    if sizes:
        path.parent.mkdir(parents=True, exist_ok=True)
        num_bytes, sha256 = unfinished.stat().st_size, file_sha256(unfinished)
        result.shard = Shard(
            path=f"{task.name}.parquet", rows=sum(sizes), tokens=tokens, size=num_bytes, sha256=sha256, row_groups=tuple(sizes)
        )
        unfinished.replace(path)
    else:
        unfinished.unlink()
    return result


def _stay(block: Block, job: Job, result: Written) -> Block:
    """The windows of a block that stay; the others are counted."""
    reasons = drop_reasons(block, job.filters)
    for reason, places in (("duplicate", job.repeated_places), ("near_duplicate", job.near_duplicate_places)):
        reasons[reason] = ~np.any(list(reasons.values()), axis=0) & are_among(block.place_W, places)
    for reason, dropped_W in reasons.items():
        count_dropped(result.dropped, f"{reason}_windows", windows=int(dropped_W.sum()), bases=int(block.length_W[dropped_W].sum()))
    return block.take(~np.any(list(reasons.values()), axis=0))


def _joined(blocks: Iterable[Block], at_least: int) -> Iterator[Block]:
    """Put small blocks together, so that a row group has `at_least` so many rows wherever the task has them."""
    held: list[Block] = []
    for block in blocks:
        held.append(block)
        if sum(len(part.place_W) for part in held) >= max(1, at_least):
            yield concatenate(held)
            held = []
    if any(len(part.place_W) for part in held):
        yield concatenate(held)


def _table(block: Block, split: str, job: Job, result: Written) -> tuple[pa.Table, int]:
    """The rows of a block, one row group, with the tokens in them."""
    regions, packings = job.regions[split], job.row_format.packings
    ids, tokens_W = encode_windows(job.tokenizer, block)
    covered_W = (tokens_W - 1) * job.tokenizer.bases_per_token + job.tokenizer.span
    leftover_W = block.length_W - covered_W
    count_dropped(result.dropped, "leftover_bases", windows=int((leftover_W > 0).sum()), bases=int(leftover_W.sum()))
    result.bases += int(covered_W.sum())
    region = pa.array(block.region_W)
    columns = {
        "input_ids": packings["input_ids"].pack(ids),
        "source": pa.array([job.sources[file] for file in regions.file_R[block.region_W]]),
        "record": regions.name_R.take(region),
        "start": block.start_W,
        "length": covered_W.astype(np.int32),
    }
    if job.weights is not None:
        columns["weights"] = packings["weights"].pack(token_weights(job.weights, job.tokenizer, block))
    if job.labels is not None:
        columns["labels"] = pa.array(window_labels(job.labels, block.place_W, covered_W))
    return pa.table(columns, schema=job.row_format.schema), int(tokens_W.sum())


def encode_windows(tokenizer: Tokenizer, block: Block) -> tuple[np.ndarray, np.ndarray]:
    """Ids [W, tokens of the longest window] padded with PAD, and the tokens of each window, int64 [W]."""
    ids = tokenizer.encode(block.letters_WL)
    tokens_W = np.maximum(0, (block.length_W - tokenizer.span) // tokenizer.bases_per_token + 1)
    shorter_W = tokens_W < ids.shape[1]
    if shorter_W.any():
        ids[shorter_W] = np.where(np.arange(ids.shape[1]) < tokens_W[shorter_W, None], ids[shorter_W], PAD)
    return ids, tokens_W


def token_weights(weights: Weights, tokenizer: Tokenizer, block: Block) -> np.ndarray:
    """float16 [W, tokens of the longest window]: the mean weight of the bases under each token, 0 behind a window's end."""
    span, stride = tokenizer.span, tokenizer.bases_per_token
    found_WT = np.zeros((len(block.place_W), tokenizer.num_tokens(block.letters_WL.shape[1])), WEIGHT)
    for row_T, place, length in zip(found_WT, block.place_W.tolist(), block.length_W.tolist(), strict=True):
        of_bases = weights.of_bases(place, place + length)
        of_tokens = of_bases if span == 1 else np.lib.stride_tricks.sliding_window_view(of_bases, span)[::stride].mean(axis=1)
        row_T[: len(of_tokens)] = of_tokens
    return found_WT


def window_labels(labels: Intervals, place_W: np.ndarray, length_W: np.ndarray) -> list[tuple[str, ...]]:
    """The distinct labels, in order, that touch each window; windows come in the order of their places."""
    return overlapping(labels, place_W, place_W + length_W)
