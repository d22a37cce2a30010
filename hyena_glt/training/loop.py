"""The training loop: restore, step, evaluate, save. Plain torch behind `Engine` and `Worker`; it knows nothing of Ray."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

from ..config import Config, TrainingConfig, config_to_dict, dump_config, only_task
from ..data.augment import build_augmentation
from ..data.batches import Batch, EvaluationBatches, Slice, TrainingBatches, load
from ..data.dataset import Rows
from ..data.mixture import Mixture, open_training, open_validation
from ..data.order import Interleave
from ..errors import ClusterError
from ..model import build_model
from ..model.weights import load_weights
from ..objectives import Objective, build_objective
from .checkpoint import (
    BEST,
    WEIGHTS_FILE,
    CheckpointInfo,
    Progress,
    atomic_write,
    clear_staging_folder,
    commit,
    finished,
    newest_whole,
    point,
    prune,
    read_info,
    resolve_checkpoint,
    staging_folder,
    step_name,
)
from .engine import Engine, build_engine, make_universal
from .metrics import Meter, Report, RunLog, bits_per_base, by_domain, device_metrics, loss_metrics, peak_flops
from .optim import learning_rate
from .plan import Plan, make_plan
from .precision import choose_precision, initial_loss_scale, next_loss_scale
from .worker import Worker


@dataclass(slots=True)
class Run:
    """All that the loop works with; only `progress` and `meter` change."""

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
    meter: Meter = field(default_factory=Meter)
    entered: float = field(default_factory=time.monotonic)
    _seconds_before: float = 0.0

    def worker_seconds(self) -> float:
        """Wall time of all workers together, earlier starts included."""
        return self._seconds_before + (time.monotonic() - self.entered) * self.worker.world_size


def train(cfg: Config, worker: Worker) -> Progress:
    """Train to the last step, going on from the run folder's newest whole checkpoint if it has one."""
    run = prepare(cfg, worker)
    start = run.progress.step
    _start_report(run)

    # A batch depends only on (data, seed, step), so starting here is an exact resume.
    micro_steps = range(start * run.plan.accumulation_steps, run.plan.total_steps * run.plan.accumulation_steps)
    stream = _training_stream(run, micro_steps)
    run.engine.train()
    run.meter = Meter()
    for step in range(start, run.plan.total_steps):
        torch.manual_seed(hash((cfg.training.seed, step, worker.rank)))  # dropout too is a function of the step
        rate = _rate(cfg.training, run.plan, step)
        stop = _take_step(run, stream, rate)
        reason = _end_reason(run, stop)
        _log_if_due(run, rate, last=reason is not None)
        early = _evaluate_if_due(run, last=reason == "finished")
        _save_if_due(run, reason or early)
        reason = reason or early
        if reason:
            break
    _end_report(run)
    return run.progress


def prepare(cfg: Config, worker: Worker) -> Run:
    """Open the data, build the model, and restore weights, optimizer and position."""
    mixture, validation = open_training(cfg.data), open_validation(cfg.data)
    objective = build_objective(only_task(cfg.tasks), mixture.tokenizer)
    warnings: list[str] = []
    found = newest_whole(worker.run, warnings)
    info = read_info(found) if found else None
    plan = make_plan(
        cfg.training, world_size=worker.world_size, num_rows=mixture.num_rows, width=mixture.width,
        padding_share=mixture.padding_share, global_rows=info.global_rows if info else None,
    )
    precision = choose_precision(cfg.hardware, worker.device.type)
    model = initial_model(cfg, vocab_size=mixture.tokenizer.vocab_size, causal=objective.causal, start=found)
    num_parameters = sum(p.numel() for p in model.parameters())
    engine, progress = _restore(cfg, worker, plan, model, precision, found, info)
    log = RunLog(worker.run, cfg.logging, settings=config_to_dict(cfg)) if worker.leads else None
    run = Run(
        cfg, worker, plan, engine, objective, mixture, validation, log, precision, progress, num_parameters,
        _seconds_before=progress.worker_seconds,
    )
    for warning in warnings:
        _write(run, {"kind": "warning", "step": progress.step, "message": warning})
    return run


