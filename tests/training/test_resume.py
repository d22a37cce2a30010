"""Stop and resume equal an unbroken run: real Ray Train, real DeepSpeed, two workers, ended by real signals.

What else may befall a run, and the other ZeRO stages, are the business of `tests/faults` and `test_world_sizes`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
import ray

from hyena_glt.config import load_config
from hyena_glt.training.checkpoint import read_info, resolve_checkpoint
from hyena_glt.training.metrics import METRICS_FILE, last_reports, read_reports
from pipelines.preprocess import preprocess
from tests.tiny_run import write_lambda_data
from tests.training.worlds import begin, run_world
from tests.waiting import HANG_S, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_session")]

ROOT = Path(__file__).parents[2]
STEPS, SAVE = 40, 8
SETTINGS = [
    "model.hidden_size=16", "model.num_layers=3", "model.mixers=[se,mr,li]", "model.max_position_embeddings=128", "model.dropout=0",
    "tasks.causal_lm.weight=1", f"training.max_steps={STEPS}", "training.batch_size=2", "training.gradient_accumulation_steps=2",
    "training.learning_rate=1e-2", "training.warmup_steps=5", "training.eval_max_rows=16", "logging.log_interval=1",
    "logging.eval_interval=8", f"logging.save_interval={SAVE}", "logging.use_tensorboard=false", "cluster.train_workers=2",
    "hardware.precision=fp32", "hardware.zero_stage=1",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Path:
    """The phage genomes as windows of 128 bases."""
    folder = tmp_path_factory.mktemp("data") / "phages"
    preprocess(load_config(None, [
        f"preprocessing.input_path={ROOT}/pipelines/genomes", f"output.path={folder}", "preprocessing.max_length=128",
        "tokenization.kind=char", "preprocessing.split.by=tail",
    ]))
    return folder


def start(data: Path, run: Path, *settings: str) -> subprocess.Popen:
    """A driver on the tests' Ray, in a process group of its own, as a shell would start it."""
    address = ray.get_runtime_context().gcs_address
    overrides = [*SETTINGS, f"data.train_path={data}", f"training.output_dir={run}", f"cluster.address={address}", *settings]
    given = {setting.split("=")[0]: setting for setting in overrides}  # a test's own value replaces the common one
    return subprocess.Popen(
        [sys.executable, "-m", "hyena_glt.cli", "pretrain", *given.values()], env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )


def train(data: Path, run: Path, *settings: str) -> dict:
    """Run to the end; the result that the command prints."""
    process = start(data, run, *settings)
    out, errors = process.communicate(timeout=HANG_S)
    assert process.returncode == 0, errors
    return json.loads(out.splitlines()[-1])


def second_checkpoint(run: Path) -> bool:
    return (run / "checkpoints" / f"step_{2 * SAVE:08d}").exists()


def losses(run: Path, kind: str) -> dict[int, float]:
    """Step to loss; a step that ran again counts as it ran last."""
    return {report["step"]: report["loss"] for report in read_reports(run / METRICS_FILE) if report["kind"] == kind}


def steps_run(run: Path) -> list[list[int]]:
    """The steps of each start, in order."""
    starts: list[list[int]] = []
    for report in read_reports(run / METRICS_FILE):
        if report["kind"] == "start":
            starts.append([])
        elif report["kind"] == "train":
            starts[-1].append(report["step"])
    return starts


