"""The training loop: restore, step, evaluate, save. Plain torch behind `Engine` and `Worker`; it knows nothing of Ray."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from ..config import Config, dump_config
from ..data.batches import Batch, EvaluationBatches, load
from ..data.dataset import Rows
from ..data.manifest import TOKENIZER
from ..errors import ClusterError
from .checkpoint import BEST, CONFIG_FILE, CheckpointInfo, Progress, finished, read_info
from .guard import MAX_BAD_STEPS, after_evaluation, after_good_step, fault, is_guarded, is_impatient, stage_ended
from .metrics import (
    ROLLED_BACK,
    SKIPPED,
    Meter,
    Report,
    bits_per_base,
    by_domain,
    device_facts,
    device_metrics,
    loss_metrics,
    peak_flops,
)
from .precision import next_loss_scale
from .prepare import Run, find_checkpoint, prepare
from .saver import Wanted
from .statistics import observed, statistics
from .timeline import Stage
from .watchdog import watched
from .worker import GROWING, INTERRUPTED, WITHDRAWN, Worker

HOLD_POLL_S = 0.02
LOWER_RATE = (
    "Lower training.learning_rate or training.max_grad_norm, set training.on_bad_step to skip or roll_back, or check the data, and run "
    "the same command to go on from the last checkpoint"
)


def train(cfg: Config, worker: Worker) -> Progress:
    """Train to the last step, going on from the run folder's newest whole checkpoint if it has one."""
    rolled_back = None
    while True:
        run = prepare(cfg, worker, rolled_back)
        try:
            return _train(run)
        except RolledBack as again:
            rolled_back = again.progress
        finally:
            run.close()
            del run
        _free_memory()  # of the engine that was left, before another is built


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class RolledBack(Exception):
    """A bad step sends the run back to its last checkpoint, with the progress that it goes on with there."""

    def __init__(self, progress: Progress) -> None:
        super().__init__(progress)
        self.progress = progress


def _train(run: Run) -> Progress:
    _start_report(run)
    run.engine.train()
    run.meter = Meter()
    with watched(run.desk.folder, run.worker.rank, run.cfg.cluster.stall_timeout_s) as alive:
        _take_steps(run, alive)
    run.saver.wait()
    _end_report(run)
    return run.progress


def _take_steps(run: Run, alive: Callable[[], None]) -> None:
    """Step, log, evaluate and save until the run ends."""
    reason, start = None, run.progress.step
    while reason is None and run.progress.step < run.plan.total_steps:
        alive()
        _wait_while_held(run, alive)
        step, stage = run.progress.step, run.plan.stage(run.progress.step)
        torch.manual_seed(hash((run.cfg.training.seed, step, run.worker.rank)))  # dropout too is a function of the step
        if step in (start, stage.first_step):
            run.engine.set_dropout(run.cfg.model.dropout if stage.dropout is None else stage.dropout)
        rate = stage.rate(step)
        stop = take_step(run, rate)
        reason = "finished" if run.progress.step >= run.plan.total_steps else stop
        _log_if_due(run, rate, last=reason is not None)
        early = _evaluate_if_due(run, last=reason == "finished")
        _save_if_due(run, reason or early)
        reason = reason or early


def _wait_while_held(run: Run, alive: Callable[[], None]) -> None:
    """Stand at the validation at which the driver holds the run, until it may go on.

    All workers ask together, again and again: one long wait for rank 0 would look like a stall, end at `cluster.collective_timeout_s`, and
    hide that the checkpoint which the driver waits for cannot be written.
    """
    with run.meter.paused():
        while run.validated == run.progress.step and float(run.worker.sum(run.worker.is_held(run.validated))):
            alive()
            run.saver.check()
            time.sleep(HOLD_POLL_S)


