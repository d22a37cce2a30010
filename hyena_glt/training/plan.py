"""What a run will do, worked out before anything starts: steps, tokens, workers, and what it will ignore. Pure arithmetic."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ..config.recipe import CurriculumConfig
from ..config.tree import Config, TrainingConfig
from ..data.mixture import Mixture
from ..errors import ConfigError
from .timeline import Moves, Sizes, Stage, Stretch, Timeline, limits_given, make_timeline


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The arithmetic of a run; intervals count optimizer steps."""

    world_size: int
    batch_size: int
    """Rows per worker and micro-step, at most."""
    global_rows: int
    """Rows in a full global batch; fixed for the whole run, whatever the number of workers."""
    width: int
    """Tokens in a row of the data."""
    num_rows: int
    """Rows in an epoch."""
    timeline: Timeline
    moves: Moves
    """What the timeline knows of plateaus."""
    notes: tuple[str, ...] = ()
    """Sentences that a user should read before a long run."""

    @property
    def total_steps(self) -> int:
        return self.timeline.total_steps

    @property
    def accumulation_steps(self) -> int:
        """Micro-steps of a full global batch."""
        return self.micro_batch(self.global_rows)[1]

    @property
    def max_micro_steps(self) -> int:
        """The most micro-steps of any step."""
        return max(self.micro_batch(stretch.rows)[1] for stretch in self.timeline.stretches)

    @property
    def tokens_per_step(self) -> int:
        """Positions in a full global batch, padding included."""
        return self.global_rows * self.width

    @property
    def total_tokens(self) -> int:
        """Positions in all steps, padding included."""
        return self.rows_before(self.total_steps) * self.width

    def stretch(self, step: int) -> Stretch:
        """The stretch of the step after `step` done ones; the last one behind the end."""
        return _last_begun(self.timeline.stretches, step)

    def stage(self, step: int) -> Stage:
        """The stage of the step after `step` done ones; the last one behind the end."""
        return _last_begun(self.timeline.stages, step)

    def micro_batch(self, rows: int) -> tuple[int, int]:
        """(Rows per worker and micro-step, micro-steps) of a global batch of `rows`; ConfigError where the workers do not divide it."""
        return split_batch(rows, self.batch_size, self.world_size)

    def rows_before(self, step: int) -> int:
        """Rows of the stream that the first `step` steps take."""
        return _last_begun(self.timeline.stretches, max(0, step - 1)).rows_before(step)

    def epoch(self, step: int) -> float:
        """Epochs done after `step` steps."""
        return self.rows_before(step) / self.num_rows


Part = TypeVar("Part", Stage, Stretch)


def _last_begun(parts: Sequence[Part], step: int) -> Part:
    return parts[max(0, bisect_right([part.first_step for part in parts], step) - 1)]


def states(plan: Plan) -> list[dict[str, Any]]:
    """Each step at which something changes, with all that holds from then on."""
    starts = sorted({part.first_step for parts in (plan.timeline.stages, plan.timeline.stretches) for part in parts})
    return [_state(plan, step) for step in starts]


def _state(plan: Plan, step: int) -> dict[str, Any]:
    stage, stretch = plan.stage(step), plan.stretch(step)
    optional = {
        "min_learning_rate": None if stage.schedule == "constant" else stage.floor,
        "mask_probability": stretch.mask_probability, "difficulty": stretch.difficulty, "dropout": stage.dropout,
        "mixture_weights": stretch.mixture_weights and list(stretch.mixture_weights),
    }
    return {
        "step": step, "epoch": plan.epoch(step), "stage": stage.name, "peak_learning_rate": stage.peak, "schedule": stage.schedule,
        "warmup_steps": stage.warmup_steps, "rows": stretch.rows, "tokens_per_row": stretch.sequence_length or plan.width,
        "tokens_per_step": stretch.rows * plan.width,
    } | {name: value for name, value in optional.items() if value is not None}


