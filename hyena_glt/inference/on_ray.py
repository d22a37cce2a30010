"""A stage of Ray Data whose workers hold a model: each task leaves a Parquet file, and one that stands is not done again. Known to both."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data
import torch

from ..data.stages import Row, results, task_rows
from ..errors import ClusterError
from ..files import appearing, sync
from .load import LoadedModel, load_model

Work = Callable[[LoadedModel, Row], pa.Table]


def work_with_models(work: Work, tasks: Iterable[Row], *, model: str, folder: Path, num_gpus: int) -> Iterator[Row]:
    """Do each task, a row with its `number`, by a worker that has loaded `model`; the rows come as their files stand.

    `folder` is seen by all nodes. One worker on each of `num_gpus` GPUs or, without any, on each CPU. Errors as `data.stages.stage_errors`
    gives them; ClusterError where a GPU's memory runs out.
    """
    left = [task for task in tasks if not part_file(folder, task).exists()]
    if not left:
        return
    most = num_gpus or max(1, int(ray.cluster_resources().get("CPU", 1)))
    yield from results(task_rows(left).map(
        _Worker, fn_constructor_kwargs={"work": work, "model": model, "folder": folder, "device": "cuda" if num_gpus else "cpu"},
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=min(most, len(left))), num_cpus=1, num_gpus=int(num_gpus > 0),
    ))


def part_file(folder: Path, task: Row) -> Path:
    """What a task leaves."""
    return folder / f"{task['number']:07d}.parquet"


class _Worker:
    def __init__(self, work: Work, model: str, folder: Path, device: str) -> None:
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        self._work, self._folder, self._loaded = work, folder, load_model(model, device)

    def __call__(self, task: Row) -> Row:
        try:
            table = self._work(self._loaded, task)
        except torch.OutOfMemoryError as error:
            raise ClusterError(f"a worker ran out of GPU memory ({error}); lower --batch_size, and the same command goes on") from error
        with appearing(part_file(self._folder, task)) as unfinished:
            pq.write_table(table, unfinished)
            sync(unfinished)  # else a part that stands may be empty after a power cut
        return {"number": task["number"]}
