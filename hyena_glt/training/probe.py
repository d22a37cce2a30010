"""Some real steps, an evaluation and a save, to tell how long a run will take. Runs on the workers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch

from ..config import Config
from ..data.storage import Location, read_bytes, write_bytes
from ..errors import ClusterError
from .loop import evaluate, save, take_step
from .prepare import Run, prepare
from .worker import INTERRUPTED, Worker

TIMING_FILE = "timing.json"


@dataclass(frozen=True, slots=True)
class Timing:
    """What was measured, over all workers."""

    steps: int
    workers: int
    seconds_per_row: float
    """A row of a global batch."""
    tokens_per_s: float
    """Positions of the data's rows, padding included."""
    evaluation_s: float
    save_s: float
    start_s: float
    """Until the steps that are timed began: opening data, building the model, compiling."""


def probe(cfg: Config, worker: Worker, steps: int) -> None:
    """Time `steps` steps of the run's longest stretch, after a fifth as many to warm up; rank 0 leaves the result in the run folder.

    ClusterError where the driver wants an end of it.
    """
    entered = time.monotonic()
    run = prepare(cfg, worker)
    try:
        stretch = max(run.plan.timeline.stretches, key=lambda part: (part.sequence_length or run.plan.width, part.rows))
        run.feed.follow(run.feed.course, stretch.first_step)
        run.engine.train()
        _seconds(run, lambda: _take_steps(run, max(1, steps // 5)))
        start_s = time.monotonic() - entered
        taking = _seconds(run, lambda: _take_steps(run, steps))
        evaluating = _seconds(run, lambda: evaluate(run)) if run.validation else 0.0
        saving = _seconds(run, lambda: save(run, None, regular=True))
    finally:
        run.close()
    rows = steps * stretch.rows
    if worker.leads:
        timing = Timing(steps, worker.world_size, taking / rows, rows * run.plan.width / taking, evaluating, saving, start_s)
        write_bytes(worker.run / TIMING_FILE, json.dumps(asdict(timing)).encode())
    worker.barrier()


def read_timing(run: Location) -> Timing:
    """What `probe` left."""
    return Timing(**json.loads(read_bytes(run / TIMING_FILE)))


def _take_steps(run: Run, number: int) -> None:
    for _ in range(number):
        # As long as any other step, and the weights stay finite whatever the schedule is.
        if take_step(run, rate=0.0) == INTERRUPTED:
            raise ClusterError("interrupted while the run was timed; nothing of the probe is left")


def _seconds(run: Run, act: Callable[[], object]) -> float:
    """Wall time of an act, the device's work included."""
    run.worker.barrier()
    began = time.monotonic()
    act()
    if run.worker.device.type == "cuda":
        torch.cuda.synchronize(run.worker.device)
    run.worker.barrier()
    return time.monotonic() - began
