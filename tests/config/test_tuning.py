"""Search spaces and the `tune` section: what ships is right, and every mistake has its sentence before anything starts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import yaml

from hyena_glt.config import load_config
from hyena_glt.config.dump import compact
from hyena_glt.config.settings import SETTINGS, section_type
from hyena_glt.errors import ConfigError
from hyena_glt.training.trials import trial_config
from tune_spaces import load_space, shipped


@pytest.mark.parametrize("name", shipped())
def test_shipped_spaces_name_settings_and_values_that_exist(name: str) -> None:
    space = load_space(name)
    base = load_config(None, ["model.num_attention_heads=12", "data.sequence_length=8192", "model.max_position_embeddings=8192"])
    assert space.settings and all(section_type(SETTINGS[path]) is None for path in space.settings)
    for number in range(min(space.num_trials, 20)):
        settings = space.draw(number, seed=0)
        cfg = trial_config(base, settings, Path("/run"))
        for path, value in settings.items():
            section, setting = path.rsplit(".", 1)
            found = cfg
            for part in section.split("."):
                found = getattr(found, part)
            assert getattr(found, setting) == value


def test_whole_stages_can_be_searched(tmp_path: Path) -> None:
    short, long = ([{"name": "only", "steps": steps, "dropout": 0.1}] for steps in (10, 20))
    (tmp_path / "stages.yaml").write_text(yaml.safe_dump({"settings": {"training.stages": {"grid": [short, long]}}, "search": "grid"}))
    space = load_space(str(tmp_path / "stages.yaml"))
    found = [trial_config(load_config(None, []), space.draw(number, seed=0), None).training.stages[0] for number in range(2)]
    assert [(stage.steps, stage.dropout) for stage in found] == [(10, 0.1), (20, 0.1)]
    assert [compact(value) for value in space.settings["training.stages"].values] == [short, long], "kept as they were written"
    assert space.settings["training.stages"].describe() == "grid of only steps 10 dropout 0.1, only steps 20 dropout 0.1"


def test_a_draw_depends_on_number_and_seed_alone() -> None:
    space = load_space("regularisation")
    assert space.draw(7, seed=1) == space.draw(7, seed=1) != space.draw(8, seed=1)
    assert space.draw(7, seed=2) != space.draw(7, seed=1)


def test_a_grid_has_each_point_once() -> None:
    space = load_space("mixers")
    points = Counter(str(space.draw(number, seed=0)) for number in range(space.num_trials))
    assert space.num_trials == 12 and set(points.values()) == {1} and len(points) == 12


def test_draws_stay_in_their_ranges(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("settings:\n  training.batch_size: {logint: [3, 5]}\n  training.warmup_steps: {int: [0, 2]}\n"
                    "  training.learning_rate: {loguniform: [1e-5, 1e-3]}\n  model.dropout: {uniform: [0.1, 0.2]}\n")
    space = load_space(str(path))
    drawn = [space.draw(number, seed=0) for number in range(200)]
    assert {settings["training.batch_size"] for settings in drawn} == {3, 4, 5}
    assert {settings["training.warmup_steps"] for settings in drawn} == {0, 1, 2}
    rates = [settings["training.learning_rate"] for settings in drawn]
    assert 1e-5 <= min(rates) < 2e-5 and 5e-4 < max(rates) <= 1e-3 and 60 < sum(rate < 1e-4 for rate in rates) < 140
    assert all(0.1 <= settings["model.dropout"] <= 0.2 for settings in drawn)
    clipped = {path: domain.clip(9.7) for path, domain in space.settings.items()}
    assert clipped["training.batch_size"] == 5 and isinstance(clipped["training.batch_size"], int) and clipped["model.dropout"] == 0.2


BAD = """
settings:
  training.learning_rat: {uniform: [0, 1]}
  training.learning_rate: {loguniform: [0, 1]}
  training.batch_size: {uniform: [1, 2]}
  training.weight_decay: {uniform: [2, 1]}
  training.max_steps: {int: [1, 2, 3]}
  model.mixers: {choice: [[se, xx]]}
  model.dropout: {unifrm: [0, 1]}
  model.hidden_size: 3
  logging.eval_interval: {choice: [1]}
  model: {choice: [1]}
  training.seed: {choice: [1, 1]}
