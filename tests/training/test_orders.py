"""A run is held at a validation, let go on, and stopped, through one file that also says whose it is."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from hyena_glt.errors import ClusterError, StorageError
from hyena_glt.training.orders import Orders, held_at, read_order
from hyena_glt.training.worker import Worker


def worker(run: Path, token: str) -> Worker:
    return Worker(0, 1, torch.device("cpu"), run, token)


def test_a_run_is_held_at_a_validation_until_it_may_go_on_or_shall_stop(tmp_path: Path) -> None:
    orders = Orders(tmp_path, after=3)
    held = worker(tmp_path, orders.start())
    assert [held.is_held(step) for step in (0, 2, 3, 5)] == [False, False, False, True]
    orders.after(5)
    assert not held.is_held(5) and held.is_held(6) and not held.stop_requested()
    orders.stop()
    assert not held.is_held(6) and held.stop_requested()
    other = Worker(1, 2, torch.device("cpu"), tmp_path, "any")
    assert not other.is_held(6) and not other.stop_requested(), "only rank 0 looks"


def test_a_stop_stays_and_is_there_for_the_next_start_too(tmp_path: Path) -> None:
    orders = Orders(tmp_path)
    first = orders.start()
    orders.stop()
    orders.after(9)
    assert worker(tmp_path, first).stop_requested()
    assert worker(tmp_path, orders.start()).stop_requested()


def test_a_start_leaves_for_more_workers_unless_it_is_held_or_shall_stop(tmp_path: Path) -> None:
    orders = Orders(tmp_path)
    orders.grow()  # of no start yet
    first = worker(tmp_path, orders.start())
    assert not first.growth_requested()
    orders.grow()
    assert first.growth_requested() and not first.stop_requested()
    assert not Worker(1, 2, torch.device("cpu"), tmp_path, "any").growth_requested(), "only rank 0 looks"
    second = worker(tmp_path, orders.start())
    assert not second.growth_requested(), "the next start has grown"
    orders.after(3)
    orders.grow()
    assert second.is_held(4) and not second.growth_requested()
    orders.stop()
    orders.grow()
    assert second.stop_requested() and not second.growth_requested()


def test_a_driver_whose_run_was_taken_over_gives_no_order_and_starts_nothing(tmp_path: Path) -> None:
    early, later = Orders(tmp_path), Orders(tmp_path)
    early.start()
    token = later.start()
    assert later.owned() and not early.owned()
    for act in (early.grow, early.stop, early.start, lambda: early.after(5)):
        with pytest.raises(ClusterError, match=f"^{tmp_path} was taken over by a later start of this run$"):
            act()
    assert read_order(tmp_path) == (token, "")
    later.stop()
    assert read_order(tmp_path) == (token, "stop") and later.start() != token, "a restart is no takeover"


def test_held_at() -> None:
    assert held_at("after 5", 6) and held_at("after 5", 9) and not held_at("after 5", 5)
    assert not held_at("", 5) and not held_at("stop", 5)


def test_a_start_waits_for_a_storage_that_is_away(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    orders = Orders(run)
    first = orders.start()
    run.rename(tmp_path / "away")
    threading.Timer(0.5, (tmp_path / "away").rename, [run]).start()
    second = orders.start(retry_s=30)
    assert read_order(run) == (second, "") and second != first
    run.rename(tmp_path / "away")
    with pytest.raises(StorageError, match="could not be read or written"):
        orders.start()
    (tmp_path / "away").rename(run)
    assert read_order(run)[0] == second and orders.owned()
