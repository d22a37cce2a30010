"""A run made ready: data opened, model built, weights, optimizer and position restored. Runs on the workers."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

from ..config import Config, config_to_dict, only_task
from ..data.augment import build_augmentation
from ..data.batches import TrainingBatches
from ..data.dataset import Rows
from ..data.difficulty import write_ranks
from ..data.mixture import Mixture, open_training, open_validation
from ..data.storage import Location, size
from ..model import build_model
from ..model.weights import load_weights
from ..objectives import Objective, build_objective
from .checkpoint import (
    CHECKPOINTS,
    PASSED_OVER,
    WEIGHTS_FILE,
    CheckpointInfo,
    Progress,
    damage,
    newest_whole,
    none_whole,
    read_info,
    resolve_checkpoint,
    step_name,
    step_of,
)
from .copies import fetched, on_each_node
from .desk import Desk
from .engine import Engine, build_engine, make_universal
from .feed import Course, Feed
from .metrics import CONTINUED, Meter, Report, RunLog
from .orders import require_visible
from .plan import Plan, plan_run
from .precision import choose_precision, initial_loss_scale
from .saver import Saver
from .watchdog import stack_file
from .worker import Worker


@dataclass(slots=True)
class Run:
    """All that the loop works with; `progress`, `meter`, `validated` and, at a plateau, `plan` change."""

    cfg: Config
    worker: Worker
    plan: Plan
    engine: Engine
    objective: Objective
    mixture: Mixture
    validation: dict[str, Rows]
    """By domain; empty where there is none."""
    log: RunLog | None
    precision: str
    progress: Progress
    num_parameters: int
    data_checksum: str
    feed: Feed
    saver: Saver
    desk: Desk
    meter: Meter = field(default_factory=Meter)
    validated: int = 0
    """Step of the last validation of this start."""
    entered: float = field(default_factory=time.monotonic)
    _seconds_before: float = 0.0

    def worker_seconds(self) -> float:
        """Wall time of all workers together, earlier starts included."""
        return self._seconds_before + (time.monotonic() - self.entered) * self.worker.world_size

    def write(self, report: Report) -> None:
        """One report to the run's logs, on rank 0."""
        if self.log:
            self.log.write(report)

    def write_saves(self) -> None:
        """What has become of the checkpoints since the last call."""
        for report in self.saver.take_reports():
            self.write(report)
            if report["kind"] == "save":
                self.worker.show({"saved_step": report["step"], "writing_s": report["writing_s"]})

    def replan(self) -> Plan:
        """The plan with what plateaus have moved so far."""
        return plan_run(
            self.cfg, self.mixture, world_size=self.worker.world_size, global_rows=self.plan.global_rows, moves=self.progress.moves
        )

    def close(self) -> None:
        """End the loader's processes, what is still being written, and the logs."""
        with ExitStack() as last_first:
            last_first.callback(self.desk.close, failed=sys.exception() is not None)
            if self.log:
                last_first.callback(self.log.close)
            last_first.callback(self.saver.close)
            last_first.callback(self.feed.close)


def prepare(cfg: Config, worker: Worker, rolled_back: Progress | None = None) -> Run:
    """Open the data, build the model, and restore weights, optimizer and position; after a roll-back with that progress."""
    mixture, validation = open_training(cfg.data), open_validation(cfg.data)
    objective = build_objective(only_task(cfg.tasks), mixture.tokenizer)
    warnings: list[str] = []
    precision = choose_precision(cfg.hardware, worker.device.type)
    with find_checkpoint(worker, warnings) as found:
        info = read_info(found) if found else None
        moves, global_rows = (info.progress.moves, info.global_rows) if info else ({}, None)
        plan = plan_run(cfg, mixture, world_size=worker.world_size, global_rows=global_rows, moves=moves)
        model = initial_model(cfg, vocab_size=mixture.tokenizer.vocab_size, causal=objective.causal, start=found)
        num_parameters = sum(p.numel() for p in model.parameters())
        engine, progress = _restore(cfg, worker, plan, model, precision, found, info)
    progress = rolled_back or progress
    desk = Desk(worker.run, worker.token, continued=CONTINUED if worker.leads else (), outdated=[stack_file(worker.rank)])
    log = _open_log(cfg, worker, desk) if worker.leads else None
    checksum = mixture.checksum()
    feed = _open_feed(cfg, worker, plan, mixture, objective, progress, checksum)
    saver = Saver(worker.run, worker.token, worker.rank, worker.world_size, cfg.logging.save_retry_s)
    run = Run(
        cfg, worker, plan, engine, objective, mixture, validation, log, precision, progress, num_parameters, checksum, feed, saver,
        desk, _seconds_before=progress.worker_seconds,
    )
    for warning in warnings:
        run.write({"kind": "warning", "step": progress.step, "message": warning})
    return run


