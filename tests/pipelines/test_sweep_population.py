"""Population-based training really exchanges: weights, optimizer state and position are the donor's, and the changed rate trains on."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from hyena_glt.config import load_config
from hyena_glt.training.metrics import METRICS_FILE, Report, read_reports
from hyena_glt.training.trials import Trial, read_trial, read_trials, run_folder
from tests.interrupted_run import Command
from tests.tiny_run import write_lambda_data

SPACE = """
settings:
  training.learning_rate: {choice: [1e-4, 3e-4, 1e-2, 2e-2]}
num_trials: 2
scheduler: {kind: pbt, interval_fraction: 0.4, quantile_fraction: 0.5, resample_fraction: 0.0}
"""
STEPS, LOOK = 10, 5
STAGES = (
    f"training.stages=[{{name: first, steps: {LOOK}, schedule: cosine, eval_interval: {LOOK}}}, "
    f"{{name: second, steps: {STEPS - LOOK}, schedule: linear, eval_interval: {STEPS}}}]"
)


def hashes(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def losses(reports: list[Report], step: int) -> list[Report]:
    """The training reports of a step, one a start that took it."""
    return [report for report in reports if report["kind"] == "train" and report["step"] == step]


@pytest.mark.long
@pytest.mark.parametrize(("stage", "workers"), [(1, 1), (1, 2), (3, 2)])
def test_an_exchange_gives_the_donors_weights_and_optimizer_state(tmp_path: Path, stage: int, workers: int) -> None:
    (tmp_path / "space.yaml").write_text(SPACE)
    data, sweep = write_lambda_data(tmp_path / "data", {"kind": "char"}, max_length=64), tmp_path / "sweep"
    result = Command([
        "sweep", "--space", str(tmp_path / "space.yaml"), "--output_dir", str(sweep), f"data.train_path={data}", "model.hidden_size=16",
        "model.num_layers=2", "model.mixers=[se,li]", "model.max_position_embeddings=64", "tasks.causal_lm.weight=1",
        STAGES, "training.batch_size=4", "training.eval_max_rows=8", "logging.eval_interval=7",
        "logging.log_interval=1", "logging.use_tensorboard=false", f"cluster.num_cpus={2 * workers}", f"cluster.train_workers={workers}",
        f"hardware.zero_stage={stage}", "tune.seed=1",
    ], tmp_path).result()
    assert result["trials"] == {"finished": 2, "planned": 2}
    (taker,) = [trial for trial in read_trials(sweep) if trial.changes]
    (change,) = taker.changes
    assert change["step"] == LOOK and change["donor"] != taker.id
    donor, own = run_folder(sweep, change["donor"]), run_folder(sweep, taker.id)
    name = f"checkpoints/step_{LOOK:08d}"
    adopted = hashes(own / name)
    assert adopted == hashes(donor / name) and "model.safetensors" in adopted
    assert sum("optim_states" in file for file in adopted) == workers
    check_what_trained_on(taker, read_trial(sweep, donor.name), read_reports(own / METRICS_FILE), read_reports(donor / METRICS_FILE))
    assert load_config(own / "config.yaml").training.learning_rate == change["settings"]["training.learning_rate"]


def check_what_trained_on(taker: Trial, donor: Trial, own: list[Report], donors: list[Report]) -> None:
    start = [report for report in own if report["kind"] == "start"][-1]
    assert start["step"] == LOOK
    # The loss of a step is taken before its update, on the same rows: equal only with the donor's weights.
    (donors_next,), own_next = losses(donors, LOOK + 1), losses(own, LOOK + 1)[-1]
    assert own_next["loss"] == donors_next["loss"] != losses(own, LOOK)[0]["loss"]
    rates = [trial.settings["training.learning_rate"] for trial in (taker, donor)]
    assert own_next["learning_rate"] / donors_next["learning_rate"] == pytest.approx(rates[0] / rates[1])
    assert losses(own, LOOK + 2)[-1]["loss"] != losses(donors, LOOK + 2)[0]["loss"]
