"""What a run will do, worked out before anything starts: steps, tokens, workers, and what it will ignore. Pure arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..config.tree import TrainingConfig
from ..errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The arithmetic of a run; intervals count optimizer steps."""

    world_size: int
    batch_size: int
    accumulation_steps: int
    global_rows: int
    """Rows in a global batch; fixed for the whole run, whatever the number of workers."""
    width: int
    """Tokens in a row."""
    num_rows: int
    """Rows in an epoch."""
    total_steps: int
    warmup_steps: int
    notes: tuple[str, ...] = ()
    """Sentences that a user should read before a long run."""

    @property
    def tokens_per_step(self) -> int:
        """Positions in a global batch, padding included."""
        return self.global_rows * self.width

    def epoch(self, step: int) -> float:
        """Epochs done after `step` steps."""
        return step * self.global_rows / self.num_rows


def divide_batch(global_rows: int, batch_size: int, world_size: int) -> int:
    """Accumulation steps such that world_size * batch_size * steps = global_rows; ConfigError names the worker counts that work."""
    if global_rows % (batch_size * world_size):
        fitting = [n for n in range(1, global_rows // batch_size + 1) if global_rows % (batch_size * n) == 0]
        raise ConfigError(
            f"cluster.train_workers: {world_size} workers of batch_size {batch_size} do not divide this run's global batch of "
            f"{global_rows} rows; these do: {', '.join(map(str, fitting)) or 'none'}"
        )
    return global_rows // (batch_size * world_size)


def make_plan(
    cfg: TrainingConfig, *, world_size: int, num_rows: int, width: int, padding_share: float = 0.0, global_rows: int | None = None
) -> Plan:
    """The plan for `world_size` workers over `num_rows` rows; `global_rows` is given when a run goes on."""
    rows = global_rows or world_size * cfg.batch_size * cfg.gradient_accumulation_steps
    limits = {  # one division, at the end: 100 * (7 / 25) is more than 28, and would end a step late
        "num_epochs": math.ceil(cfg.num_epochs * num_rows / rows) if cfg.num_epochs else None,
        "max_steps": cfg.max_steps,
        "max_tokens": math.ceil(cfg.max_tokens / (rows * width * (1.0 - padding_share))) if cfg.max_tokens else None,
    }
    given = [limit for limit in limits.values() if limit is not None]
    if not given:
        raise ConfigError("training: one of num_epochs, max_steps and max_tokens is needed, or the run would never end")
    plan = Plan(
        world_size=world_size, batch_size=cfg.batch_size, accumulation_steps=divide_batch(rows, cfg.batch_size, world_size),
        global_rows=rows, width=width, num_rows=num_rows, total_steps=min(given), warmup_steps=cfg.warmup_steps,
        notes=tuple(_notes(cfg, min(given), rows, num_rows, padding_share)),
    )
    return plan


def _notes(cfg: TrainingConfig, total_steps: int, global_rows: int, num_rows: int, padding_share: float) -> list[str]:
    notes = []
    if cfg.warmup_steps >= total_steps:
        notes.append(
            f"training.warmup_steps ({cfg.warmup_steps:,}) is not shorter than the run ({total_steps:,} steps): "
            f"the learning rate never reaches its peak"
        )
    if padding_share > 0.2:
        notes.append(
            f"{padding_share:.0%} of the positions are padding; a shorter data.sequence_length or preprocessing.max_length wastes less"
        )
    if global_rows > num_rows:
        notes.append(f"one global batch ({global_rows:,} rows) is more than the training split holds ({num_rows:,}): rows repeat in a step")
    return notes
