"""A search space: settings with their domains, how they are searched, and which trials are stopped early."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from hyena_glt.config.rules import fraction, require

from .domains import Domain

Settings = dict[str, Any]
"""Dotted path to value: what one trial has of its own."""
Search = Literal["grid", "random", "bayesian"]


class Metric(NamedTuple):
    """What a sweep looks for, among the figures of a validation."""

    report: str
    """Its name in metrics.jsonl."""
    mode: Literal["min", "max"]


METRICS = {
    "val_loss": Metric("loss", "min"), "val_bits_per_base": Metric("bits_per_base", "min"),
    "val_accuracy": Metric("accuracy", "max"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Scheduler:
    """Which trials are stopped early (asha), or go on from another trial's weights with changed settings (pbt)."""

    kind: Literal["none", "asha", "pbt"] = "none"
    unit: Literal["steps", "tokens"] = "steps"
    """What the fractions below are of: a run's optimizer steps, or its tokens where trials differ in their batches."""
    grace_fraction: float = 0.1
    """asha: of the whole run, before which no trial is stopped."""
    reduction_factor: float = 3.0
    """asha: of all trials that come so far, the best 1/n go on; they are looked at again after n times as long."""
    interval_fraction: float = 0.1
    """pbt: of the whole run, between two looks at a trial."""
    quantile_fraction: float = 0.25
    """pbt: share of the population that is replaced, and that it is replaced by."""
    resample_fraction: float = 0.25
    """pbt: how often a setting is drawn anew instead of being changed by a fifth."""

    def __post_init__(self) -> None:
        require(
            *fraction(self, "resample_fraction"),
            *[
                (0 < getattr(self, name) <= top, f"{name} must be above 0 and at most {top:g}, got {getattr(self, name)}")
                for name, top in (("grace_fraction", 1.0), ("interval_fraction", 1.0), ("quantile_fraction", 0.5))
            ],
            (self.reduction_factor > 1, f"reduction_factor must be above 1, got {self.reduction_factor}"),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Space:
    """One search space, read whole and checked."""

    settings: dict[str, Domain]
    """Dotted path to domain."""
    search: Search = "random"
    num_trials: int = 16
    metric: str = "val_loss"
    scheduler: Scheduler = field(default_factory=Scheduler)

    def grid_size(self) -> int:
        """Points of the full grid."""
        return math.prod(len(domain.values) for domain in self.settings.values())

    def draw(self, number: int, *, seed: int) -> Settings:
        """The settings of trial `number`: a function of it and the seed alone, so that a sweep that goes on draws the same."""
        if self.search == "grid":
            return next(itertools.islice(self._grid(), number, None))
        random = np.random.default_rng([seed, number])
        return {path: domain.draw(random) for path, domain in self.settings.items()}

    def _grid(self) -> Iterator[Settings]:
        lists = [domain.values for domain in self.settings.values()]
        return (dict(zip(self.settings, values, strict=True)) for values in itertools.product(*lists))
