"""From stages and curricula to stretches of steps that are alike, worked out before anything starts. Pure arithmetic.

Everything but a plateau is a function of the step, so a resumed run works out the same timeline. When validation reached a plateau is
history: a run keeps those steps (`Moves`) beside its progress and works the timeline out again, which changes nothing before them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ..config.recipe import Curriculum, CurriculumConfig, ScheduleKind, StageConfig
from ..config.tree import TrainingConfig
from .schedule import learning_rate

Moves = Mapping[str, Sequence[int]]
"""Steps at which a plateau of the validation loss ended a stage ("stage") or gave a curriculum its next value (its name)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """What turns epochs and tokens into rows of the stream."""

    num_rows: int
    """Rows in an epoch."""
    tokens_per_row: float
    """Without padding."""
    global_rows: int
    """Rows in a full global batch."""

    def rows(self, unit: str, number: float) -> float:
        """So many epochs or tokens, in rows."""
        return number * self.num_rows if unit == "epoch" else number / self.tokens_per_row


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """Steps with one course of the learning rate."""

    name: str
    first_step: int
    end_step: int
    peak: float
    floor: float
    schedule: ScheduleKind
    warmup_steps: int
    cooldown_steps: int | None
    dropout: float | None = None
    eval_interval: int | None = None
    early_stopping_patience: int | None = None

    def rate(self, step: int) -> float:
        """Learning rate of the step after `step` done ones."""
        return learning_rate(
            step - self.first_step, peak=self.peak, floor=self.floor, warmup_steps=self.warmup_steps,
            total_steps=self.end_step - self.first_step, schedule=self.schedule, cooldown_steps=self.cooldown_steps,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Stretch:
    """Steps that take equally many rows and serve them alike; None: as the data and the settings outside `curriculum` say."""

    first_step: int
    end_step: int
    first_row: int
    """Rows of the stream that the steps before took."""
    rows: int
    """Rows of each global batch."""
    sequence_length: int | None = None
    mask_probability: float | None = None
    difficulty: float | None = None
    """Share of each dataset's rows that are drawn, the easiest first."""
    mixture_weights: tuple[float, ...] | None = None

    def rows_before(self, step: int) -> int:
        """Rows of the stream that were taken before `step`, which lies in or behind the stretch."""
        return self.first_row + (step - self.first_step) * self.rows


@dataclass(frozen=True, slots=True)
class Timeline:
    """A run from its first step to its last."""

    stages: tuple[Stage, ...]
    stretches: tuple[Stretch, ...]

    @property
    def total_steps(self) -> int:
        return self.stretches[-1].end_step

    def validations(self, every: int) -> list[int]:
        """The steps that end with a validation: each `every` ones, or as a stage says for itself, and the last."""
        found = {self.total_steps}
        for stage, end in zip(self.stages, [*(stage.first_step for stage in self.stages[1:]), self.total_steps], strict=True):
            interval = stage.eval_interval or every
            found.update(range((stage.first_step // interval + 1) * interval, end + 1, interval))
        return sorted(found)


def limits_given(training: TrainingConfig) -> bool:
    """Whether the settings say where a run ends."""
    stages = training.stages
    endless = not stages or stages[-1].epochs is stages[-1].steps is stages[-1].tokens is None
    return not endless or any(limit is not None for limit in (training.num_epochs, training.max_steps, training.max_tokens))


def make_timeline(training: TrainingConfig, curriculum: CurriculumConfig | None, sizes: Sizes, moves: Moves) -> Timeline:
    """Walk through the run, stage by stage, from each change to the next."""
    walk = _Walk(curriculum.given() if curriculum else {}, _limits(training, sizes), sizes, moves)
    stages: list[Stage] = []
    stretches: list[Stretch] = []
    step = rows = 0
    for declared in training.stages or (_whole_run(training),):
        planned = list(walk.stage(declared, step, rows))
        if not planned:  # the run has reached its limit
            break
        stages.append(_stage(declared, training, step, planned[-1].end_step))
        early = next((move for move in moves.get("stage", ()) if step < move < planned[-1].end_step), None)
        stretches += _until(early, planned)
        step, rows = stretches[-1].end_step, stretches[-1].rows_before(stretches[-1].end_step)
    return Timeline(tuple(stages), tuple(stretches))


@dataclass(frozen=True, slots=True)
class _Mark:
    """A place in the run: a number of steps done, or of rows taken."""

    unit: str
    number: float

    def step_from(self, step: int, rows: int, rows_per_step: int) -> int:
        """The first step at or behind the mark, seen from `step`, before which `rows` were taken."""
        if self.unit == "step":
            return max(step, math.ceil(self.number))
        # One division, at the end: 100 * (7 / 25) is more than 28, and would come a step late.
        return step + max(0, math.ceil((self.number - rows) / rows_per_step))


def _mark(unit: str, number: float, sizes: Sizes, step: int = 0, rows: int = 0) -> _Mark:
    """`number` of `unit` behind the place (step, rows)."""
    return _Mark("step", step + number) if unit == "step" else _Mark("rows", rows + sizes.rows(unit, number))


def _limits(training: TrainingConfig, sizes: Sizes) -> list[_Mark]:
    """Where the whole run ends, the first of them."""
    given = {"epoch": training.num_epochs, "step": training.max_steps, "tokens": training.max_tokens}
    return [_mark(unit, number, sizes) for unit, number in given.items() if number is not None]


def _whole_run(training: TrainingConfig) -> StageConfig:
    """The one stage of a run without any."""
    wsd = training.schedule == "wsd"
    return StageConfig(
        name="training", schedule=training.schedule, warmup_steps=training.warmup_steps,
        min_learning_rate=None if training.schedule == "constant" else training.min_learning_rate,
        cooldown_steps=training.cooldown_steps if wsd else None,
    )


def _length(stage: StageConfig) -> tuple[str, float] | None:
    given = {"epoch": stage.epochs, "step": stage.steps, "tokens": stage.tokens}
    return next(((unit, number) for unit, number in given.items() if number is not None), None)


def _stage(declared: StageConfig, training: TrainingConfig, first_step: int, end_step: int) -> Stage:
    peak = declared.learning_rate or training.learning_rate
    return Stage(
        name=declared.name, first_step=first_step, end_step=end_step, peak=peak,
        floor=peak / 10 if declared.min_learning_rate is None else declared.min_learning_rate, schedule=declared.schedule,
        warmup_steps=declared.warmup_steps, cooldown_steps=declared.cooldown_steps, dropout=declared.dropout,
        eval_interval=declared.eval_interval,
        early_stopping_patience=declared.early_stopping_patience or training.early_stopping_patience,
    )


def _until(step: int | None, stretches: list[Stretch]) -> list[Stretch]:
    """What lies before `step`; all where that is None."""
    if step is None:
        return stretches
    return [replace(stretch, end_step=min(step, stretch.end_step)) for stretch in stretches if stretch.first_step < step]


@dataclass(frozen=True, slots=True)
class _Walk:
    """What a walk looks at on its way."""

    curricula: Mapping[str, Curriculum]
    limits: list[_Mark]
    sizes: Sizes
    moves: Moves

    def stage(self, declared: StageConfig, step: int, rows: int) -> Iterator[Stretch]:
        """The stretches of a stage that starts at `step`, before which `rows` were taken; none behind the end of the run."""
        length, first = _length(declared), (step, rows)
        ends = [*self.limits, *([_mark(*length, self.sizes, *first)] if length else [])]
        parts = declared.batch_ramp
        ramp = [_mark(length[0], length[1] * n / len(parts), self.sizes, *first) for n in range(1, len(parts))] if length else []
        while True:
            values = {name: curriculum.values[self._index(name, step, rows)] for name, curriculum in self.curricula.items()}
            passed = sum(mark.step_from(step, rows, 1) <= step for mark in ramp)
            share = values.pop("batch_size", 1.0) * (parts[passed] if parts else 1.0)
            taken = max(1, round(share * self.sizes.global_rows))
            end = min(mark.step_from(step, rows, taken) for mark in ends)
            if end <= step:
                return
            changes = [mark.step_from(step, rows, taken) for mark in (*ramp, *self._changes())]
            following = min([end, *(change for change in changes if change > step)])
            yield Stretch(first_step=step, end_step=following, first_row=rows, rows=taken, **values)
            step, rows = following, rows + (following - step) * taken

    def _index(self, name: str, step: int, rows: int) -> int:
        """Number of the value that a curriculum has at a place."""
        curriculum = self.curricula[name]
        if curriculum.by == "plateau":
            return min(len(curriculum.at), sum(move <= step for move in self.moves.get(name, ())))
        return sum(mark.step_from(step, rows, 1) <= step for mark in self._marks(curriculum))

    def _changes(self) -> Iterator[_Mark]:
        for name, curriculum in self.curricula.items():
            if curriculum.by == "plateau":
                yield from (_Mark("step", move) for move in self.moves.get(name, ()))
            else:
                yield from self._marks(curriculum)

    def _marks(self, curriculum: Curriculum) -> list[_Mark]:
        return [_mark(curriculum.by, place, self.sizes) for place in curriculum.at]
