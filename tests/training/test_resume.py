"""Stop and resume equal an unbroken run: real Ray Train, real DeepSpeed, two workers, killed by real signals."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from hyena_glt.config import load_config
from hyena_glt.training.checkpoint import read_info, resolve_checkpoint
from hyena_glt.training.metrics import METRICS_FILE, last_reports, read_reports
from pipelines.preprocess import preprocess
from tests.tiny_run import write_lambda_data

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

GENOMES = Path(__file__).parents[2] / "pipelines" / "genomes"
STEPS, SAVE = 40, 8
SETTINGS = [
    "model.hidden_size=16", "model.num_layers=3", "model.mixers=[se,mr,li]", "model.max_position_embeddings=128", "model.dropout=0",
    "tasks.causal_lm.weight=1", f"training.max_steps={STEPS}", "training.batch_size=2", "training.gradient_accumulation_steps=2",
    "training.learning_rate=1e-2", "training.warmup_steps=5", "training.eval_max_rows=16", "logging.log_interval=1",
    "logging.eval_interval=8", f"logging.save_interval={SAVE}", "logging.use_tensorboard=false", "cluster.train_workers=2",
    "cluster.num_cpus=2", "hardware.precision=fp32",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Path:
    """The phage genomes as windows of 128 bases."""
    folder = tmp_path_factory.mktemp("data") / "phages"
    preprocess(load_config(None, [
        f"preprocessing.input_path={GENOMES}", f"output.path={folder}", "preprocessing.max_length=128", "tokenization.kind=char",
        "preprocessing.split.by=tail",
    ]))
    return folder


def command(data: Path, run: Path, *settings: str) -> list[str]:
    overrides = [*SETTINGS, f"data.train_path={data}", f"training.output_dir={run}", *settings]
    given = {setting.split("=")[0]: setting for setting in overrides}  # a test's own value replaces the common one
    return [sys.executable, "-m", "hyena_glt.cli", "pretrain", *given.values()]


def start(data: Path, run: Path, *settings: str) -> subprocess.Popen:
    """A driver in a process group of its own, as a shell would start it."""
    environment = {**os.environ, "PYTHONPATH": str(GENOMES.parents[1])}
    return subprocess.Popen(
        command(data, run, *settings), env=environment, start_new_session=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def train(data: Path, run: Path, *settings: str) -> dict:
    """Run to the end; the result that the command prints."""
    process = start(data, run, *settings)
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return json.loads(out.splitlines()[-1])


def wait_for(condition: Callable[[], bool], process: subprocess.Popen, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, f"the run ended before it could be stopped: {process.communicate()}"
        assert time.monotonic() < deadline
        time.sleep(0.01)


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


ONE_STAGE = pytest.mark.parametrize("unbroken", [1], indirect=True, ids=["zero1"])
"""For what does not depend on the ZeRO stage."""
ONE_STAGE_FIRST = pytest.mark.parametrize("unbroken", [1, pytest.param(3, marks=pytest.mark.long)], indirect=True, ids=["zero1", "zero3"])


@pytest.fixture(scope="module", params=[1, 3], ids=["zero1", "zero3"])
def unbroken(request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path]:
    """(ZeRO stage, run folder) of a run that nothing disturbed."""
    run = tmp_path_factory.mktemp("unbroken") / f"zero{request.param}"
    result = train(data, run, f"hardware.zero_stage={request.param}")
    assert result["steps"] == STEPS and result["status"] == "finished"
    assert losses(run, "train")[STEPS] < losses(run, "train")[1] - 0.2, "it must learn, or equal losses would say little"
    return request.param, run


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


@ONE_STAGE_FIRST
def test_driver_killed(unbroken: tuple[int, Path], data: Path, tmp_path: Path) -> None:
    stage, reference = unbroken
    run, setting = tmp_path / "killed", f"hardware.zero_stage={stage}"
    process = start(data, run, setting)
    wait_for(lambda: second_checkpoint(run), process)
    workers = list(workers_of(process))
    os.killpg(process.pid, signal.SIGKILL)
    for worker in workers:  # Ray ends them when it has noticed, and a run this short may be finished by then
        with suppress(psutil.Error):
            worker.kill()
    process.communicate()
    saved = newest_saved(run)
    assert saved < STEPS

    result = train(data, run, setting)

    assert_nothing_ran_twice(run, saved)
    assert_same_metrics(run, reference)
    assert result["steps"] == STEPS


def workers_of(process: subprocess.Popen) -> Iterator[psutil.Process]:
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if "RayTrainWorker" in " ".join(child.cmdline()):
                yield child
        except psutil.Error:
            continue


@ONE_STAGE_FIRST
def test_worker_killed(unbroken: tuple[int, Path], data: Path, tmp_path: Path) -> None:
    stage, reference = unbroken
    run = tmp_path / "worker"
    process = start(data, run, f"hardware.zero_stage={stage}")
    wait_for(lambda: second_checkpoint(run), process)
    saved = newest_saved(run)
    list(workers_of(process))[-1].kill()
    _, errors = process.communicate(timeout=400)

    assert process.returncode == 0, errors
    assert "going on from the last checkpoint" in errors
    assert_nothing_ran_twice(run, saved)
    assert_same_metrics(run, reference)


@ONE_STAGE
def test_interrupt_saves_and_exits_130(data: Path, tmp_path: Path, unbroken: tuple[int, Path]) -> None:
    stage, reference = unbroken
    run, setting = tmp_path / "interrupted", f"hardware.zero_stage={stage}"
    process = start(data, run, setting)
    wait_for(lambda: second_checkpoint(run), process)
    os.killpg(process.pid, signal.SIGINT)
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    result = json.loads(out.splitlines()[-1])
    assert result["status"] == "interrupted" and 2 * SAVE <= result["steps"] < STEPS
    assert newest_saved(run) == result["steps"]

    train(data, run, setting)

    assert_nothing_ran_twice(run, result["steps"])
    assert losses(run, "train") == pytest.approx(losses(reference, "train"), abs=1e-6)


def back_to_second_checkpoint(run: Path, copy: Path) -> None:
    """A copy of `run` as it stood when its second checkpoint was just written."""
    shutil.copytree(run, copy)
    for folder in sorted((copy / "checkpoints").glob("step_*"))[2:]:
        shutil.rmtree(folder)
    (copy / "checkpoints" / "latest").write_text(f"step_{2 * SAVE:08d}\n")
    (copy / "checkpoints" / "best_model").unlink()
    lines = (copy / METRICS_FILE).read_text().splitlines(keepends=True)
    (copy / METRICS_FILE).write_text("".join(line for line in lines if json.loads(line)["step"] <= 2 * SAVE))


def test_goes_on_with_another_number_of_workers(unbroken: tuple[int, Path], data: Path, tmp_path: Path) -> None:
    """Two workers, then one: the same global batches, so the same losses but for the order of sums."""
    stage, reference = unbroken
    run = tmp_path / "fewer"
    back_to_second_checkpoint(reference, run)

    train(data, run, f"hardware.zero_stage={stage}", "cluster.train_workers=1")

    assert_nothing_ran_twice(run, 2 * SAVE)
    assert read_reports(run / METRICS_FILE)[-1]["kind"] == "end"
    assert losses(run, "train") == pytest.approx(losses(reference, "train"), abs=1e-4)


@ONE_STAGE
def test_a_number_of_workers_that_does_not_divide_the_batch(unbroken: tuple[int, Path], data: Path) -> None:
    stage, run = unbroken
    process = start(data, run, f"hardware.zero_stage={stage}", "cluster.train_workers=3", "cluster.num_cpus=3")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "3 workers of batch_size 2 do not divide this run's global batch of 8 rows; these do: 1, 2, 4" in errors


@ONE_STAGE
def test_a_finished_run_prints_its_result(unbroken: tuple[int, Path], data: Path) -> None:
    stage, run = unbroken
    before = (run / METRICS_FILE).read_text()
    result = train(data, run, f"hardware.zero_stage={stage}")
    assert result["steps"] == STEPS and result["train_loss"] == losses(run, "train")[STEPS]
    assert (run / METRICS_FILE).read_text() == before


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
