"""A run is held at a validation, let go on, and stopped, through one file that also says whose it is."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import torch

from hyena_glt.training.orders import Orders, held_at
from hyena_glt.training.worker import Worker


def worker(run: Path, token: str) -> Worker:
    return Worker(0, 1, torch.device("cpu"), run, token)


def test_a_run_waits_at_a_validation_until_it_may_go_on_or_shall_stop(tmp_path: Path) -> None:
    orders = Orders(tmp_path, after=3)
    held = worker(tmp_path, orders.start())
    assert [held.stop_requested(step) for step in (0, 2, 3)] == [False] * 3
    answers: list[bool] = []
    for order, answer in ((lambda: orders.after(5), False), (orders.stop, True)):
        thread = threading.Thread(target=lambda: answers.append(held.stop_requested(5 if not answers else 6)))
        thread.start()
        time.sleep(0.2)
        assert thread.is_alive(), "it did not wait"
        order()
        thread.join(5)
        assert answers[-1] is answer


def test_a_stop_stays_and_is_there_for_the_next_start_too(tmp_path: Path) -> None:
    orders = Orders(tmp_path)
    first = orders.start()
    orders.stop()
    orders.after(9)
    assert worker(tmp_path, first).stop_requested(20)
    assert worker(tmp_path, orders.start()).stop_requested(0)


def test_held_at() -> None:
    assert held_at("after 5", 6) and held_at("after 5", 9) and not held_at("after 5", 5)
    assert not held_at("", 5) and not held_at("stop", 5)
