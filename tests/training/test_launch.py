"""Which failures of a worker start the run again."""

from __future__ import annotations

from pathlib import Path

import pytest
import ray.train
import torch
from ray.exceptions import RayActorError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError, WorkerHealthCheckTimeoutError

from hyena_glt.config import config_from_dict
from hyena_glt.errors import ClusterError, DataError
from hyena_glt.training import launch

PASSING = [
    WorkerHealthCheckFailedError("A worker health check failed.", RayActorError()),
    WorkerHealthCheckTimeoutError("no answer"),
    RayActorError(),
    RuntimeError("Connection closed by peer"),
    ConnectionResetError("reset"),
]
STAYING = [TypeError("a mistake"), KeyError("weights"), NotImplementedError("no kernel"), MemoryError(), torch.OutOfMemoryError()]


def name(failure: Exception) -> str:
    return type(failure).__name__


def starts(monkeypatch: pytest.MonkeyPatch, run: Path, *failures: dict[int, Exception]) -> int:
    """How often the run was started, when its first starts end with `failures` of workers."""
    count = 0

    def fit(*_: object, **__: object) -> None:
        nonlocal count
        count += 1
        if count <= len(failures):
            raise ray.train.WorkerGroupError("workers failed", failures[count - 1])

    monkeypatch.setattr(launch, "_fit_once", fit)
    launch.train_on_ray(config_from_dict({"cluster": {"max_failures": 2}}), run, workers=2, use_gpu=False)
    return count


@pytest.mark.parametrize("failure", PASSING, ids=name)
def test_a_lost_worker_starts_the_run_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, failure: Exception) -> None:
    assert starts(monkeypatch, tmp_path, {1: failure}) == 2


@pytest.mark.parametrize("failure", STAYING, ids=name)
def test_a_mistake_stops_at_once_though_its_peer_lost_the_connection(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, failure: Exception
) -> None:
    with pytest.raises(ClusterError, match="a restart would meet again"):
        starts(monkeypatch, tmp_path, {0: failure, 1: RuntimeError("Connection closed by peer")})


def test_failures_are_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="training failed 3 times"):
        starts(monkeypatch, tmp_path, *[{0: RayActorError()}] * 3)


def test_our_own_sentence_reaches_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="loss is not finite"):
        starts(monkeypatch, tmp_path, {0: DataError("loss is not finite")})