def initial_model(cfg: Config, *, vocab_size: int, causal: bool, start: Path | None = None) -> nn.Module:
    """The model with the weights of checkpoint `start`, else of `training.init_from`, else with the seed's."""
    torch.manual_seed(cfg.training.seed)  # the same weights on every rank
    model = build_model(cfg.model, vocab_size=vocab_size, causal=causal)
    model.backbone.gradient_checkpointing = cfg.hardware.gradient_checkpointing
    if start is None and cfg.training.init_from:
        start = resolve_checkpoint(cfg.training.init_from)
    if start is not None:
        load_weights(model, start / WEIGHTS_FILE)
    return model


def _restore(
    cfg: Config, worker: Worker, plan: Plan, model: nn.Module, precision: str, found: Path | None, info: CheckpointInfo | None
) -> tuple[Engine, Progress]:
    """An engine in the state of checkpoint `found`, or in the initial one."""
    universal = info is not None and info.has_optimizer and info.world_size != worker.world_size and info.zero_stage > 0
    if universal and worker.leads:
        make_universal(found, worker.device.type)
    worker.barrier()
    engine = build_engine(
        model, cfg.hardware, cfg.training, device=worker.device, precision=precision,
        accumulation_steps=plan.accumulation_steps, universal=universal,
    )
    if found is None or info is None or not info.has_optimizer:
        return engine, Progress(loss_scale=initial_loss_scale(precision))
    engine.load(found, universal=universal)
    progress = replace(info.progress, stopped_by=None)
    if (progress.loss_scale > 1.0) != (precision == "fp16"):  # the precision has changed
        progress = replace(progress, loss_scale=initial_loss_scale(precision), good_steps=0)
    return engine, progress


def _rate(cfg: TrainingConfig, plan: Plan, step: int) -> float:
    floor = cfg.learning_rate / 10 if cfg.min_learning_rate is None else cfg.min_learning_rate
    return learning_rate(step, peak=cfg.learning_rate, floor=floor, warmup_steps=plan.warmup_steps, total_steps=plan.total_steps)


def _training_stream(run: Run, micro_steps: range) -> Iterator[Batch]:
    part = Slice(run.worker.rank, run.worker.world_size, run.plan.batch_size, run.plan.accumulation_steps)
    data, hardware, seed = run.cfg.data, run.cfg.hardware, run.cfg.training.seed
    batches = TrainingBatches(run.mixture, run.objective, seed, part, data.shuffle_row_groups, build_augmentation(data, seed))
    return load(batches, micro_steps, num_workers=hardware.num_workers, pin_memory=hardware.pin_memory and run.worker.device.type == "cuda")


def _take_step(run: Run, stream: Iterator[Batch], rate: float) -> bool:
    """One optimizer step on the weighted mean over all scored tokens of the global batch; returns whether a stop was asked for."""
    with run.meter.waiting():
        batches = [next(stream) for _ in range(run.plan.accumulation_steps)]
    domain_tokens = (sum(of_domain) for of_domain in zip(*(b.domain_tokens for b in batches), strict=True))
    weight, stop, *tokens = run.worker.sum(
        sum(b.total_weight for b in batches), float(run.worker.stop_requested(run.progress.step)), *domain_tokens
    ).tolist()
    run.engine.set_rate(rate)
    run.engine.scale_loss(run.progress.loss_scale)
    for batch in batches:
        loss_sum, hits = run.engine.loss(batch.to(run.worker.device))
        # DeepSpeed averages gradients over workers; a mean over the scored tokens of all of them is wanted.
        run.engine.backward(loss_sum * (run.worker.world_size / (weight or 1.0)))
        run.meter.add(loss_sum.detach(), hits.detach(), batch)
    run.progress = _advanced(run.progress, dict(zip(run.mixture.domains, map(int, tokens), strict=True)))
    if run.precision == "fp16":
        run.progress = next_loss_scale(run.progress, overflowed=run.engine.grad_norm() is None)
    return stop > 0


def _advanced(progress: Progress, tokens: dict[str, int]) -> Progress:
    """One step on, with the tokens of each domain."""
    domain_tokens = {name: progress.domain_tokens.get(name, 0) + number for name, number in tokens.items()}
    return replace(progress, step=progress.step + 1, tokens=progress.tokens + sum(tokens.values()), domain_tokens=domain_tokens)