@contextmanager
def find_checkpoint(worker: Worker, warnings: list[str]) -> Iterator[Path | None]:
    """The newest checkpoint whose every file is as it was written, or None; on rank 0 a sentence for each that was passed over.

    Rank 0 chooses, for all must go on from the same one; of a run in a store each node has a copy while the block runs. Each rank reads
    a part of the files. Every rank must call it. CheckpointError where there are some, and each is damaged.
    """
    before, passed_over = math.inf, list[str]()
    while True:
        chosen = _newest_whole(worker, passed_over, before) if worker.leads else None
        step = int(worker.sum(step_of(chosen) if chosen else -1 - bool(passed_over) if worker.leads else 0))
        if step == -2:
            raise none_whole(worker.run, passed_over)
        if step == -1:
            yield None
            return
        folder = worker.run / CHECKPOINTS / step_name(step)
        with on_each_node(worker, folder) as here:
            if not int(worker.sum(_damage_of_part(worker, here) is not None)):
                warnings += passed_over
                yield here
                return
            if worker.leads:
                problem = damage(here) or f"{folder}: the copy on another node is not as it was written"
                passed_over.append(f"{PASSED_OVER}: {problem.replace(str(here), str(folder))}")
        before = step


def _newest_whole(worker: Worker, passed_over: list[str], before: float) -> Location | None:
    """On rank 0; StorageError where the run folder is not to be seen, which is not a run without checkpoints."""
    chosen = newest_whole(worker.run, passed_over, before=before)
    if chosen is None:
        require_visible(worker.run)
    return chosen


def _damage_of_part(worker: Worker, here: Path) -> str | None:
    """What this rank finds in its part of a checkpoint: of the run folder's, or of the node's own copy."""
    if isinstance(worker.run, Path):
        return damage(here, part=worker.rank, parts=worker.world_size)
    return damage(here) if worker.leads_disk else None


def _open_log(cfg: Config, worker: Worker, desk: Desk) -> RunLog:
    return RunLog(desk.folder, cfg.logging, settings=config_to_dict(cfg), name=worker.run.name, require_owner=worker.require_owner)


def _open_feed(
    cfg: Config, worker: Worker, plan: Plan, mixture: Mixture, objective: Objective, progress: Progress, checksum: str
) -> Feed:
    data, hardware, seed = cfg.data, cfg.hardware, cfg.training.seed
    batches = TrainingBatches(
        mixture, objective, seed, data.shuffle_row_groups, build_augmentation(data, seed), _ranks(cfg, worker, mixture, checksum)
    )
    course = Course(plan, mixture, data, seed, progress.skips)
    return Feed(batches, hardware.num_workers, hardware.pin_memory and worker.device.type == "cuda", worker.rank, course, progress.step)


def _ranks(cfg: Config, worker: Worker, mixture: Mixture, checksum: str) -> Location | None:
    """The file of the rows' difficulty where the curriculum needs it; rank 0 writes it at the first start."""
    if cfg.curriculum is None or cfg.curriculum.difficulty is None:
        return None
    measure = cfg.curriculum.difficulty.measure
    path = worker.run / f"difficulty_{measure}_{checksum[:16]}.npz"
    if worker.leads and size(path) is None:
        write_ranks(path, mixture, measure)
    worker.barrier()
    return path


def initial_model(cfg: Config, *, vocab_size: int, causal: bool, start: Location | None = None) -> nn.Module:
    """The model with the weights of checkpoint `start`, else of `training.init_from`, else with the seed's."""
    torch.manual_seed(cfg.training.seed)  # the same weights on every rank
    model = build_model(cfg.model, vocab_size=vocab_size, causal=causal)
    model.backbone.gradient_checkpointing = cfg.hardware.gradient_checkpointing
    if start is None and cfg.training.init_from:
        start = resolve_checkpoint(cfg.training.init_from)
    if start is not None:
        with fetched(start, WEIGHTS_FILE) as folder:
            load_weights(model, folder / WEIGHTS_FILE)
    return model


def _restore(
    cfg: Config, worker: Worker, plan: Plan, model: nn.Module, precision: str, found: Path | None, info: CheckpointInfo | None
) -> tuple[Engine, Progress]:
    """An engine in the state of checkpoint `found`, or in the initial one."""
    universal = info is not None and info.has_optimizer and info.world_size != worker.world_size and info.zero_stage > 0
    if universal and worker.leads_disk:
        make_universal(found, worker.device.type)
    worker.barrier()
    engine = build_engine(
        model, cfg.hardware, cfg.training, device=worker.device, precision=precision,
        accumulation_steps=plan.max_micro_steps, universal=universal,
    )
    if found is None or info is None or not info.has_optimizer:
        return engine, Progress(loss_scale=initial_loss_scale(precision))
    engine.load(found, universal=universal)
    progress = replace(info.progress, stopped_by=None)
    if (progress.loss_scale > 1.0) != (precision == "fp16"):  # the precision has changed
        progress = replace(progress, loss_scale=initial_loss_scale(precision), good_steps=0)
    return engine, progress
