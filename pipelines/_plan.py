"""What a run will do, for `--dry-run`: its timeline in words, and how long it will take by a probe of some steps. On the driver."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from secrets import token_hex
from tempfile import mkdtemp
from typing import Any

from hyena_glt.config import Config
from hyena_glt.data.storage import Location, Url, location, remove_folder
from hyena_glt.evaluation.cost import duration
from hyena_glt.training.launch import probe_on_ray
from hyena_glt.training.plan import Plan, states
from hyena_glt.training.probe import Timing

PROBE_STEPS = 20

log = logging.getLogger(__name__)


def announce_timeline(plan: Plan) -> None:
    """A line for each change; nothing for a run without any."""
    before: dict[str, Any] = {}
    changes = states(plan)
    for state in changes if len(changes) > 1 else ():
        place = {"step", "epoch"}
        changed = {name: value for name, value in state.items() if name not in place and before.get(name) != value}
        log.info("from step %s (epoch %.2f): %s", f"{state['step']:,}", state["epoch"], ", ".join(map(_words, changed.items())))
        before = state


def _words(item: tuple[str, Any]) -> str:
    name, value = item
    return f"{name.replace('_', ' ')} {value:,}" if isinstance(value, int) else f"{name.replace('_', ' ')} {value}"


def estimate(cfg: Config, plan: Plan, *, sizes: Sequence[int], use_gpu: bool, steps: int) -> dict[str, Any]:
    """How long the whole run will take, from `steps` real steps, an evaluation and a save on the workers that it will have."""
    timing = _probe(cfg, sizes=sizes, use_gpu=use_gpu, steps=steps)
    saves = -(-plan.total_steps // cfg.logging.save_interval)
    evaluations = len(plan.timeline.validations(cfg.logging.eval_interval))
    rows = plan.rows_before(plan.total_steps)
    seconds = rows * timing.seconds_per_row + evaluations * timing.evaluation_s + saves * timing.save_s
    device, devices = "gpu" if use_gpu else "cpu", timing.workers * cfg.cluster.devices_per_worker(use_gpu)
    log.info(
        "about %s: %s steps at %s tokens/s (measured over %d steps), %d evaluations of %.1f s, %d checkpoints of %.1f s; starting and "
        "compiling come once on top (%.0f s)",
        duration(seconds), f"{plan.total_steps:,}", f"{timing.tokens_per_s:,.0f}", timing.steps, evaluations, timing.evaluation_s,
        saves, timing.save_s, timing.start_s,
    )
    return {
        "estimated_s": seconds, f"estimated_{device}_hours": seconds * devices / 3600, "probe_steps": timing.steps,
        "probe_tokens_per_s": timing.tokens_per_s, "evaluation_s": timing.evaluation_s, "save_s": timing.save_s,
        "start_s": timing.start_s,
    }


def _probe(cfg: Config, *, sizes: Sequence[int], use_gpu: bool, steps: int) -> Timing:
    """A run of its own in a hidden folder beside the run folder, which every worker sees and which goes again."""
    beside = location(str(cfg.training.output_dir)).parent
    if isinstance(beside, Url):
        return _probe_in_store(cfg, beside / f".probe-{token_hex(4)}", sizes=sizes, use_gpu=use_gpu, steps=steps)
    made = not beside.exists()
    beside.mkdir(parents=True, exist_ok=True)
    folder = Path(mkdtemp(prefix=".probe-", dir=beside))
    try:
        (folder / "checkpoints").mkdir()
        return probe_on_ray(_without_services(cfg, folder), folder, sizes=sizes, use_gpu=use_gpu, steps=steps)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if made:
            with suppress(OSError):  # another run may have begun there meanwhile
                beside.rmdir()


def _probe_in_store(cfg: Config, folder: Url, *, sizes: Sequence[int], use_gpu: bool, steps: int) -> Timing:
    try:
        return probe_on_ray(_without_services(cfg, folder), folder, sizes=sizes, use_gpu=use_gpu, steps=steps)
    finally:
        remove_folder(folder)


def _without_services(cfg: Config, folder: Location) -> Config:
    quiet = replace(cfg.logging, use_wandb=False, use_tensorboard=False)
    return replace(cfg, logging=quiet, training=replace(cfg.training, output_dir=str(folder)))