def _end_reason(run: Run, stop: bool) -> str | None:
    if run.progress.step >= run.plan.total_steps:
        return "finished"
    return "interrupted" if stop else None


def _log_if_due(run: Run, rate: float, *, last: bool) -> None:
    """Write the means since the last line. A loss that is not finite ends the run, its weights are not saved."""
    intervals = run.cfg.logging
    due = any(run.progress.step % every == 0 for every in (intervals.log_interval, intervals.eval_interval, intervals.save_interval))
    if not (due or last or _epoch_mark(run)):  # before each save too, so that no checkpoint holds weights that are not finite
        return
    meter, run.meter = run.meter, Meter()
    total = Meter(*run.worker.sum(*meter.sums()).tolist(), meter.started)
    grad_norm = run.engine.grad_norm()
    if not total.scored:  # only padding, ambiguous bases and bases without weight since the last line
        return
    _require_finite(run, "training loss", total.mean_loss)
    _write(run, {
        **_position(run, "train"),
        **loss_metrics(total.mean_loss, total.accuracy, run.mixture.tokenizer, causal=run.objective.causal), **_drawn(run),
        "learning_rate": rate, "grad_norm": grad_norm,
        "tokens_per_s": total.tokens_per_s(), "loader_wait_share": meter.loader_wait_share(),
        **_mfu(run, total.tokens_per_s()), **device_metrics(run.worker.device),
        "skipped_steps": run.engine.skipped_steps(), **({"loss_scale": run.progress.loss_scale} if run.precision == "fp16" else {}),
    })


def _drawn(run: Run) -> Report:
    """Rows and tokens drawn from each domain since the start of the run."""
    stream = Interleave(run.mixture.shares, seed=run.cfg.training.seed)
    rows = stream.drawn(run.progress.step * run.plan.global_rows).tolist()
    return by_domain("rows", dict(zip(run.mixture.domains, rows, strict=True))) | by_domain("tokens", run.progress.domain_tokens)


def _require_finite(run: Run, what: str, value: float) -> None:
    if not math.isfinite(value):
        raise ClusterError(
            f"the {what} is {value} at step {run.progress.step}; nothing of it was saved. Lower training.learning_rate or "
            f"training.max_grad_norm, or check the data, and run the same command to go on from the last checkpoint"
        )


def _mfu(run: Run, tokens_per_s: float) -> Report:
    """Model FLOPs utilisation: 6 N operations a token for N parameters, over the device's bf16 peak."""
    peak = peak_flops(run.worker.device)
    return {"mfu": 6.0 * run.num_parameters * tokens_per_s / (peak * run.worker.world_size)} if peak else {}


def _evaluate_if_due(run: Run, *, last: bool) -> str | None:
    """Validate every `eval_interval` steps and at the end; returns "early_stopping" when patience runs out."""
    if not run.validation or (run.progress.step % run.cfg.logging.eval_interval and not last):
        return None
    with run.meter.paused():
        figures = _evaluate(run)
    if not figures:
        _write(run, {"kind": "warning", "step": run.progress.step, "message": "no token of the validation rows can be scored"})
        return None
    loss = figures["loss"]
    _require_finite(run, "validation loss", loss)
    progress = run.progress
    improved = progress.best_loss is None or loss < progress.best_loss
    if improved:
        run.progress = replace(progress, best_loss=loss, best_step=progress.step, evaluations_without_gain=0)
    else:
        run.progress = replace(progress, evaluations_without_gain=progress.evaluations_without_gain + 1)
    report = _position(run, "eval") | figures
    _write(run, report)
    run.worker.report(report)
    patience = run.cfg.training.early_stopping_patience
    return "early_stopping" if patience and run.progress.evaluations_without_gain >= patience else None


def _evaluate(run: Run) -> Report:
    """Loss and what follows from it over all validation rows, and by domain; empty where nothing can be scored.

    Each scored token counts 1, also where the training weighs tokens.
    """
    run.engine.train(False)
    with torch.no_grad():
        meters = {name: Meter(*run.worker.sum(*_measure(run, rows).sums()).tolist()) for name, rows in run.validation.items()}
    run.engine.train()
    total = Meter(*(sum(values) for values in zip(*(meter.sums() for meter in meters.values()), strict=True)))
    if not total.scored:
        return {}
    tokenizer, causal = run.mixture.tokenizer, run.objective.causal
    losses = {name: meter.mean_loss for name, meter in meters.items() if meter.scored}
    bits = {name: bits_per_base(loss, tokenizer, causal=causal) for name, loss in losses.items()}
    figures = loss_metrics(total.mean_loss, total.accuracy, tokenizer, causal=causal)
    return figures | by_domain("loss", losses) | by_domain("bits_per_base", bits)


