"""A sweep as a user runs it: trials are real pretrainings, a failure is a result, a budget ends it, the same call goes on."""

from __future__ import annotations

import json
import math
import re
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any, ClassVar

import pyarrow.parquet as pq
import pytest
import ray
import ray.util
import yaml

from hyena_glt.config import Config, load_config
from hyena_glt.errors import ConfigError
from hyena_glt.training.launch import require_own_gpus
from hyena_glt.training.metrics import METRICS_FILE, read_reports
from hyena_glt.training.trials import read_trials, run_folder
from pipelines import _watch
from pipelines import sweep as module
from pipelines._search import Suggestions
from pipelines._trial import VALUE
from pipelines.pretrain import pretrain
from pipelines.sweep import sweep
from tests.interrupted_run import Command
from tests.tiny_run import write_lambda_data
from tests.waiting import wait_until

pytestmark = pytest.mark.usefixtures("ray_session")

SPACE = """
settings:
  training.learning_rate: {choice: [3e-3, 1e-2, 1e30]}
  training.weight_decay: {uniform: [0.0, 0.1]}
num_trials: 3
scheduler: {kind: asha, grace_fraction: 0.25, reduction_factor: 2}
"""
SEED = 28
"""With it the three trials draw 1e-2, 1e30 and 3e-3."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lambda_data(tmp_path_factory.mktemp("data") / "lambda", {"kind": "char"}, max_length=64)


def settings(data: Path, space: str, folder: Path, *more: str) -> list[str]:
    (folder.parent / "space.yaml").write_text(space)
    given = [
        "model.name=tiny", "model.hidden_size=16", "model.num_layers=2", "model.mixers=[se,li]", "model.max_position_embeddings=64",
        "tokenization.kind=char", "tasks.causal_lm.weight=1", "training.max_steps=12", "training.batch_size=4", "training.eval_max_rows=8",
        "logging.eval_interval=3", "logging.log_interval=3", "logging.use_tensorboard=false", f"data.train_path={data}",
        f"tune.seed={SEED}", f"tune.output_dir={folder}", f"tune.space={folder.parent / 'space.yaml'}", "cluster.train_workers=1",
        *more,
    ]
    return list({setting.split("=")[0]: setting for setting in given}.values())


def config(data: Path, space: str, folder: Path, *more: str) -> Config:
    return load_config(None, settings(data, space, folder, *more))


@pytest.fixture(scope="module")
def swept(data: Path, tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> tuple[Path, dict, dict]:
    """A sweep that a budget ended, the same one gone on to its end, and both results."""
    folder = tmp_path_factory.mktemp("sweeps") / "sweep"
    early = sweep(config(data, SPACE, folder, "tune.max_tokens=1000"))
    with pytest.MonkeyPatch.context() as patch, redirect_stderr(StringIO()) as said:
        patch.setattr(_watch, "SECONDS_BETWEEN_LINES", 0.5)
        result = sweep(config(data, SPACE, folder))
    (folder.parent / "stderr").write_text(said.getvalue())
    return folder, early, result


@pytest.mark.slow
def test_a_budget_ends_a_sweep_and_the_best_so_far_is_kept(swept: tuple[Path, dict, dict]) -> None:
    _, early, _ = swept
    assert early["status"] == "ended_by_budget"
    assert "tune.max_tokens is used up" in early["ended_by"] and "the best so far is kept" in early["ended_by"]
    assert early["best_trial"] is not None and early["trials"]["unfinished"] >= 1
    assert early["tokens"] < 3 * 12 * 4 * 64


@pytest.mark.slow
def test_the_same_call_goes_on_and_loses_nothing(swept: tuple[Path, dict, dict]) -> None:
    folder, _, result = swept
    assert result["status"] == "finished" and sum(result["trials"].values()) == 3 + result["trials"]["planned"] == 6
    assert result["trials"]["failed"] == 1 and result["trials"]["finished"] >= 1
    for trial in read_trials(folder):
        ends = [report["reason"] for report in read_reports(run_folder(folder, trial.id) / METRICS_FILE) if report["kind"] == "end"]
        assert ends.count("finished") == (trial.status == "finished")
    assert 0 < result["share_of_full_grid"] <= 1 and result["device_hours"] > 0


@pytest.mark.slow
def test_a_failed_trial_is_in_the_results_with_its_sentence(swept: tuple[Path, dict, dict]) -> None:
    folder, _, _ = swept
    rows = {row["id"]: row for row in pq.read_table(folder / "sweep.parquet").to_pylist()}
    (failed,) = [row for row in rows.values() if row["status"] == "failed"]
    assert failed["training.learning_rate"] == 1e30
    assert re.match(r"the (training loss is|gradient is not finite).* Lower training\.learning_rate", failed["error"])
    assert len(rows) == 3 and rows["000"].keys() >= {"training.weight_decay", "val_loss", "best_val_loss", "best_step", "step", "tokens"}
    assert all(0 <= row["training.weight_decay"] <= 0.1 for row in rows.values())


@pytest.mark.slow
def test_the_terminal_shows_what_runs_and_each_trial_as_it_ends(swept: tuple[Path, dict, dict]) -> None:
    folder, early, _ = swept
    lines = [line for line in (folder.parent / "stderr").read_text().splitlines() if line.strip()]
    assert lines[0].split() == ["trial", "status", "step", "tokens", "val_loss", "best", "learning_rate", "weight_decay"]
    running = [line for line in lines if re.match(r"\d of 3 trials ended, running 00\d at step \d+", line)]
    assert any(re.search(r", best val_loss \d\.\d{4}, [\d,]+ tokens, 0\.\d+ device hours$", line) for line in running)
    ended = {cells[0]: cells for cells in map(str.split, lines) if re.fullmatch(r"00\d", cells[0])}
    rows = {row["id"]: row for row in pq.read_table(folder / "sweep.parquet").to_pylist()}
    assert len(ended) == 3 - sum(early["trials"].get(status, 0) for status in ("finished", "stopped", "failed"))
    for name, (_, status, step, tokens, value, best, rate, *_) in ended.items():
        assert (status, float(rate)) == (rows[name]["status"], pytest.approx(rows[name]["training.learning_rate"], rel=1e-3))
        if status == "finished":
            assert (int(step), int(tokens.replace(",", ""))) == (12, rows[name]["tokens"])
        if status != "failed":
            assert (value, best) == (f"{rows[name]['val_loss']:.4f}", f"{rows[name]['best_val_loss']:.4f}")


@pytest.mark.slow
def test_nothing_is_left_on_the_cluster(swept: tuple[Path, dict, dict]) -> None:
    states = [group["state"] for group in ray.util.placement_group_table().values()]
    assert set(states) <= {"REMOVED"} and len(states) >= 3
    assert ray.available_resources()["CPU"] == ray.cluster_resources()["CPU"] == 2


@pytest.mark.long
def test_a_driver_that_is_killed_leaves_the_cluster_free_and_the_same_call_goes_on(data: Path, tmp_path: Path) -> None:
    folder, space = tmp_path / "sweep", "settings:\n  training.learning_rate: {choice: [3e-3, 1e-2]}\nnum_trials: 2\n"
    given = settings(data, space, folder, "training.max_steps=60")
    driver = Command(["sweep", *given], tmp_path, ray.get_runtime_context().gcs_address).process
    wait_until(lambda: any(path.stat().st_size for path in folder.rglob(METRICS_FILE)), process=driver)
    driver.kill()
    driver.wait()
    result = sweep(load_config(None, given))
    assert (result["status"], result["trials"]["finished"]) == ("finished", 2)
    for trial in read_trials(folder):
        ends = [report["reason"] for report in read_reports(run_folder(folder, trial.id) / METRICS_FILE) if report["kind"] == "end"]
        assert ends == ["finished"]


@pytest.mark.slow
def test_an_ended_sweep_prints_its_result_and_another_is_refused(swept: tuple[Path, dict, dict], data: Path) -> None:
    folder, _, result = swept
    before = {path: path.stat().st_mtime_ns for path in folder.glob(f"trials/*/{METRICS_FILE}")}
    assert sweep(config(data, SPACE, folder)) == result
    assert before == {path: path.stat().st_mtime_ns for path in before}
    other = SPACE.replace("1e-2", "2e-2").replace("reduction_factor: 2", "reduction_factor: 3")
    with pytest.raises(ConfigError, match="is the folder of another sweep; these differ: training.batch_size, settings of the space, "
                                          "scheduler of the space. Take them back to go on with it, or choose a new folder"):
        sweep(config(data, other, folder, "training.batch_size=2"))


@pytest.mark.slow
def test_best_yaml_runs_and_gives_the_same_loss(swept: tuple[Path, dict, dict]) -> None:
    folder, _, result = swept
    best = load_config(folder / "best.yaml")
    assert best.training.learning_rate == result["best_settings"]["training.learning_rate"] and best.tune is None
    assert Path(str(best.training.output_dir)) == folder.with_name("sweep-best")
    again = pretrain(best)
    rows = {row["id"]: row for row in pq.read_table(folder / "sweep.parquet").to_pylist()}
    assert again["best_val_loss"] == result["best_value"] == rows[result["best_trial"]]["best_val_loss"]
    assert again["val_loss"] == rows[result["best_trial"]]["val_loss"]


@pytest.mark.slow
def test_the_page_shows_what_was_found(swept: tuple[Path, dict, dict]) -> None:
    folder, _, result = swept
    page = (folder / "sweep.html").read_text()
    assert f"Trial {result['best_trial']} is the best of 3" in page and page.count("<svg") == 2
    assert "Trial 001 failed" in page and "No importances: fewer than 4 trials were measured" in page


# Stages searched as a whole

STAGES = """
settings:
  training.stages:
    choice:
    - [{name: fast, steps: 4, learning_rate: 1e-2, eval_interval: 2}, {name: calm, steps: 8, learning_rate: 5e-3, eval_interval: 4}]
    - [{name: slow, steps: 3, learning_rate: 1e-4, eval_interval: 3}, {name: calm, steps: 9, learning_rate: 1e-4, eval_interval: 5}]
  training.weight_decay: {uniform: [0.0, 0.1]}
