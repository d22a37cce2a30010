"""The `tune` section: what a sweep searches, and what it may cost."""

from __future__ import annotations

from dataclasses import dataclass

from .rules import above_zero, at_least, require


@dataclass(frozen=True, kw_only=True, slots=True)
class TuneConfig:
    """A sweep: many trials of one run, each with its own values of a few settings."""

    space: str | None = None
    """What is searched: the name of a file in `tune_spaces/`, or the path of a YAML file."""
    num_trials: int | None = None
    """Trials in all; default: what the space says. A grid has as many as it has points."""
    max_concurrent: int | None = None
    """Trials side by side, at most; default: as many as fit the cluster now. Of a cluster without room for any so many are asked for."""
    max_tokens: int | None = None
    """Tokens of all trials together, after which the sweep ends with the best so far."""
    max_device_hours: float | None = None
    """The same in GPU-hours, or without a GPU in CPU-hours."""
    max_hours: float | None = None
    """The same in wall time, all starts of the sweep together."""
    seed: int = 0
    """Of the values drawn; each trial's own run keeps `training.seed`."""
    output_dir: str | None = None
    """The sweep folder; default: runs/<model.name>-sweep."""

    def __post_init__(self) -> None:
        require(
            *at_least(1, self, "num_trials", "max_concurrent", "max_tokens"),
            *above_zero(self, "max_device_hours", "max_hours"),
        )
