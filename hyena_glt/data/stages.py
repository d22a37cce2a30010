"""Run a Ray Data stage from the driver: quietly, results as they come, and errors as they were raised on the worker."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import pyarrow as pa
import ray
import ray.data
from ray.exceptions import RayError, RayTaskError

from ..errors import ClusterError, HyenaError

MAX_BLOCKS = 4096
"""Ray schedules blocks of tasks; more than this many cost more to keep track of than they spread the work."""

BLOCK_BASES = 1 << 25
"""Bases of work in a block, where there are enough: about half a second."""

Row = Mapping[str, object]


def task_rows(tasks: Iterable[Row], *, bases: int | None = None) -> ray.data.Dataset:
    """A dataset with one row a task, spread so that each can run anywhere.

    With `bases`, the work of all tasks, small ones share a block: each block costs Ray some milliseconds.
    """
    rows = list(tasks)
    wanted = len(rows) if bases is None else max(4 * int(ray.cluster_resources().get("CPU", 1)), -(-bases // BLOCK_BASES))
    return ray.data.from_items(rows, override_num_blocks=max(1, min(len(rows), wanted, MAX_BLOCKS)))


def results(dataset: ray.data.Dataset) -> Iterator[Row]:
    """The rows of a dataset, in the order in which they come to be; errors as `stage_errors` gives them."""
    with stage_errors():
        yield from dataset.iter_rows()


def result_tables(dataset: ray.data.Dataset) -> Iterator[pa.Table]:
    """The same as Arrow tables, a block each."""
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
        raise ClusterError(f"Ray could not finish a stage ({error}); the same command goes on where it stopped") from error


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