def _measure(run: Run, rows: Rows) -> Meter:
    """This worker's part of the validation rows of one domain."""
    worker, meter = run.worker, Meter()
    batches = EvaluationBatches(
        rows, run.objective, run.plan.batch_size, worker.rank, worker.world_size, max_rows=run.cfg.training.eval_max_rows
    )
    for batch in load(batches, range(len(batches))):
        meter.add(*run.engine.loss(batch.to(worker.device)), batch)
    return meter


def _save_if_due(run: Run, reason: str | None) -> None:
    """Save every `save_interval` steps, at the end of the run, at each best evaluation and every `save_epochs` epochs."""
    logging, step = run.cfg.logging, run.progress.step
    best = run.progress.best_step == step
    epoch = _epoch_mark(run)
    regular = step % logging.save_interval == 0
    if not (regular or reason or best or epoch):
        return
    with run.meter.paused():
        save(run, reason, regular=regular)
    if not run.worker.leads:
        return
    if best:
        point(run.worker.run, BEST, step_name(step))
    if epoch:
        point(run.worker.run, f"epoch_{epoch}", step_name(step))
    prune(run.worker.run, keep=logging.keep_checkpoints)


def _epoch_mark(run: Run) -> int | None:
    """N where this step completes epoch N and `epoch_N` is wanted."""
    every = run.cfg.logging.save_epochs
    if not every:
        return None
    before, now = (math.floor(run.plan.epoch(step) / every) for step in (run.progress.step - 1, run.progress.step))
    return now * every if now > before else None


def save(run: Run, reason: str | None, *, regular: bool) -> None:
    """All ranks write their share, then rank 0 commits."""
    worker, staged = run.worker, staging_folder(run.worker.run, run.progress.step)
    progress = replace(run.progress, worker_seconds=run.worker_seconds())
    if worker.leads:
        clear_staging_folder(worker.run, run.progress.step)
    worker.barrier()
    run.engine.save(staged)
    worker.barrier()
    if worker.leads:
        atomic_write(staged / "config.yaml", dump_config(run.cfg))
        run.mixture.tokenizer.save(staged / "tokenizer.json")
        commit(worker.run, CheckpointInfo(
            progress=finished(progress, reason) if reason else progress, world_size=worker.world_size,
            zero_stage=run.cfg.hardware.zero_stage, global_rows=run.plan.global_rows,
            data_checksum=run.mixture.checksum(), regular=regular,
        ))
    worker.barrier()
    run.progress = finished(run.progress, reason) if reason else run.progress


def _position(run: Run, kind: str) -> Report:
    return {
        "kind": kind, "step": run.progress.step, "total_steps": run.plan.total_steps, "tokens": run.progress.tokens,
        "epoch": run.plan.epoch(run.progress.step), "elapsed_s": run.worker_seconds() / run.worker.world_size,
    }


def _start_report(run: Run) -> None:
    device = run.worker.device
    _write(run, {
        **_position(run, "start"), "parameters": run.num_parameters, "world_size": run.worker.world_size, "precision": run.precision,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu", "zero_stage": run.cfg.hardware.zero_stage,
        "accumulation_steps": run.plan.accumulation_steps, "global_rows": run.plan.global_rows,
    })


def _end_report(run: Run) -> None:
    kind = "gpu_hours" if run.worker.device.type == "cuda" else "cpu_hours"
    per_worker = run.cfg.cluster.gpus_per_worker if run.worker.device.type == "cuda" else run.cfg.cluster.cpus_per_worker
    report = _position(run, "end") | {"reason": run.progress.stopped_by, kind: run.worker_seconds() * per_worker / 3600.0}
    _write(run, report)
    if run.log:
        run.log.close()
    run.worker.report(report)


def _write(run: Run, report: Report) -> None:
    if run.log:
        run.log.write(report)