def take_step(run: Run, rate: float) -> str | None:
    """One optimizer step on the weighted mean over all scored tokens of the global batch; returns why the run shall end with it."""
    run.saver.check()
    with run.meter.waiting():
        batches = run.feed.next_step()
    domain_tokens = (sum(of_domain) for of_domain in zip(*(b.domain_tokens for b in batches), strict=True))
    wishes = run.worker.stop_requested(), run.worker.growth_requested(), run.worker.wants_to_look()
    with run.meter.waiting_for_peers():
        weight, stop, grow, look, *tokens = run.worker.sum(sum(b.total_weight for b in batches), *wishes, *domain_tokens).tolist()
    run.engine.set_rate(rate)
    run.engine.scale_loss(run.progress.loss_scale)
    every = run.cfg.logging.statistics_interval
    with observed(run.engine.model, bool(every and (run.progress.step + 1) % every == 0)) as activations:
        good = _accumulate(run, batches, weight)
    if activations.report and good:
        run.write({"kind": "statistics", "step": run.progress.step + 1, **statistics(run.engine, activations)})
    if good and not run.engine.step() and run.precision != "fp16":  # with fp16 it is the loss scale's business
        _answer(run, "the gradient is not finite")
    run.progress = _advanced(run.progress, dict(zip(run.mixture.domains, map(int, tokens), strict=True)))
    if run.precision == "fp16":
        run.progress = next_loss_scale(run.progress, overflowed=run.engine.grad_norm() is None)
    if stop:
        return INTERRUPTED
    if grow:
        return GROWING
    return WITHDRAWN if look and run.worker.is_withdrawn() else None


def _accumulate(run: Run, batches: list[Batch], weight: float) -> bool:
    """Add up the gradient of the global batch; False where the step is bad and was left out."""
    step_loss = torch.zeros((), device=run.worker.device)
    # DeepSpeed averages gradients over workers; a mean over the scored tokens of all of them is wanted.
    factor, sums = run.worker.world_size / (weight or 1.0), []
    for number, batch in enumerate(batches, 1):
        last = number == len(batches)
        with run.meter.computing(run.worker.device):
            loss_sum, hits = run.engine.loss(batch.to(run.worker.device))
        step_loss = step_loss + loss_sum.detach()
        if last and not _is_good(run, step_loss, weight):
            run.engine.drop(loss_sum * factor)
            return False
        run.engine.backward(loss_sum * factor, last=last)
        sums.append((loss_sum.detach(), hits.detach(), batch))
    for measured in sums:  # only now: nothing of a step that was left out is counted
        run.meter.add(*measured)
    return True


def _is_good(run: Run, own_loss: torch.Tensor, weight: float) -> bool:
    """Whether the global batch may move the weights; what else happens is `training.on_bad_step`'s choice."""
    training = run.cfg.training
    if not is_guarded(training) or not weight:  # a step that scores nothing has no loss
        return True
    loss = float(run.worker.sum(float(own_loss))) / weight
    found = fault(loss, run.progress, training.spike_factor)
    if found is None:
        run.progress = after_good_step(loss, run.progress)
        return True
    _answer(run, found)
    return False


def _answer(run: Run, found: str) -> None:
    """Say what was found at a bad step; skip it, go back to the last checkpoint, or stop."""
    progress, choice = run.progress, run.cfg.training.on_bad_step
    before = _last_progress(run) if choice == "roll_back" else None
    number = progress.step + 1
    if choice == "stop" or progress.bad_steps >= MAX_BAD_STEPS or (choice == "roll_back" and before is None):
        many = f", the {MAX_BAD_STEPS + 1}th bad step in a row" if progress.bad_steps >= MAX_BAD_STEPS else ""
        raise ClusterError(f"{found} at step {number}{many}; nothing of it was saved. {LOWER_RATE}")
    if before is None:
        run.write({"kind": "warning", "step": number, "message": f"{found} at step {number}: the step was left out", "event": SKIPPED})
        run.progress = replace(progress, bad_steps=progress.bad_steps + 1)
        return
    course = run.feed.course
    rows = course.position(number) - course.position(before.step)
    skips = [skip for skip in progress.skips if skip[0] <= before.step]  # the checkpoint does not know of those made since
    if sum(step == before.step for step, _ in skips) >= MAX_BAD_STEPS:
        raise ClusterError(f"{found} at step {number}, after {MAX_BAD_STEPS} roll-backs to step {before.step}. {LOWER_RATE}")
    run.write({
        "kind": "warning", "step": number, "event": ROLLED_BACK, "back_to": before.step,
        "message": f"{found} at step {number}: back to step {before.step}, leaving out the {rows:,} rows since",
    })
    raise RolledBack(replace(
        before, skips=[*skips, [before.step, rows]], bad_steps=progress.bad_steps + 1, worker_seconds=run.worker_seconds(), stopped_by=None,
    ))


