"""The recipe of a run: stages with rates of their own, and curricula, each a setting that changes on the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .rules import above_zero, at_least, require, unused

ScheduleKind = Literal["constant", "cosine", "linear", "inverse_sqrt", "wsd"]
Unit = Literal["step", "epoch", "tokens", "plateau"]


@dataclass(frozen=True, kw_only=True, slots=True)
class StageConfig:
    """A stretch of the run; what it leaves out is as `training`, `model` and `logging` say."""

    name: str
    epochs: float | None = None
    steps: int | None = None
    tokens: int | None = None
    """How long it lasts: one of epochs, steps and tokens. The last stage may leave it out and lasts to the end of the run."""
    learning_rate: float | None = None
    """Peak rate."""
    schedule: ScheduleKind = "constant"
    """Course of the rate within the stage."""
    min_learning_rate: float | None = None
    """Where the stage's schedule ends; default: a tenth of its peak."""
    warmup_steps: int = 0
    cooldown_steps: int | None = None
    """Steps of the linear descent at the end of `wsd`; default: a fifth of the stage."""
    batch_ramp: tuple[float, ...] = ()
    """Shares of the global batch, each for an equal part of the stage: [0.25, 0.5, 1] starts small."""
    dropout: float | None = None
    eval_interval: int | None = None
    early_stopping_patience: int | None = None
    """Evaluations without a lower validation loss after which the next stage begins, or the run ends."""

    def __post_init__(self) -> None:
        lengths = [name for name in ("epochs", "steps", "tokens") if getattr(self, name) is not None]
        peak, low = self.learning_rate, self.min_learning_rate
        require(
            (len(lengths) <= 1, f"name: {self.name} has {' and '.join(lengths)}; a stage has one length"),
            *above_zero(self, "epochs", "steps", "tokens", "learning_rate", "early_stopping_patience"),
            *at_least(1, self, "eval_interval", "cooldown_steps"),
            *at_least(0, self, "warmup_steps", "min_learning_rate"),
            (peak is None or low is None or low <= peak, f"min_learning_rate ({low}) must be at most learning_rate ({peak})"),
            (all(0 < part <= 1 for part in self.batch_ramp), f"batch_ramp: each share must lie above 0 and up to 1, got {self.batch_ramp}"),
            (not self.batch_ramp or bool(lengths), "batch_ramp needs the stage's length: give epochs, steps or tokens"),
            (self.dropout is None or 0 <= self.dropout < 1, f"dropout must be at least 0 and below 1, got {self.dropout}"),
            *(unused(self, "unless schedule is wsd", "cooldown_steps") if self.schedule != "wsd" else ()),
            *(unused(self, "with a constant schedule", "min_learning_rate") if self.schedule == "constant" else ()),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Curriculum:
    """When a setting takes its next value."""

    at: tuple[float, ...] = ()
    """Where each value but the first begins, counted in `by` from the start of the run."""
    by: Unit = "epoch"
    """step, epoch, tokens; plateau: after so many evaluations without a lower validation loss, counted since the last change."""

    def _rules(self, values: tuple[object, ...]) -> list[tuple[bool, str]]:
        rises = all(a < b for a, b in zip(self.at, self.at[1:], strict=False))
        return [
            (len(values) >= 2, f"values needs two or more, got {len(values)}"),
            (len(self.at) == len(values) - 1, f"at needs {len(values) - 1} numbers for {len(values)} values, got {len(self.at)}"),
            (all(place > 0 for place in self.at), f"at: each number must be positive, got {list(self.at)}"),
            (self.by == "plateau" or rises, f"at must rise, got {list(self.at)}"),
            (self.by in ("epoch", "tokens") or all(p == int(p) for p in self.at), f"at takes whole numbers with by: {self.by}"),
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class SequenceLengthCurriculum(Curriculum):
    """Tokens a row: each row of the data is cut into rows of that length, so order and tokens per step stay as they are."""

    values: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        require(*self._rules(self.values), (all(v >= 2 for v in self.values), f"values must be at least 2, got {list(self.values)}"))


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchSizeCurriculum(Curriculum):
    """Share of the global batch; the tokens of a step change with it."""

    values: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        inside = all(0 < value <= 1 for value in self.values)
        require(*self._rules(self.values), (inside, f"values must lie above 0 and up to 1, got {list(self.values)}"))


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskProbabilityCurriculum(Curriculum):
    """`tasks.masked_lm.mask_probability` on the way; evaluations keep the task's own."""

    values: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        inside = all(0 < value < 1 for value in self.values)
        require(*self._rules(self.values), (inside, f"values must lie between 0 and 1, got {list(self.values)}"))


@dataclass(frozen=True, kw_only=True, slots=True)
class DifficultyCurriculum(Curriculum):
    """Share of each dataset's rows that are drawn, the easiest first."""

    values: tuple[float, ...] = ()
    measure: Literal["ambiguity", "repeats"] = "ambiguity"
    """What makes a row hard. ambiguity: its share of [UNK]; repeats: its share of tokens of low weight (`soft_masked: weight`)."""

    def __post_init__(self) -> None:
        inside = all(0 < value <= 1 for value in self.values)
        require(*self._rules(self.values), (inside, f"values must lie above 0 and up to 1, got {list(self.values)}"))


@dataclass(frozen=True, kw_only=True, slots=True)
class MixtureWeightsCurriculum(Curriculum):
    """`data.mixture_weights` on the way."""

    values: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        positive = all(weight > 0 for weights in self.values for weight in weights)
        require(*self._rules(self.values), (positive, f"values must be positive, got {list(map(list, self.values))}"))


@dataclass(frozen=True, kw_only=True, slots=True)
class CurriculumConfig:
    """Settings that change during training; each of them is optional."""

    sequence_length: SequenceLengthCurriculum | None = None
    batch_size: BatchSizeCurriculum | None = None
    mask_probability: MaskProbabilityCurriculum | None = None
    difficulty: DifficultyCurriculum | None = None
    mixture_weights: MixtureWeightsCurriculum | None = None

    def given(self) -> dict[str, Curriculum]:
        """The curricula that are on, by name."""
        return {name: curriculum for name in self.__slots__ if (curriculum := getattr(self, name)) is not None}