search: bayesian
num_trials: 3
scheduler: {kind: asha, grace_fraction: 0.25, reduction_factor: 2}
"""
VALIDATIONS = {"fast": [2, 4, 8, 12], "slow": [3, 5, 10, 12]}


class Told(Suggestions):
    """The search of a sweep, which keeps what passes between it and Tune."""

    suggested: ClassVar[list[dict[str, Any]]] = []
    results: ClassVar[list[float]] = []

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        found = super().suggest(trial_id)
        self.suggested.append(found)
        return found

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        super().on_trial_complete(trial_id, result, error)
        self.results.append(result[VALUE])


@pytest.fixture(scope="module")
def staged(data: Path, tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Path:
    """One trial after the other, whose stages Optuna chooses: with this seed slow, fast, slow."""
    folder = tmp_path_factory.mktemp("staged") / "sweep"
    settings = ["training.max_steps=null", "logging.eval_interval=7", "tune.max_concurrent=1", "tune.seed=0"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "Suggestions", Told)
        result = sweep(config(data, STAGES, folder, *settings))
    assert result["status"] == "finished" and result["trials"] == {"finished": 2, "stopped": 1, "planned": 3}
    return folder


@pytest.mark.slow
def test_trials_are_held_and_judged_at_the_validations_of_their_stages(staged: Path) -> None:
    trials = read_trials(staged)
    names = [trial.settings["training.stages"][0]["name"] for trial in trials]
    measured = [
        [report["step"] for report in read_reports(run_folder(staged, trial.id) / METRICS_FILE) if report["kind"] == "eval"]
        for trial in trials
    ]
    assert names == ["slow", "fast", "slow"] and [trial.status for trial in trials] == ["finished", "finished", "stopped"]
    assert measured == [VALIDATIONS["slow"], VALIDATIONS["fast"], [3]], "the third was stopped where it was first validated"
    assert "fast steps 4 learning_rate 0.01 eval_interval 2; calm steps 8" in (staged / "sweep.html").read_text()


@pytest.mark.slow
def test_optuna_chooses_the_trials_and_is_told_what_came_of_them(staged: Path) -> None:
    assert [found["given"] for found in Told.suggested] == [trial.settings for trial in read_trials(staged)]
    assert Told.results == [row["val_loss"] for row in pq.read_table(staged / "sweep.parquet").to_pylist()]


# Before anything starts


def test_dry_run_says_what_would_happen(data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    result = sweep(config(data, SPACE, tmp_path / "sweep"), dry_run=True)
    assert (result["status"], result["trials"], result["concurrent"], result["scheduler"]) == ("planned", 3, 2, "asha")
    assert (result["full_grid_steps"], result["full_grid_tokens"]) == (36, 36 * 4 * 64)
    assert result["domains"]["training.weight_decay"] == "uniform 0 to 0.1"
    assert "2 trials side by side, each on 1 CPU worker" in caplog.text and "trial 002: training.learning_rate=" in caplog.text
    assert sweep(config(data, SPACE, tmp_path / "sweep", "tune.max_concurrent=1"), dry_run=True)["concurrent"] == 1
    assert not (tmp_path / "sweep").exists()


PBT = "settings: {training.learning_rate: {loguniform: [1e-4, 1e-2]}}\nnum_trials: 3\nscheduler: {kind: pbt}\n"
GRID = "settings: {model.hidden_size: {grid: [16, 18]}, model.num_attention_heads: {grid: [4, 12]}}\nsearch: grid\n"


@pytest.mark.parametrize(("space", "settings", "problem"), [
    (SPACE, ["tune.space=null"], "tune.space: a sweep needs one; give --space"),
    (SPACE, ["logging.eval_interval=12"], "logging.eval_interval: asha judges trials by their validations, and a run of 12 steps has none "
     "before its end; set eval_interval to at most 1"),
    (SPACE, ["training.stages=[{name: a, steps: 6, eval_interval: 7}, {name: b, steps: 6, eval_interval: 20}]"],
     "training.stages: asha judges trials by their validations, and a run of 12 steps has none before its end"),
    (PBT, [], "a pbt population trains side by side, and this cluster fits 2 trials, not 3; set it to 2 to 2"),
    (PBT, ["tune.num_trials=2", "logging.keep_checkpoints=1"], "logging.keep_checkpoints: pbt lets trials go on from each other's"),
    (GRID, ["model.mixers=[attention]", "model.num_attention_heads=4"], "a trial cannot run with .*num_attention_heads"),
    (SPACE, ["training.stages=[{name: a, steps: 6, learning_rate: 1e-3}, {name: b, learning_rate: 1e-4}]"],
     "training.learning_rate: each of training.stages has a learning_rate of its own, so all trials would be alike"),
    (GRID, ["tune.num_trials=3"], "tune.num_trials: has no effect on a grid, which runs all of its 4 points; remove it"),
])
def test_refused_before_anything_starts(data: Path, tmp_path: Path, space: str, settings: list[str], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        sweep(config(data, space, tmp_path / "sweep", *settings))
    assert not (tmp_path / "sweep").exists()


def test_a_folder_with_other_files(data: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").touch()
    with pytest.raises(ConfigError, match="holds other files and no sweep; choose an empty or new folder"):
        sweep(config(data, SPACE, tmp_path / "mine"))


def test_optuna_is_asked_for(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines._search.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"a bayesian search needs Optuna; pip install 'hyena-glt\[sweep\]', or take search random"):
        sweep(config(data, SPACE + "search: bayesian\n", tmp_path / "sweep"))


@pytest.mark.parametrize(("share", "gpus", "workers", "fitting"), [(1.0, 4, 1, 4), (0.25, 1, 1, 4), (0.3, 2, 1, 6), (1.0, 4, 2, 2)])
def test_concurrency_is_what_fits(
    monkeypatch: pytest.MonkeyPatch, share: float, gpus: int, workers: int, fitting: int
) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 64.0, "GPU": float(gpus)})
    cfg = load_config(None, [f"cluster.gpus_per_worker={share}", "tune.num_trials=9"])
    assert module._concurrency(cfg, workers, use_gpu=True) == fitting
    assert module._concurrency(load_config(None, [f"cluster.gpus_per_worker={share}", "tune.max_concurrent=2"]), workers, True) == 2


def test_a_cluster_is_asked_for_as_many_trials_as_it_may_grow_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 0.0})
    given = ["tune.max_concurrent=16", "cluster.address=10.0.0.1:6379"]
    assert module._concurrency(load_config(None, given), 1, use_gpu=True) == 16
    assert module._concurrency(load_config(None, given[:1]), 1, use_gpu=True) == 1, "this machine does not grow"
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 64.0, "GPU": 8.0})
    assert module._concurrency(load_config(None, given), 1, use_gpu=True) == 8, "trials beyond what fits would wait in vain"


def test_workers_of_one_run_do_not_share_a_gpu_under_nccl() -> None:
    cfg = load_config(None, ["cluster.gpus_per_worker=0.5"])
    require_own_gpus(cfg, workers=1, use_gpu=True)
    require_own_gpus(load_config(None, ["cluster.gpus_per_worker=0.5", "hardware.distributed_backend=gloo"]), workers=2, use_gpu=True)
    with pytest.raises(ConfigError, match="with 0.5 several of a run's 2 workers may get one GPU, over which nccl cannot sum"):
        require_own_gpus(cfg, workers=2, use_gpu=True)


@pytest.mark.slow
def test_best_yaml_is_whole(swept: tuple[Path, dict, dict]) -> None:
    tree = yaml.safe_load((swept[0] / "best.yaml").read_text())
    assert tree["training"]["max_steps"] == 12 and tree["model"]["hidden_size"] == 16 and math.isfinite(tree["training"]["learning_rate"])
    assert json.dumps(tree)
