"""A worker that makes no step writes its stack, and the driver says so."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from hyena_glt.training import loop, progress
from hyena_glt.training.progress import progress_bar
from hyena_glt.training.watchdog import stalled_ranks, watched
from tests.training.in_process import run
from tests.training.test_progress import append, start


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
