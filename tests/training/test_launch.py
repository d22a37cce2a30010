"""Which failures of a worker start the run again."""

from __future__ import annotations

from pathlib import Path

import pytest
import ray.train
import torch
from ray.exceptions import RayActorError
from ray.train.v2._internal.exceptions import (
    WorkerGroupStartupTimeoutError,
    WorkerHealthCheckFailedError,
    WorkerHealthCheckTimeoutError,
)

from hyena_glt.config import Config, config_from_dict
from hyena_glt.errors import ClusterError, DataError
from hyena_glt.training import launch
from hyena_glt.training.checkpoint import CheckpointInfo, Progress
from hyena_glt.training.commit import commit, empty_staging_folder, list_part

PASSING = [
    WorkerHealthCheckFailedError("A worker health check failed.", RayActorError()),
    WorkerHealthCheckTimeoutError("no answer"),
    RayActorError(),
    RuntimeError("Connection closed by peer"),
    ConnectionResetError("reset"),
]
STAYING = [TypeError("a mistake"), KeyError("weights"), NotImplementedError("no kernel")]
OUT_OF_MEMORY = [MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: not enough memory")]


def name(failure: Exception) -> str:
    return type(failure).__name__


Ending = dict[int, Exception] | Exception | str
"""How a start ends: by failures of workers, by another error of Ray Train, or for a reason."""


def batches(
    monkeypatch: pytest.MonkeyPatch, run: Path, *endings: Ending, batch_size: int = 32, saves: bool = False
) -> list[tuple[int, int]]:
    """(Batch size, accumulation steps) of each start of a run whose first starts end like that, with a checkpoint if it `saves`."""
    begun: list[tuple[int, int]] = []

    def fit(cfg: Config, *_: object, **__: object) -> str:
        begun.append((cfg.training.batch_size, cfg.training.gradient_accumulation_steps))
        if saves:
            save_step(run, len(begun))
        ending = endings[len(begun) - 1] if len(begun) <= len(endings) else "finished"
        if isinstance(ending, dict):
            raise ray.train.WorkerGroupError("workers failed", ending)
        if isinstance(ending, Exception):
            raise ending
        return ending

    monkeypatch.setattr(launch, "_fit_once", fit)
    cfg = config_from_dict({"cluster": {"max_failures": 2}, "training": {"batch_size": batch_size, "gradient_accumulation_steps": 3}})
    launch.train_on_ray(cfg, run, sizes=[2], use_gpu=False, bytes_needed=lambda rows: 10**9 + rows * 10**8)
    return begun


def save_step(run: Path, step: int) -> None:
    staged = empty_staging_folder(run, step, "test")
    list_part(staged)
    commit(run, staged, CheckpointInfo(
        progress=Progress(step=step), world_size=2, zero_stage=1, global_rows=8, data_checksum="",
    ))


def starts(monkeypatch: pytest.MonkeyPatch, run: Path, *endings: Ending, saves: bool = False) -> int:
    return len(batches(monkeypatch, run, *endings, saves=saves))


@pytest.mark.parametrize("failure", PASSING, ids=name)
def test_a_lost_worker_starts_the_run_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, failure: Exception) -> None:
    assert starts(monkeypatch, tmp_path, {1: failure}) == 2


@pytest.mark.parametrize("failure", STAYING, ids=name)
def test_a_mistake_stops_at_once_though_its_peer_lost_the_connection(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, failure: Exception
) -> None:
    with pytest.raises(ClusterError, match="a restart would meet again"):
        starts(monkeypatch, tmp_path, {0: failure, 1: RuntimeError("Connection closed by peer")})


def test_failures_without_progress_are_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="training failed 3 times without a checkpoint between, last by: worker 0: RayActorError: "):
        starts(monkeypatch, tmp_path, *[{0: RayActorError()}] * 3)
    assert starts(monkeypatch, tmp_path, *[{0: RayActorError()}] * 5, saves=True) == 6


def test_a_group_that_could_not_be_started_is_tried_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    late = ray.train.ControllerError(WorkerGroupStartupTimeoutError(num_workers=2))
    assert starts(monkeypatch, tmp_path, late, late) == 3
    with pytest.raises(ClusterError, match="training failed 3 times .*, last by: WorkerGroupStartupTimeoutError: "):
        starts(monkeypatch, tmp_path, late, late, late)


def test_a_withdrawn_node_is_no_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert starts(monkeypatch, tmp_path, *["withdrawn"] * 5) == 6
    assert starts(monkeypatch, tmp_path, "interrupted") == 1


def test_our_own_sentence_reaches_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="loss is not finite"):
        starts(monkeypatch, tmp_path, {0: DataError("loss is not finite")})


@pytest.mark.parametrize("failure", OUT_OF_MEMORY, ids=name)
def test_without_memory_the_same_global_batch_comes_in_smaller_parts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture, failure: Exception
) -> None:
    with caplog.at_level("WARNING"):
        assert batches(monkeypatch, tmp_path, *[{0: failure}] * 4, batch_size=24) == [(24, 3), (12, 6), (6, 12), (2, 36), (1, 72)]
    assert "training.batch_size=12 training.gradient_accumulation_steps=6: the same global batch, an estimated 2.20 GB instead of 3.40" in (
        caplog.text
    )


def test_a_row_that_does_not_fit_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="a single row does not fit .*CUDA out of memory.*Set hardware.gradient_checkpointing"):
        batches(monkeypatch, tmp_path, {0: OUT_OF_MEMORY[1]}, batch_size=1)


@pytest.mark.parametrize(
    "batch_size, fixed, wanted", [(32, 0, 16), (32, 40, 8), (12, 0, 6), (7, 0, 1), (7, 1000, 1), (32, 1000, 16), (1, 0, None)]
)
def test_the_memory_model_chooses_the_smaller_batch(batch_size: int, fixed: int, wanted: int | None) -> None:
    assert launch.smaller_batch(batch_size, lambda rows: fixed + rows) == wanted
