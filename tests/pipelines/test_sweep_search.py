"""What a sweep that goes on tells Tune: schedulers know ended trials, the search suggests begun ones first; and budgets."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.tune.schedulers import TrialScheduler

from hyena_glt.training.trials import Trial, read_trials, write_trial
from pipelines._search import Suggestions, build_scheduler, plan_trials
from pipelines._trial import VALUE
from pipelines._watch import Budget, hours_before
from tune_spaces import Domain, Scheduler, Space

SPACE = Space(
    settings={"training.learning_rate": Domain("loguniform", (1e-4, 1e-1)), "model.mixers": Domain("choice", (("se", "li"), ("hyena",)))},
    search="bayesian", num_trials=6, scheduler=Scheduler(kind="asha", grace_fraction=0.1, reduction_factor=2),
)
JOB = {"sweep": "/s", "start": "t", "metric": "loss", "population": False}


def reports(*losses: float) -> list[dict]:
    return [{"kind": "eval", "step": 10 * (n + 1), "tokens": 100 * (n + 1), "loss": loss} for n, loss in enumerate(losses)]


def judged(asha: TrialScheduler, loss: float, name: str) -> str:
    """What the scheduler says of a new trial with that loss at the first rung."""
    trial = SimpleNamespace(trial_id=name)
    asha.on_trial_add(None, trial)
    return asha.on_trial_result(None, trial, {"step": 10, VALUE: loss})


def test_new_trials_are_judged_against_ended_ones() -> None:
    past = [(Trial(id=f"{n:03d}", settings={}, status="stopped"), reports(loss)) for n, loss in enumerate((1.0, 1.1, 1.2))]
    assert judged(build_scheduler(SPACE, total=100, past=[]), 2.0, "a") == TrialScheduler.CONTINUE  # the first of all
    told = build_scheduler(SPACE, total=100, past=past)
    assert judged(told, 2.0, "a") == TrialScheduler.STOP
    assert judged(told, 0.9, "b") == TrialScheduler.CONTINUE


def test_a_value_that_is_missing_stops_nobody_else() -> None:
    told = build_scheduler(SPACE, total=100, past=[(Trial(id="000", settings={}, status="failed"), [{"step": 10, "tokens": 1}])])
    assert judged(told, 2.0, "a") == TrialScheduler.CONTINUE


def test_begun_trials_come_first_and_new_ones_are_written_down(tmp_path: Path) -> None:
    begun = [Trial(id=f"{n:03d}", settings={"training.learning_rate": rate, "model.mixers": mixers}, status="running")
             for n, rate, mixers in ((1, 2e-3, ["hyena"]), (2, 5e-2, ["se", "li"]))]
    settings = {"training.learning_rate": 1e-2, "model.mixers": ["se", "li"]}
    past = [(Trial(id="000", settings=settings, status="finished"), reports(1.0, 0.8))]
    for trial in (*begun, past[0][0]):
        write_trial(tmp_path, trial)
    search = Suggestions(tmp_path, SPACE, JOB, begun=begun, past=past, seed=0)
    first, second, new = (search.suggest(name) for name in "abc")
    assert [(c["trial"], c["given"]) for c in (first, second)] == [(trial.id, trial.settings) for trial in begun]
    assert new["trial"] == "003" and new.items() >= JOB.items() and new["given"]["model.mixers"] in (["se", "li"], ["hyena"])
    assert {trial.id: trial.settings for trial in read_trials(tmp_path)}["003"] == new["given"]
    search.on_trial_complete("a", {VALUE: 0.5})
    search.on_trial_complete("b", {VALUE: math.nan})  # a trial that failed
    assert search.suggest("d")["trial"] == "004"


@pytest.mark.parametrize("told", [True, False])
def test_the_search_learns_from_what_it_is_told(tmp_path: Path, told: bool) -> None:
    """The loss is the distance from a rate of 0.02: after ten draws at random it looks there, unless every loss was alike."""
    search, distances = Suggestions(tmp_path, SPACE, JOB, begun=[], past=[], seed=0), []
    for number in range(40):
        rate = search.suggest(str(number))["given"]["training.learning_rate"]
        distances.append(abs(math.log10(rate / 0.02)))
        search.on_trial_complete(str(number), {VALUE: distances[-1] if told else 1.0})
    assert (statistics.median(distances[10:]) < 0.6) is told


def test_planned_trials_do_not_depend_on_how_many_there_are() -> None:
    space = Space(settings=SPACE.settings, num_trials=4)
    longer = Space(settings=SPACE.settings, num_trials=9)
    assert plan_trials(longer, seed=3)[:4] == plan_trials(space, seed=3)


@pytest.mark.parametrize(("limits", "sentence"), [
    ((500, None, None), "tune.max_tokens is used up: 500 of 500 tokens"),
    ((None, 0.5, None), "tune.max_device_hours is used up: 0.5 of 0.5 device hours"),
    ((None, None, 2.0), "tune.max_hours is used up: 3 of 2 hours"),
])
def test_each_budget_ends_a_sweep_once(tmp_path: Path, limits: tuple, sentence: str) -> None:
    budget = Budget(tmp_path, *limits, device_seconds_per_s=2.0, hours_before=3.0)
    budget.note("000", 200, 900.0)
    budget.note("001", 300, 900.0)
    assert budget.reason is not None and budget.reason.startswith(sentence) and (tmp_path / ".ending").exists()
    budget.end("later")
    assert budget.reason.startswith(sentence)


def test_hours_are_kept(tmp_path: Path) -> None:
    assert hours_before(tmp_path) == 0.0
    budget = Budget(tmp_path, None, None, None, 1.0, hours_before=1.5)
    budget.check()
    budget.save()
    assert budget.reason is None and hours_before(tmp_path) == pytest.approx(1.5, abs=0.01)