def _last_progress(run: Run) -> Progress | None:
    """Of the newest whole checkpoint, on all ranks the same, once that which is being written is whole too."""
    run.saver.wait()
    run.worker.barrier()
    with find_checkpoint(run.worker, []) as found:
        return read_info(found).progress if found else None


def _advanced(progress: Progress, tokens: dict[str, int]) -> Progress:
    """One step on, with the tokens of each domain."""
    domain_tokens = {name: progress.domain_tokens.get(name, 0) + number for name, number in tokens.items()}
    return replace(progress, step=progress.step + 1, tokens=progress.tokens + sum(tokens.values()), domain_tokens=domain_tokens)


def _log_if_due(run: Run, rate: float, *, last: bool) -> None:
    """Write the means since the last line. A loss that is not finite ends the run, its weights are not saved."""
    intervals = run.cfg.logging
    due = any(run.progress.step % every == 0 for every in (intervals.log_interval, intervals.eval_interval, intervals.save_interval))
    if not (due or last or _epoch_mark(run)):  # before each save too, so that no checkpoint holds weights that are not finite
        return
    run.write_saves()
    meter, run.meter = run.meter, Meter()
    total = Meter(*run.worker.sum(*meter.sums()).tolist(), meter.started)
    grad_norm = run.engine.grad_norm()
    if not total.scored:  # only padding, ambiguous bases and bases without weight since the last line
        return
    _require_finite(run, "training loss", total.mean_loss)
    report = {
        **_position(run, "train"),
        **loss_metrics(total.mean_loss, total.accuracy, run.mixture.tokenizer, causal=run.objective.causal), **_drawn(run),
        "learning_rate": rate, "grad_norm": grad_norm,
        "tokens_per_s": total.tokens_per_s(), "loader_wait_share": meter.loader_wait_share(), **_straggler(run, meter),
        "save_stalled_s": meter.stalled_s,
        **_mfu(run, total.tokens_per_s()), **device_metrics(run.worker.device),
        "skipped_steps": run.engine.skipped_steps(), **({"loss_scale": run.progress.loss_scale} if run.precision == "fp16" else {}),
    }
    run.write(report)
    run.worker.show(report)


def _straggler(run: Run, meter: Meter) -> Report:
    """How long this worker waits for the others to begin a step, and who is slowest by how much. Every rank must call it.

    The slowest by what each does for itself: in a backward pass all wait for each other (at ZeRO 3 in a forward pass too, which hides it).
    """
    if run.worker.world_size == 1:
        return {}
    wait = meter.peer_wait_s / max(1, meter.steps)
    own = run.worker.sum(*(meter.own_s() * (rank == run.worker.rank) for rank in range(run.worker.world_size)))
    return {"peer_wait_s": wait, "straggler_gap_s": float(own.max() - own.min()), "slowest_rank": int(own.argmax())}


def _drawn(run: Run) -> Report:
    """Rows and tokens drawn from each domain since the start of the run."""
    rows = run.feed.course.rows_drawn(run.progress.step)
    return by_domain("rows", dict(zip(run.mixture.domains, rows, strict=True))) | by_domain("tokens", run.progress.domain_tokens)


def _require_finite(run: Run, what: str, value: float) -> None:
    if not math.isfinite(value):
        raise ClusterError(
            f"the {what} is {value} at step {run.progress.step}; nothing of it was saved. {LOWER_RATE}"
        )


def _mfu(run: Run, tokens_per_s: float) -> Report:
    """Model FLOPs utilisation: 6 N operations a token for N parameters, over the device's bf16 peak."""
    peak = peak_flops(run.worker.device)
    return {"mfu": 6.0 * run.num_parameters * tokens_per_s / (peak * run.worker.world_size)} if peak else {}


def _evaluate_if_due(run: Run, *, last: bool) -> str | None:
    """Validate every `eval_interval` steps and at the end; returns "early_stopping" when the last stage's patience runs out."""
    stage = run.plan.stage(run.progress.step - 1)
    if not run.validation or (run.progress.step % (stage.eval_interval or run.cfg.logging.eval_interval) and not last):
        return _end_of_stage(run, stage)
    with run.meter.paused():
        figures = evaluate(run)
    if not figures:
        run.write({"kind": "warning", "step": run.progress.step, "message": "no token of the validation rows can be scored"})
        return None
    loss = figures["loss"]
    _require_finite(run, "validation loss", loss)
    run.progress = after_evaluation(loss, run.progress, run.cfg.curriculum.given() if run.cfg.curriculum else {})
    report = _position(run, "eval") | figures
    run.write(report)
    run.worker.report(report)
    if run.worker.leads:
        run.worker.show({"validation_loss": loss})
    run.validated = run.progress.step
    return _end_of_stage(run, stage)


