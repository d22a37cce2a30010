"""What a sweep's driver does while its trials run: mark how each ended, keep to the budgets, show a table. Runs on the driver."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial as TuneTrial

from hyena_glt.config.dump import spoken
from hyena_glt.files import atomic_write
from hyena_glt.training.trials import change_trial, read_trial

from ._trial import ENDING_FILE, VALUE

STATE_FILE = "state.json"
SECONDS_BETWEEN_LINES = 30.0
GRACE_S = 300.0
"""How long trials may take to save when a sweep ends before them."""


@dataclass(slots=True)
class Budget:
    """What all trials together may use, and have used."""

    sweep: Path
    max_tokens: int | None
    max_device_hours: float | None
    max_hours: float | None
    device_seconds_per_s: float
    """CPU- or GPU-seconds that a trial uses in a second."""
    tokens: dict[str, int] = field(default_factory=dict)
    """By trial, earlier starts included; so the next."""
    seconds: dict[str, float] = field(default_factory=dict)
    hours_before: float = 0.0
    started: float = field(default_factory=time.monotonic)
    reason: str | None = None
    """Why the sweep ends before its trials have, if it does."""

    def note(self, trial: str, tokens: int, seconds: float) -> None:
        """A trial has used so much by now."""
        self.tokens[trial], self.seconds[trial] = tokens, seconds
        self.check()

    @property
    def device_hours(self) -> float:
        return sum(self.seconds.values()) * self.device_seconds_per_s / 3600.0

    @property
    def hours(self) -> float:
        return self.hours_before + (time.monotonic() - self.started) / 3600.0

    def check(self) -> None:
        """End the sweep where a budget is used up."""
        limits = (
            (self.max_tokens, sum(self.tokens.values()), "max_tokens", "tokens"),
            (self.max_device_hours, self.device_hours, "max_device_hours", "device hours"),
            (self.max_hours, self.hours, "max_hours", "hours"),
        )
        for limit, used, name, unit in limits:
            if limit is not None and used >= limit:
                self.end(f"tune.{name} is used up: {used:,.4g} of {limit:,.4g} {unit}; the best so far is kept, more goes on")

    def end(self, reason: str) -> None:
        """Let the trials that run save and leave, and start no more."""
        if self.reason is None:
            self.reason = reason
            atomic_write(self.sweep / ENDING_FILE, reason)


    def save(self) -> None:
        """Keep the hours for a later start, however this one ends."""
        atomic_write(self.sweep / STATE_FILE, json.dumps({"hours": self.hours}) + "\n")


def hours_before(sweep: Path) -> float:
    """Wall time of earlier starts of a sweep."""
    path = sweep / STATE_FILE
    return float(json.loads(path.read_text())["hours"]) if path.exists() else 0.0


class Watch(tune.Callback):
    """Told of everything that happens to trials."""

    def __init__(self, sweep: Path, budget: Budget, *, num_trials: int, ended: int, metric: str, paths: list[str]) -> None:
        self._sweep, self._budget, self._num_trials, self._ended = sweep, budget, num_trials, ended
        self._metric, self._paths = metric, paths
        self._best: dict[str, float] = {}
        self._last_line = time.monotonic()
        self._awaited: list[TuneTrial] | None = None
        self._ending_since = 0.0
        self.over = False
        """Whether the sweep ends before its trials and those that ran have left."""

    def on_trial_result(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: Mapping[str, Any], **info: Any) -> None:
        if not math.isnan(result[VALUE]):
            known = self._best.get(str(trial), result[VALUE])
            self._best[str(trial)] = (max if self._metric == "val_accuracy" else min)(known, result[VALUE])
        self._budget.note(str(trial), result["spent_tokens"], result["spent_s"])

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        known = read_trial(self._sweep, str(trial))
        if not known.has_ended and self._budget.reason:
            return  # it only made room: the same command goes on with it
        if not known.has_ended:
            known = change_trial(self._sweep, known.id, status="stopped")
        self._ended += 1
        self._row(known.id, known.status, known.settings, trial.last_result, known.error)

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        error = "its process died; `hyena-glt sweep` with the same settings does not run it again"
        known = change_trial(self._sweep, str(trial), status="failed", error=error)
        self._ended += 1
        self._row(known.id, known.status, known.settings, trial.last_result, error)

    def on_step_end(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        self._budget.check()
        if self._budget.reason:
            self._await_the_running(trials)
        elif time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self._budget.save()
            running = [f"{trial} at step {trial.last_result.get('step', 0)}" for trial in trials if trial.status == TuneTrial.RUNNING]
            best = f", best {self._metric} {self._best_value():.4f}" if self._best else ""
            print(f"{self._ended} of {self._num_trials} trials ended, running {', '.join(running) or 'none'}{best}, "
                  f"{sum(self._budget.tokens.values()):,} tokens, {self._budget.device_hours:.3f} device hours", file=sys.stderr)

    def _best_value(self) -> float:
        return (max if self._metric == "val_accuracy" else min)(self._best.values())

    def _await_the_running(self, trials: list[TuneTrial]) -> None:
        if self._awaited is None:
            self._awaited = [trial for trial in trials if trial.status == TuneTrial.RUNNING]
            self._ending_since = time.monotonic()
        waiting = any(trial.status == TuneTrial.RUNNING for trial in self._awaited)
        self.over = not waiting or time.monotonic() - self._ending_since > GRACE_S

    def header(self) -> None:
        """The first line of the table."""
        names = "  ".join(path.rpartition(".")[2] for path in self._paths)
        print(f"trial  {'status':8}  {'step':>7}  {'tokens':>13}  {self._metric:>12}  {'best':>8}  {names}", file=sys.stderr)

    def _row(self, trial: str, status: str, settings: dict[str, Any], result: Mapping[str, Any], error: str | None) -> None:
        value = result.get(VALUE, math.nan)
        best = self._best.get(trial, math.nan)
        cells = "  ".join(spoken(settings[path]).rjust(len(path.rpartition(".")[2])) for path in self._paths)
        print(f"{trial:5}  {status:8}  {result.get('step', 0):>7,}  {result.get('tokens', 0):>13,}  {value:>12.4f}  {best:>8.4f}  {cells}"
              f"{f'  {error}' if error else ''}", file=sys.stderr)


class EarlyEnd(tune.Stopper):
    """Stops all trials once `watch` says that the sweep is over."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._watch.over
