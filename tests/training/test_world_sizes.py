"""A checkpoint of any ZeRO stage goes on in a world of another size: the same batches, the same losses, the same weights."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hyena_glt.data.batches import Batch
from hyena_glt.training.checkpoint import OPTIMIZER_FOLDER, WEIGHTS_FILE, resolve_checkpoint
from hyena_glt.training.engine import UNIVERSAL_TAG, Engine
from hyena_glt.training.metrics import METRICS_FILE, read_reports
from tests.training.in_process import losses
from tests.training.worlds import begin, run_world

STEPS, SWITCH = 8, 4
GLOBAL_ROWS = 12
CLOSE = 1e-5
PAIRS = [(2, 3), *(pytest.param(*pair, marks=pytest.mark.long) for pair in [(2, 1), (1, 2), (4, 2)])]


def settings(data: Path, world_size: int, stage: int, *more: str) -> list[str]:
    return [
        "model.hidden_size=16", "model.num_layers=3", "model.mixers=[se,li,attention]", "model.num_attention_heads=2",
        "model.max_position_embeddings=64", "model.vocab_size=4", "model.dropout=0", "tasks.causal_lm.weight=1",
        f"training.max_steps={STEPS}", "training.learning_rate=3e-3", "training.warmup_steps=2", "training.batch_size=1",
        f"training.gradient_accumulation_steps={GLOBAL_ROWS // world_size}", "training.eval_max_rows=8",
        "logging.log_interval=1", f"logging.eval_interval={SWITCH}", f"logging.save_interval={SWITCH}", "logging.use_tensorboard=false",
        f"data.train_path={data}", f"data.val_path={data}", "hardware.precision=fp32", f"hardware.zero_stage={stage}", *more,
    ]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(resolve_checkpoint(folder / "checkpoints" / "latest") / WEIGHTS_FILE)


@pytest.fixture(scope="module")
def unbroken(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of runs that nothing disturbed, by stage and world size, made as they are asked for."""
    return tmp_path_factory.mktemp("unbroken")


def reference(unbroken: Path, data: Path, stage: int, world_size: int) -> Path:
    folder = unbroken / f"{stage}_{world_size}"
    if not folder.exists():
        run_world(world_size, settings(data, world_size, stage), begin(folder))
        found = losses(folder)
        assert len(found) == STEPS and found[-1] < found[0] - 0.02, "it must learn, or equal losses would say little"
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), PAIRS)
@pytest.mark.parametrize("stage", range(4))
def test_another_number_of_workers(data: Path, unbroken: Path, tmp_path: Path, stage: int, before: int, after: int) -> None:
    whole = reference(unbroken, data, stage, before)
    run = begin(tmp_path / "run")
    shutil.copytree(whole / "checkpoints" / f"step_{SWITCH:08d}", run / "checkpoints" / f"step_{SWITCH:08d}")
    run_world(after, settings(data, before, stage), run)
    assert losses(run) == pytest.approx(losses(whole)[SWITCH:], abs=CLOSE)
    assert losses(run, "eval") == pytest.approx(losses(whole, "eval")[1:], abs=CLOSE)
    wanted = weights(whole)
    for name, found in weights(run).items():
        assert (found - wanted[name]).abs().max() <= CLOSE, name


@pytest.mark.slow
def test_what_another_number_of_workers_reads_is_made_again_where_it_is_damaged(data: Path, unbroken: Path, tmp_path: Path) -> None:
    whole = reference(unbroken, data, 2, 2)
    step, runs = Path(f"checkpoints/step_{SWITCH:08d}"), [begin(tmp_path / name) for name in ("first", "second")]
    shutil.copytree(whole / step, runs[0] / step)
    run_world(1, settings(data, 2, 2), runs[0])
    shutil.copytree(runs[0] / step, runs[1] / step)
    damaged = next((runs[1] / step / OPTIMIZER_FOLDER / UNIVERSAL_TAG).rglob("*norm.weight/exp_avg.pt"))
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    run_world(1, settings(data, 2, 2), runs[1])
    assert losses(runs[1]) == losses(runs[0])


def slow_down(rank: int) -> None:
    """Half a second more for each forward pass of rank 1."""
    whole = Engine.loss

    def loss(engine: Engine, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        time.sleep(0.5 * (rank == 1))
        return whole(engine, batch)

    Engine.loss = loss


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2])
def test_a_slow_worker_is_named(data: Path, unbroken: Path, tmp_path: Path, stage: int) -> None:
    reference(unbroken, data, stage, 2)  # else what a first run of new code compiles could outlast the half second
    run_world(2, settings(data, 12, stage), begin(tmp_path / "run"), first=slow_down)
    trained = [report for report in read_reports(tmp_path / "run" / METRICS_FILE) if report["kind"] == "train"]
    assert [report["slowest_rank"] for report in trained] == [1] * STEPS
    assert all(0.45 < report["straggler_gap_s"] < 2 for report in trained)


@pytest.mark.slow
@pytest.mark.parametrize("stage", range(4))
def test_the_same_number_of_workers_gives_the_same_bits(data: Path, unbroken: Path, tmp_path: Path, stage: int) -> None:
    whole = reference(unbroken, data, stage, 2)
    run = begin(tmp_path / "run")
    shutil.copytree(whole / "checkpoints" / f"step_{SWITCH:08d}", run / "checkpoints" / f"step_{SWITCH:08d}")
    run_world(2, settings(data, 2, stage), run)
    wanted = weights(whole)
    assert losses(run) == losses(whole)[SWITCH:] and all(torch.equal(found, wanted[name]) for name, found in weights(run).items())
