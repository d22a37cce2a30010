"""From a search space to what Ray Tune takes: the trials to come, and the scheduler that judges them. Runs on the driver.

Nothing of Tune's own state is read back from disk: a sweep that goes on tells a new scheduler and a new search what its trials have
measured so far, which is in their folders as plain JSON.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, PopulationBasedTraining, TrialScheduler
from ray.tune.search import Searcher

from hyena_glt.config.dump import compact
from hyena_glt.errors import ConfigError
from hyena_glt.training.metrics import Report
from hyena_glt.training.trials import Trial, trial_name, write_trial
from tune_spaces import METRICS, Domain, Space

from ._trial import VALUE

Config = dict[str, Any]
Past = list[tuple[Trial, list[Report]]]
"""Trials that have ended, with their validations."""


def require_search(space: Space) -> None:
    """ConfigError where the search needs a library that is not there."""
    if space.search == "bayesian" and find_spec("optuna") is None:
        raise ConfigError("tune.space: a bayesian search needs Optuna; pip install 'hyena-glt[sweep]', or take search random")


# Schedulers


def build_scheduler(space: Space, *, total: float, past: Past) -> TrialScheduler:
    """The scheduler of a space for runs of `total` steps or tokens, told what ended trials had measured."""
    chosen, mode = space.scheduler, METRICS[space.metric].mode
    if chosen.kind == "none":
        return FIFOScheduler()
    time_attr = {"steps": "step", "tokens": "tokens"}[chosen.unit]
    if chosen.kind == "pbt":
        return SideBySide(space, interval=total * chosen.interval_fraction, time_attr=time_attr)
    asha = AsyncHyperBandScheduler(
        time_attr, VALUE, mode, max_t=total, grace_period=min(total, max(1, total * chosen.grace_fraction)),
        reduction_factor=chosen.reduction_factor, stop_last_trials=False,  # a run ends by itself
    )
    for trial, reports in past:
        _retell(asha, trial, reports, space, time_attr)
    return asha


def _retell(asha: AsyncHyperBandScheduler, trial: Trial, reports: Sequence[Report], space: Space, time_attr: str) -> None:
    """Let the scheduler judge the next trials against this one too."""
    stands_for = SimpleNamespace(trial_id=f"ended-{trial.id}")
    asha.on_trial_add(None, stands_for)
    for report in reports:
        value = report.get(METRICS[space.metric].report)
        if value is not None:
            asha.on_trial_result(None, stands_for, {time_attr: report[time_attr], VALUE: value})


class SideBySide(PopulationBasedTraining):
    """PBT for a population that runs all at once: each trial is held where it was measured until all are, then all are judged together.

    Tune's own synchronous mode ends every trial's processes at each look; its asynchronous one compares trials at different steps,
    and never replaces a trial that is ahead of the others.
    """

    def __init__(self, space: Space, *, interval: float, time_attr: str) -> None:
        chosen = space.scheduler
        super().__init__(
            time_attr=time_attr, metric=VALUE, mode=METRICS[space.metric].mode, perturbation_interval=interval,
            hyperparam_mutations={"given": {path: _mutation(domain) for path, domain in space.settings.items()}},
            quantile_fraction=chosen.quantile_fraction, resample_probability=chosen.resample_fraction,
            custom_explore_fn=_within(space.settings), log_config=False,
        )
        self._held: dict[Any, dict[str, Any]] = {}

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if result[self._time_attr] - self._trial_state[trial].last_perturbation_time < self._perturbation_interval:
            return TrialScheduler.CONTINUE
        self._held[trial] = result
        self._judge_if_complete(tune_controller)
        return TrialScheduler.NOOP

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        self._judge_if_complete(tune_controller, gone=trial)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        self._judge_if_complete(tune_controller, gone=trial)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        self._judge_if_complete(tune_controller, gone=trial)

    def _judge_if_complete(self, tune_controller: Any, gone: Any = None) -> None:
        if any(trial not in self._held and trial is not gone for trial in tune_controller.get_live_trials()):
            return
        held, self._held = self._held, {}
        for trial, result in held.items():
            self._save_trial_state(self._trial_state[trial], result[self._time_attr], result, trial)
            self._trial_state[trial].last_perturbation_time = result[self._time_attr]
        lower, upper = self._quantiles()
        for trial in sorted(held, key=lambda trial: (trial not in upper, trial in lower)):  # donors first, so that they have saved
            self._checkpoint_or_exploit(trial, tune_controller, upper, lower)
            if trial.status == trial.RUNNING:  # as the schedulers of Tune do where they let a trial go on later
                tune_controller._schedule_trial_train(trial)


def _within(domains: dict[str, Domain]) -> Callable[[Config], Config]:
    """Keeps what PBT has multiplied in its range."""

    def clip(config: Config) -> Config:
        return config | {"given": {path: domains[path].clip(value) for path, value in config["given"].items()}}

    return clip


def _mutation(domain: Domain) -> Any:
    """As PBT takes it: a list to step along, or a range to draw from."""
    if not domain.is_range:
        return [compact(value) for value in domain.values]
    low, high = domain.values
    draw = {"uniform": tune.uniform, "loguniform": tune.loguniform, "int": tune.randint, "logint": tune.lograndint}[domain.kind]
    return draw(low, high + 1) if domain.kind in ("int", "logint") else draw(low, high)


# Searches


def plan_trials(space: Space, *, seed: int) -> list[Trial]:
    """The trials of a search that knows them beforehand."""
    drawn = [space.draw(number, seed=seed) for number in range(space.num_trials)]
    return [
        Trial(id=trial_name(number), settings={path: compact(value) for path, value in settings.items()})
        for number, settings in enumerate(drawn)
    ]


class Suggestions(Searcher):
    """Optuna's next settings, each written down as a trial before it starts; first those of trials that have begun."""

    def __init__(self, sweep: Path, space: Space, job: Config, *, begun: Sequence[Trial], past: Past, seed: int) -> None:
        from optuna.logging import ERROR, set_verbosity
        from ray.tune.search.optuna import OptunaSearch

        set_verbosity(ERROR)
        mode = METRICS[space.metric].mode
        super().__init__(metric=VALUE, mode=mode)
        self._sweep, self._space, self._job = sweep, space, job
        self._ids = [trial.id for trial in begun]
        self._next = len(begun) + len(past)
        self._optuna = OptunaSearch(
            {path: _distribution(domain) for path, domain in space.settings.items()}, metric=VALUE, mode=mode,
            points_to_evaluate=[self._encoded(trial.settings) for trial in begun] or None, seed=seed + self._next,
        )
        for trial, reports in past:
            values = [report.get(METRICS[space.metric].report) for report in reports]
            if trial.status != "failed" and values and values[-1] is not None:
                self._optuna.add_evaluated_point(self._encoded(trial.settings), values[-1])

    def suggest(self, trial_id: str) -> Config | None:
        found = self._optuna.suggest(trial_id)
        settings = {path: self._decoded(path, value) for path, value in found.items()}
        if self._ids:
            name = self._ids.pop(0)
        else:
            name, self._next = trial_name(self._next), self._next + 1
            write_trial(self._sweep, Trial(id=name, settings=settings))
        return {**self._job, "trial": name, "given": settings}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        failed = error or not result or math.isnan(result.get(VALUE, math.nan))
        self._optuna.on_trial_complete(trial_id, None if failed else result, error=failed)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the trials' own files are what a sweep goes on from."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, as `save`."""

    def _encoded(self, settings: Config) -> Config:
        return {path: value if self._space.settings[path].is_range else json.dumps(value) for path, value in settings.items()}

    def _decoded(self, path: str, value: Any) -> Any:
        return value if self._space.settings[path].is_range else json.loads(value)


def _distribution(domain: Domain) -> Any:
    """As Optuna takes it; a list as texts, since its items may be lists."""
    from optuna import distributions

    if not domain.is_range:
        return distributions.CategoricalDistribution([json.dumps(compact(value)) for value in domain.values])
    kind = distributions.IntDistribution if domain.kind in ("int", "logint") else distributions.FloatDistribution
    return kind(*domain.values, log=domain.is_logarithmic)
