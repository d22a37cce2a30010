"""What a preprocessing run is made of, measured apart in one process: its work without Ray, then Ray Data's stages without its work.

    python tests/benchmarks/preprocess_parts.py '{"inputs": ["genome.fa"], "output": "out", "settings": [], "warm_up": "small.fa"}'

`preprocess_profile.py` starts these, each bound to one core. Without Ray, the same `preprocess` runs, but where it hands rows to Ray Data
the stage's function is called on them here: which stages there are, and of how many tasks and blocks, is what the package asks for.
"""

from __future__ import annotations

import cProfile
import json
import pstats
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any
from unittest import mock

import ray
import ray.data
from preprocess_cases import MANY_SHARDS, READY, preprocessed, report, timed, versions

from hyena_glt.data.shards import write_task
from hyena_glt.data.stages import ray_data_context, results
from pipelines._ray import start_ray
from tests.data.source_reference import LocalRows

WRITE_PARTS = {
    "Parquet with zstd, by pyarrow": "write_table", "filters": "drop_reasons", "letters to ids": "encode_windows",
    "two ids to a byte": "pack", "SHA-256 of the shards": "file_sha256", "renaming": "replace",
    "the record of a shard, synced to the disk": "atomic_write",
}
"""What `write_task` does -> the function that does it, in its own thread; time in one of them is not in another."""
Row = dict[str, Any]


@dataclass(slots=True)
class Stage:
    """One stage of Ray Data as the package asks for it, and its function's time on all tasks without Ray."""

    function: str
    tasks: int
    blocks: int
    began_s: float
    """Since the run began."""
    work_s: float = 0.0
    cpu_s: float = 0.0


class StagesHere:
    """Calls the functions of stages in this process, and keeps account of them; `profile` looks into `write_task`."""

    def __init__(self, profile: cProfile.Profile | None = None) -> None:
        self.stages, self.profile, self.began = list[Stage](), profile, time.perf_counter()

    @contextmanager
    def instead_of_ray(self) -> Iterator[None]:
        """Whatever the package asks Ray for is done here, as if Ray stood with one CPU."""
        stand_ins = {"is_initialized": lambda: True, "cluster_resources": lambda: {"CPU": 1.0}, "put": itself, "get": itself}
        with ExitStack() as patches:
            for name, stand_in in stand_ins.items():
                patches.enter_context(mock.patch.object(ray, name, stand_in))
            patches.enter_context(mock.patch.object(ray.data, "from_items", self._from_items))
            yield

    def _from_items(self, rows: Iterable[Row], override_num_blocks: int) -> LocalRows:
        return AccountedRows(rows, override_num_blocks, self)

    def accounted(self, function: Callable[..., Any], tasks: int, blocks: int) -> Callable[..., Any]:
        """The function of a new stage, which notes its time."""
        stage = Stage(function.__name__, tasks, blocks, time.perf_counter() - self.began)
        self.stages.append(stage)
        work = self._profiled(function) if self.profile and function is write_task else function

        def noting(task: Any, **settings: Any) -> Any:
            wall, cpu = time.perf_counter(), time.thread_time()
            result = work(task, **settings)
            stage.work_s += time.perf_counter() - wall
            stage.cpu_s += time.thread_time() - cpu
            return result

        return noting

    def _profiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda task, **settings: self.profile.runcall(function, task, **settings)


def itself(value: Any) -> Any:
    """What a reference is to, and the reference."""
    return value


class AccountedRows(LocalRows):
    """Rows whose stage is accounted for."""

    def __init__(self, rows: Iterable[Row], blocks: int, here: StagesHere) -> None:
        super().__init__(rows)
        self.blocks, self.here = blocks, here

    def map(self, function: Callable[..., Row], **settings: Any) -> LocalRows:
        return super().map(self.here.accounted(function, len(self), self.blocks), **settings)

    def map_batches(self, function: Callable[..., Any], **settings: Any) -> LocalRows:
        return super().map_batches(self.here.accounted(function, len(self), self.blocks), **settings)


def parts(inputs: list[str], output: str, settings: list[str], warm_up: str) -> None:
    """The work without Ray, twice, the second time looked into; then each stage with tasks that do nothing, and that only take CPU time."""
    with StagesHere().instead_of_ray():
        preprocessed([warm_up], f"{output}.first", [*settings, MANY_SHARDS])
    print(READY, flush=True)
    here, looked_into = StagesHere(), StagesHere(cProfile.Profile())
    with here.instead_of_ray():
        _, figures = timed(inputs, output, settings)
    with looked_into.instead_of_ray():
        preprocessed(inputs, f"{output}.looked_into", settings)
    with start_ray("local", 1):
        preprocessed([warm_up], f"{output}.warm_up", [*settings, MANY_SHARDS])
        with ray_data_context():
            stages = [asdict(stage) | {"idle_s": stage_s(stage, 0.0), "busy_s": stage_s(stage, stage.cpu_s)} for stage in here.stages]
    report(**figures, ray_stages=stages, write_parts=write_parts(looked_into), versions=versions("ray", "pyarrow", "numpy"))


def write_parts(here: StagesHere) -> dict[str, float]:
    """Seconds in each of WRITE_PARTS, and in what is none of them."""
    seconds = dict.fromkeys(WRITE_PARTS.values(), 0.0)
    for (_, _, function), (*_, callers) in pstats.Stats(here.profile).stats.items():
        if function in seconds:  # what is synced is renamed too
            seconds[function] += sum(inside_s for (_, _, caller), (*_, inside_s) in callers.items() if caller not in seconds)
    whole = sum(stage.work_s for stage in here.stages if stage.function == write_task.__name__)
    return {what: seconds[name] for what, name in WRITE_PARTS.items()} | {"the rest": whole - sum(seconds.values())}


def stage_s(stage: Stage, cpu_s: float) -> float:
    """Seconds of a stage of Ray Data with as many tasks and blocks, whose tasks take `cpu_s` of CPU time together and do nothing."""
    rows = [{"number": number} for number in range(stage.tasks)]
    began = time.perf_counter()
    dataset = ray.data.from_items(rows, override_num_blocks=stage.blocks).map(take_time, fn_kwargs={"cpu_s": cpu_s / stage.tasks})
    if sum(1 for _ in results(dataset)) != stage.tasks:
        raise RuntimeError(f"{stage.function}: a stage of {stage.tasks} tasks gave another number of rows")
    return time.perf_counter() - began


def take_time(row: Row, *, cpu_s: float) -> Row:
    """A task that does nothing for so many seconds of CPU time."""
    until = time.thread_time() + cpu_s
    while time.thread_time() < until:
        pass
    return row


if __name__ == "__main__":
    parts(**json.loads(sys.argv[1]))