serach: grid
num_trials: x
metric: loss
scheduler: {kind: pbt, grace_fraction: 2, quantil_fraction: 0.1}
"""
PROBLEMS = (
    "training.learning_rat: unknown setting; did you mean training.learning_rate? ({}, line 3)",
    "training.learning_rate: loguniform: the lowest value must be above 0, got 0.0 ({}, line 4)",
    "training.batch_size: uniform draws a number, and the setting is a whole number; use int or logint ({}, line 5)",
    "training.weight_decay: uniform: the lowest value (2.0) must be below the highest (1.0) ({}, line 6)",
    "training.max_steps: int: found 3 values, wanted the lowest and the highest ({}, line 7)",
    "model.mixers: found [se, xx], wanted a list, each item hyena, se, mr, li or attention ({}, line 8)",
    "model.dropout: unknown domain unifrm; did you mean uniform? ({}, line 9)",
    "model.hidden_size: found 3, wanted one of choice, grid, uniform, loguniform, int, logint with a list of values ({}, line 10)",
    "logging.eval_interval: is the same for all trials of a sweep; set it in the configuration ({}, line 11)",
    "model: is a section; name a setting in it ({}, line 12)",
    "training.seed: choice: a value stands twice ({}, line 13)",
    "serach: unknown in the space; did you mean search? ({}, line 14)",
    "num_trials: found x, wanted a whole number ({}, line 15)",
    "metric: found loss, wanted val_loss or val_bits_per_base or val_accuracy; did you mean val_loss? ({}, line 16)",
    "scheduler.grace_fraction: has no effect with kind pbt; remove it ({}, line 17)",
    "quantil_fraction: unknown in scheduler; did you mean quantile_fraction? ({}, line 17)",
)


def test_all_problems_of_a_space_at_once(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(BAD)
    with pytest.raises(ConfigError) as refusal:
        load_space(str(path))
    assert set(refusal.value.problems) >= {problem.format(path) for problem in PROBLEMS}


@pytest.mark.parametrize(("text", "problem"), [
    ("search: random\n", "no settings; a space names at least one with its domain"),
    ("- a\n", "the space: found [a], wanted a section"),
    ("settings: {training.seed: {int: [1, 9]}}\nsearch: grid\n", "search grid needs a list of values (grid), not int"),
    ("settings: {training.seed: {grid: [1, 9]}}\n", "grid goes with search grid; use choice with random"),
    ("settings: {training.seed: {grid: [1, 9]}}\nsearch: grid\nnum_trials: 3\n", "num_trials has no effect with search grid"),
    ("settings: {model.hidden_size: {choice: [8, 16]}}\nscheduler: {kind: pbt}\n", "pbt changes settings of a run that goes on"),
    ("settings: {training.weight_decay: {choice: [0, 1]}}\nsearch: bayesian\nscheduler: {kind: pbt}\n", "pbt searches by itself"),
    ("settings: {training.seed: {choice: [1, 9]}}\nnum_trials: 0\n", "num_trials must be at least 1, got 0"),
    ("settings: {training.seed: {choice: [1, 9]}}\nscheduler: {kind: asha, reduction_factor: 1}\n", "reduction_factor must be above 1"),
    ("settings: {a: [\n", "cannot be read as a YAML file"),
])
def test_a_space_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(ConfigError) as refusal:
        load_space(str(tmp_path / "s.yaml"))
    assert any(problem in found for found in refusal.value.problems), refusal.value.problems


@pytest.mark.parametrize(("name", "problem"), [
    ("lerning_rate", "tune.space: no space or file lerning_rate; did you mean learning_rate?"),
    ("zzz", "tune.space: no space or file zzz; there are batch_and_warmup, "),
])
def test_an_unknown_space(name: str, problem: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        load_space(name)
    assert str(refusal.value).startswith(problem)


@pytest.mark.parametrize(("setting", "problem"), [
    ("tune.num_trials=0", "tune.num_trials must be at least 1, got 0"),
    ("tune.max_hours=0", "tune.max_hours must be positive, got 0.0"),
    ("tune.max_tokens=0", "tune.max_tokens must be at least 1, got 0"),
    ("cluster.gpus_per_worker=0", "cluster.gpus_per_worker must be above 0 and at most 1, got 0.0"),
    ("cluster.gpus_per_worker=2", "cluster.gpus_per_worker must be above 0 and at most 1, got 2.0"),
])
def test_the_section_is_checked(setting: str, problem: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        load_config(None, [setting])
    assert refusal.value.problems == (problem,)