def divide_batch(global_rows: int, batch_size: int, world_size: int) -> int:
    """Accumulation steps such that world_size * batch_size * steps = global_rows; ConfigError names the worker counts that work."""
    if global_rows % (batch_size * world_size):
        fitting = [n for n in range(1, global_rows // batch_size + 1) if global_rows % (batch_size * n) == 0]
        raise ConfigError(
            f"cluster.train_workers: {world_size} workers of batch_size {batch_size} do not divide this run's global batch of "
            f"{global_rows} rows; these do: {', '.join(map(str, fitting)) or 'none'}"
        )
    return global_rows // (batch_size * world_size)


def split_batch(rows: int, batch_size: int, world_size: int) -> tuple[int, int]:
    """(Rows per worker and micro-step, micro-steps) of a global batch: as few micro-steps as `batch_size`, the most rows, allows.

    Raises ConfigError where the workers do not divide the batch.
    """
    if rows % world_size:
        fitting = [n for n in range(1, rows + 1) if rows % n == 0]
        raise ConfigError(
            f"cluster.train_workers: {world_size} workers do not divide a global batch of {rows} rows, which a batch_ramp or "
            f"curriculum.batch_size makes; these do: {', '.join(map(str, fitting))}"
        )
    own = rows // world_size
    micro = max(size for size in range(1, min(batch_size, own) + 1) if own % size == 0)
    return micro, own // micro


def make_plan(
    cfg: TrainingConfig, curriculum: CurriculumConfig | None = None, *, world_size: int, num_rows: int, width: int,
    padding_share: float = 0.0, global_rows: int | None = None, moves: Moves | None = None,
) -> Plan:
    """The plan for `world_size` workers over `num_rows` rows; `global_rows` and `moves` are given when a run goes on.

    Raises ConfigError for a run without an end and for a number of workers that does not divide a global batch.
    """
    if not limits_given(cfg):
        raise ConfigError("training: one of num_epochs, max_steps and max_tokens is needed, or the run would never end")
    rows = global_rows or world_size * cfg.batch_size * cfg.gradient_accumulation_steps
    divide_batch(rows, cfg.batch_size, world_size)
    sizes = Sizes(num_rows=num_rows, tokens_per_row=width * (1.0 - padding_share), global_rows=rows)
    timeline = make_timeline(cfg, curriculum, sizes, moves or {})
    plan = Plan(
        world_size=world_size, batch_size=cfg.batch_size, global_rows=rows, width=width, num_rows=num_rows, timeline=timeline,
        moves=moves or {},
        notes=tuple(_notes(timeline, rows, num_rows, width, padding_share)),
    )
    for stretch in timeline.stretches:
        plan.micro_batch(stretch.rows)
    return plan


def plan_run(
    cfg: Config, mixture: Mixture, *, world_size: int, global_rows: int | None = None, moves: Moves | None = None
) -> Plan:
    """`make_plan` for the data of a run. With a range of workers the global batch is that of the most of them."""
    workers, training = cfg.cluster.train_workers, cfg.training
    if global_rows is None and isinstance(workers, tuple):
        global_rows = workers[1] * training.batch_size * training.gradient_accumulation_steps
    return make_plan(
        cfg.training, cfg.curriculum, world_size=world_size, num_rows=mixture.num_rows, width=mixture.width,
        padding_share=mixture.padding_share, global_rows=global_rows, moves=moves,
    )


def sizes_in_range(cfg: Config, plan: Plan) -> list[int]:
    """The numbers of workers that a run may have, largest first: those of its range that divide each global batch.

    Raises ConfigError where the optimizer's state cannot be divided anew.
    """
    workers, training = cfg.cluster.train_workers, cfg.training
    if not isinstance(workers, tuple):
        return [plan.world_size]
    if training.optimizer != "adamw" and cfg.hardware.zero_stage > 0 and workers[0] < workers[1]:
        raise ConfigError(
            f"cluster.train_workers: the number of workers of a range changes, and DeepSpeed can divide the state of adamw anew, not that "
            f"of {training.optimizer}; give one number, or set hardware.zero_stage to 0"
        )
    batches = [plan.global_rows // training.batch_size, *(stretch.rows for stretch in plan.timeline.stretches)]
    return [size for size in range(workers[1], workers[0] - 1, -1) if not any(batch % size for batch in batches)]


def _notes(timeline: Timeline, global_rows: int, num_rows: int, width: int, padding_share: float) -> list[str]:
    notes = []
    for stage in timeline.stages:
        if stage.warmup_steps >= stage.end_step - stage.first_step:
            what = "the run" if len(timeline.stages) == 1 else f"stage {stage.name}"
            notes.append(
                f"training.warmup_steps ({stage.warmup_steps:,}) is not shorter than {what} ({stage.end_step - stage.first_step:,} steps): "
                f"the learning rate never reaches its peak"
            )
    if padding_share > 0.2:
        notes.append(
            f"{padding_share:.0%} of the positions are padding; a shorter data.sequence_length or preprocessing.max_length wastes less"
        )
    if global_rows > num_rows:
        notes.append(f"one global batch ({global_rows:,} rows) is more than the training split holds ({num_rows:,}): rows repeat in a step")
    lengths = {stretch.sequence_length for stretch in timeline.stretches} - {None}
    for length in sorted(length for length in lengths if width % length):
        notes.append(f"curriculum.sequence_length {length:,} does not divide the rows' {width:,} tokens: the last piece of each is padded")
    return notes