def _end_of_stage(run: Run, stage: Stage) -> str | None:
    """Begin the next stage where this one is over, by its length or its patience; the plan follows what plateaus have moved."""
    step, impatient = run.progress.step, is_impatient(run.progress, stage.early_stopping_patience)
    if step >= stage.end_step and step < run.plan.total_steps:
        run.progress = replace(run.progress, evaluations_without_gain=0)
    elif impatient and stage.name == run.plan.timeline.stages[-1].name:
        return "early_stopping"
    elif impatient:
        run.progress = stage_ended(run.progress)
    if run.progress.moves != run.plan.moves:
        run.plan = run.replan()
        run.feed.follow(replace(run.feed.course, plan=run.plan), step)
    return None


def evaluate(run: Run) -> Report:
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
    best, epoch = run.progress.best_step == run.progress.step, _epoch_mark(run)
    regular = run.progress.step % run.cfg.logging.save_interval == 0
    if not (regular or reason or best or epoch):
        return
    began = time.monotonic()
    with run.meter.paused():
        save(run, reason, regular=regular, pointers=([BEST] if best else []) + ([f"epoch_{epoch}"] if epoch else []))
    run.meter.stalled_s += time.monotonic() - began


def _epoch_mark(run: Run) -> int | None:
    """N where this step completes epoch N and `epoch_N` is wanted."""
    every = run.cfg.logging.save_epochs
    if not every:
        return None
    before, now = (math.floor(run.plan.epoch(step) / every) for step in (run.progress.step - 1, run.progress.step))
    return now * every if now > before else None


def save(run: Run, reason: str | None, *, regular: bool, pointers: Sequence[str] = ()) -> None:
    """Copy the state of all ranks and let it be written behind the next steps, once the checkpoint before is whole."""
    run.saver.wait()
    progress = replace(run.progress, worker_seconds=run.worker_seconds())
    info = CheckpointInfo(
        progress=finished(progress, reason) if reason else progress, world_size=run.worker.world_size,
        zero_stage=run.cfg.hardware.zero_stage, global_rows=run.plan.global_rows, data_checksum=run.data_checksum, regular=regular,
    )
    texts = {CONFIG_FILE: dump_config(run.cfg), TOKENIZER: run.mixture.tokenizer.to_json()} if run.worker.leads else {}
    wanted = Wanted(info=info, texts=texts, pointers=tuple(pointers), keep=run.cfg.logging.keep_checkpoints)
    run.saver.begin(run.engine.snapshot(), wanted)
    run.progress = finished(run.progress, reason) if reason else run.progress


def _position(run: Run, kind: str) -> Report:
    return {
        "kind": kind, "step": run.progress.step, "total_steps": run.plan.total_steps, "tokens": run.progress.tokens,
        "epoch": run.plan.epoch(run.progress.step), "elapsed_s": run.worker_seconds() / run.worker.world_size,
    }


def _start_report(run: Run) -> None:
    if run.worker.leads:
        run.worker.show({"first_step": run.progress.step})
    run.write({
        **_position(run, "start"), "parameters": run.num_parameters, "world_size": run.worker.world_size, "precision": run.precision,
        **device_facts(run.worker.device), "zero_stage": run.cfg.hardware.zero_stage,
        "accumulation_steps": run.plan.accumulation_steps, "global_rows": run.plan.global_rows,
        # With these a reader works out the plan from the run folder alone, also where the data are gone.
        "num_rows": run.plan.num_rows, "width": run.plan.width, "padding_share": run.mixture.padding_share,
    })


def _end_report(run: Run) -> None:
    run.write_saves()
    device = "gpu" if run.worker.device.type == "cuda" else "cpu"
    hours = run.worker_seconds() * run.cfg.cluster.devices_per_worker(device == "gpu") / 3600.0
    cost = {f"{device}_hours": hours, f"tokens_per_{device}_hour": run.progress.tokens / hours}
    report = _position(run, "end") | {"reason": run.progress.stopped_by, **cost}
    run.write(report)
    run.worker.report(report)

