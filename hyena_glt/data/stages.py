"""Run a stage from the driver: Ray tasks, or Ray Data where rows are shuffled; results as they come, errors as they were raised.

A stage whose rows do not meet is a function that runs on many rows. As tasks of Ray itself it takes the driver some milliseconds;
as a dataset it took 0.2 s and more before its first row, most of a small genome's time, and the driver kept a core busy.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray.exceptions import RayError, RayTaskError

from ..errors import ClusterError, HyenaError

MAX_GROUPS = 4096
"""More tasks of Ray than this cost more to keep track of than they spread the work."""

GROUP_BASES = 1 << 24
"""Bases of work in a task of Ray, where there are enough: a tenth of a second or more."""

Row = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class TaskRows:
    """Rows in groups: a task of Ray does those of one, one after another."""

    groups: Sequence[Sequence[Row]]

    def map(self, function: Callable[..., Any], *, fn_kwargs: Mapping[str, object]) -> Stage:
        """Add what is done to each row; nothing runs until the results are asked for."""
        return Stage(self.groups, function, fn_kwargs)


@dataclass(frozen=True, slots=True)
class Stage:
    """A function and the rows that it is for."""

    groups: Sequence[Sequence[Row]]
    function: Callable[..., Any]
    fn_kwargs: Mapping[str, object]

    def iter_rows(self) -> Iterator[Any]:
        """What the function gives for each row, as it comes; a worker that dies is no error, its rows are done again."""
        shared = ray.put((self.function, self.fn_kwargs))
        pending = [_do_group.remote(group, shared) for group in self.groups]
        try:
            while pending:
                done, pending = ray.wait(pending)
                yield from ray.get(done[0])
        finally:
            _stop(pending)


@ray.remote(max_retries=-1)
def _do_group(rows: Sequence[Row], shared: tuple[Callable[..., Any], Mapping[str, object]]) -> list[Any]:
    function, fn_kwargs = shared
    return [function(row, **fn_kwargs) for row in rows]


def _stop(pending: Sequence[ray.ObjectRef]) -> None:
    """Cancel what has not begun and wait for the rest: no task writes to a folder after the stage has ended."""
    for ref in pending:
        ray.cancel(ref)
    if pending:
        ray.wait(pending, num_returns=len(pending), timeout=STOP_S)


STOP_S = 60.0
"""How long a stage that failed waits for tasks that go on."""


def task_rows(tasks: Iterable[Row], *, bases: int | None = None) -> TaskRows:
    """Rows, one a task, spread so that each can run anywhere.

    With `bases`, the work of all tasks, small ones share a task of Ray, which costs some milliseconds.
    """
    rows = list(tasks)
    wanted = len(rows) if bases is None else max(4 * int(ray.cluster_resources().get("CPU", 1)), -(-bases // GROUP_BASES))
    num_groups = max(1, min(len(rows), wanted, MAX_GROUPS))
    edges = [len(rows) * group // num_groups for group in range(num_groups + 1)]
    return TaskRows([rows[first:last] for first, last in pairwise(edges)])


def results(stage: Stage) -> Iterator[Any]:
    """What a stage gives for its rows, in the order in which it comes to be; errors as `stage_errors` gives them."""
    with stage_errors():
        yield from stage.iter_rows()


def shuffled(rows: Iterable[Row]) -> ray.data.Dataset:
    """A dataset of Ray Data, for a stage whose rows meet others; a block each."""
    items = list(rows)
    return ray.data.from_items(items, override_num_blocks=max(1, min(len(items), MAX_GROUPS)))


def result_tables(dataset: ray.data.Dataset) -> Iterator[pa.Table]:
    """The rows of a dataset as Arrow tables, a block each; errors as `stage_errors` gives them."""
    with stage_errors():
        yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow")


@contextmanager
def stage_errors() -> Iterator[None]:
    """A HyenaError or OSError of a stage is raised as itself; whatever else Ray could not cure is a ClusterError."""
    try:
        yield
    except RayTaskError as error:
        raise _original(error) from None
    except RayError as error:
        raise ClusterError(f"Ray could not finish a stage of preprocessing ({error}); the same command goes on where it stopped") from error


def _original(error: RayTaskError) -> Exception:
    """What the stage raised, without what Ray wrote behind its message."""
    cause = error.cause
    if isinstance(cause, HyenaError):
        return type(cause)(str(cause).split("\nFailed to apply UDF")[0])
    return cause if isinstance(cause, OSError) else error


@contextmanager
def ray_data_context() -> Iterator[None]:
    """Keep Ray Data's bars and log off the terminal (its log files stay), let a stage's own exceptions through, and use all CPUs."""
    context = ray.data.DataContext.get_current()
    wanted = {
        "enable_progress_bars": False,
        "raise_original_map_exception": True,
        # Reserving resources for an operator, Ray Data 2.60 grants a stage one CPU until its autoscaler has answered, seconds later.
        "op_resource_reservation_enabled": False,
    }
    before = {name: getattr(context, name) for name in wanted}
    on_terminal = [h for h in logging.getLogger("ray.data").handlers if type(h).__name__ == "PlainRayHandler"]
    levels = [handler.level for handler in on_terminal]
    for name, value in wanted.items():
        setattr(context, name, value)
    for handler in on_terminal:
        handler.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(context, name, value)
        for handler, level in zip(on_terminal, levels, strict=True):
            handler.setLevel(level)