@pytest.fixture(scope="module")
def unbroken(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed, of two processes without Ray."""
    run = begin(tmp_path_factory.mktemp("unbroken") / "run")
    run_world(2, [*SETTINGS, f"data.train_path={data}", f"data.val_path={data}"], run, timeout_s=HANG_S)
    assert losses(run, "train")[STEPS] < losses(run, "train")[1] - 0.2, "it must learn, or equal losses would say little"
    return run


class Resumed(NamedTuple):
    """A run that was interrupted and then went on to its end."""

    run: Path
    interrupted: dict
    """The result that the interrupted command printed."""
    saved: int
    finished: dict


@pytest.fixture(scope="module")
def resumed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Resumed:
    run = tmp_path_factory.mktemp("resumed") / "run"
    process = start(data, run)
    wait_until(lambda: second_checkpoint(run), process=process)
    os.killpg(process.pid, signal.SIGINT)
    out, errors = process.communicate(timeout=HANG_S)
    assert process.returncode == 130, errors
    return Resumed(run, json.loads(out.splitlines()[-1]), newest_saved(run), train(data, run))


def assert_same_metrics(run: Path, reference: Path) -> None:
    for kind in ("train", "eval"):
        found, wanted = losses(run, kind), losses(reference, kind)
        assert found.keys() == wanted.keys()
        assert found == pytest.approx(wanted, abs=1e-6)


def assert_nothing_ran_twice(run: Path, checkpoint_step: int) -> None:
    first, *later = steps_run(run)
    assert first[0] == 1 and later, "the run was not started again"
    assert later[0][0] > checkpoint_step, f"steps up to {checkpoint_step} were saved, and {later[0][0]} ran again"


def newest_saved(run: Path) -> int:
    return read_info(resolve_checkpoint(run / "checkpoints" / "latest")).progress.step


def test_driver_killed(unbroken: Path, data: Path, tmp_path: Path) -> None:
    run = tmp_path / "killed"
    process = start(data, run)
    wait_until(lambda: second_checkpoint(run), process=process)
    os.killpg(process.pid, signal.SIGKILL)
    for worker in workers():  # Ray ends them when it has noticed, and a run this short may be finished by then
        with suppress(psutil.Error):
            worker.kill()
    process.communicate()
    saved = newest_saved(run)
    assert saved < STEPS

    result = train(data, run)

    assert_nothing_ran_twice(run, saved)
    assert_same_metrics(run, unbroken)
    assert result["steps"] == STEPS and result["status"] == "finished"


def workers() -> Iterator[psutil.Process]:
    """Those that train on the tests' Ray."""
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if "RayTrainWorker" in " ".join(child.cmdline()):
                yield child


def test_interrupt_saves_and_exits_130(unbroken: Path, resumed: Resumed) -> None:
    before = resumed.interrupted
    assert before["status"] == "interrupted" and 2 * SAVE <= before["steps"] < STEPS
    assert resumed.saved == before["steps"]
    assert_nothing_ran_twice(resumed.run, before["steps"])
    assert losses(resumed.run, "train") == pytest.approx(losses(unbroken, "train"), abs=1e-6)


def test_a_number_of_workers_that_does_not_divide_the_batch(resumed: Resumed, data: Path) -> None:
    process = start(data, resumed.run, "cluster.train_workers=3")
    _, errors = process.communicate(timeout=HANG_S)
    assert process.returncode == 2, errors
    assert "3 workers of batch_size 2 do not divide this run's global batch of 8 rows; these do: 1, 2, 4" in errors


def test_a_finished_run_prints_its_result(resumed: Resumed, data: Path) -> None:
    before = (resumed.run / METRICS_FILE).read_text()
    result = train(data, resumed.run)
    assert result["steps"] == STEPS and result["train_loss"] == losses(resumed.run, "train")[STEPS] == resumed.finished["train_loss"]
    assert (resumed.run / METRICS_FILE).read_text() == before


@pytest.mark.long
def test_two_workers_weigh_tokens_as_one_does(tmp_path: Path, ray_session: None) -> None:
    """Soft-masked bases count 0.1 of a mixture's loss; the workers' shares of the weight differ."""
    paths = [write_lambda_data(tmp_path / name, {"kind": "char"}, soft_masked=weight) for name, weight in (("a", 0.1), ("b", None))]
    settings = [f"data.train_path=[{paths[0]}, {paths[1]}]", "data.reverse_complement=0.5", "data.max_shift=16", "training.max_steps=10"]
    for workers, batch_size in ((1, 4), (2, 2)):
        train(paths[0], tmp_path / f"run{workers}", *settings, f"cluster.train_workers={workers}", f"training.batch_size={batch_size}")
    assert_same_metrics(tmp_path / "run2", tmp_path / "run1")
    one, two = (last_reports(tmp_path / f"run{workers}" / METRICS_FILE)["train"] for workers in (1, 2))
    assert one["rows/a"] + one["rows/b"] == 80
    assert all(one[name] == two[name] for name in ("rows/a", "rows/b", "tokens/a", "tokens/b"))
