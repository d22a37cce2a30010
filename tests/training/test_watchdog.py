"""A worker that makes no step writes its stack, and the driver says so; one that is held makes none on purpose."""

from __future__ import annotations

import errno
import shutil
import threading
import time
from pathlib import Path

import pytest

from hyena_glt.errors import StorageError
from hyena_glt.training import loop, progress, saver
from hyena_glt.training.metrics import METRICS_FILE, read_reports
from hyena_glt.training.orders import OWNER_FILE
from hyena_glt.training.progress import progress_bar
from hyena_glt.training.watchdog import stalled_ranks, watched
from tests.tiny_run import write_lambda_data
from tests.training.in_process import SETTINGS, losses, run
from tests.training.test_progress import append, start
from tests.training.worlds import TOKEN, begin, run_world
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lambda as windows of 64 bases."""
    return write_lambda_data(tmp_path_factory.mktemp("data") / "lambda", {"kind": "char"}, max_length=64)


def test_who_steps_in_time_leaves_nothing(tmp_path: Path) -> None:
    with watched(tmp_path, 0, 5.0) as alive:
        for _ in range(3):
            alive()
    assert not (tmp_path / "stacks").exists() and stalled_ranks(tmp_path) == []


def test_each_worker_that_stands_still_is_known(tmp_path: Path) -> None:
    with watched(tmp_path, 12, 0.05) as alive:
        alive()
        time.sleep(0.5)
        assert stalled_ranks(tmp_path) == [12]
    assert "test_each_worker_that_stands_still_is_known" in (tmp_path / "stacks" / "rank_12.txt").read_text()
    with watched(tmp_path, 12, 5.0):
        assert stalled_ranks(tmp_path) == []


@pytest.mark.usefixtures("process_group")
def test_a_step_that_hangs_shows_where(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = loop._accumulate

    def hang(of: loop.Run, *rest: object) -> bool:
        if of.progress.step == 2:
            time.sleep(1.0)
        return original(of, *rest)

    monkeypatch.setattr(loop, "_accumulate", hang)
    run(data, tmp_path, "cluster.stall_timeout_s=0.5", "training.max_steps=3")
    stack = (tmp_path / "stacks" / "rank_0.txt").read_text()
    assert "in hang" in stack and "in take_step" in stack


def test_who_is_held_at_a_validation_does_not_stand_still(data: Path, tmp_path: Path) -> None:
    """Neither rank 0, which reads the order, nor those that wait for it; as in a population, where each waits for the slowest."""
    folder = begin(tmp_path / "run")
    orders = folder / OWNER_FILE
    orders.write_text(f"{TOKEN} after 0")
    settings = [*SETTINGS, f"data.train_path={data}", f"data.val_path={data}", "tasks.causal_lm.weight=1", "cluster.stall_timeout_s=3"]
    world = threading.Thread(target=run_world, args=(2, settings, folder))
    world.start()
    try:
        wait_until(lambda: losses(folder, "eval"))
        time.sleep(1)  # both are held now
        shutil.rmtree(folder / "stacks", ignore_errors=True)  # of first steps, where the machine is busy
        time.sleep(6)
        assert len(losses(folder)) == 3, "it was not held"
        assert stalled_ranks(folder) == []
    finally:
        orders.write_text(f"{TOKEN} after 3")
        world.join()
    assert read_reports(folder / METRICS_FILE)[-1]["kind"] == "end" and len(losses(folder)) == 6
    third, fourth = [report for report in read_reports(folder / METRICS_FILE) if report["kind"] == "train"][2:4]
    assert (fourth["tokens"] - third["tokens"]) / fourth["tokens_per_s"] < 4, "the wait is no part of the speed"


@pytest.mark.usefixtures("process_group")
def test_a_checkpoint_that_cannot_be_written_ends_a_run_that_is_held(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the driver would wait for the checkpoint, and the run for the driver."""

    def fill_up(*_: object) -> None:
        time.sleep(0.5)  # by then the run is held
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(saver, "commit", fill_up)
    with pytest.raises(StorageError, match="the checkpoint of step 3 could not be written in"):
        run(data, tmp_path, "logging.save_retry_s=0", order="after 0")


def test_the_driver_says_it_once(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "POLL_S", 0.005)
    monkeypatch.setattr(progress, "LOOK_FOR_STACKS", 1)
    (tmp_path / "stacks").mkdir()
    (tmp_path / "stacks" / "rank_7.txt").write_text("of an earlier start")
    with progress_bar(tmp_path, total_steps=40):
        append(tmp_path, start())
        time.sleep(0.1)
        (tmp_path / "stacks" / "rank_2.txt").write_text("File ...")
        time.sleep(0.1)
    assert capsys.readouterr().err == f"warning: no step from worker 2 for cluster.stall_timeout_s; stacks in {tmp_path}/stacks\n"
