"""The loop without Ray: one process, one worker, real DeepSpeed."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
import torch

from hyena_glt.config import load_config, only_task
from hyena_glt.data.batches import EvaluationBatches, Request, TrainingBatches
from hyena_glt.data.dataset import open_rows
from hyena_glt.data.mixture import open_training
from hyena_glt.errors import CheckpointError, ClusterError, StorageError
from hyena_glt.inference import load_model
from hyena_glt.objectives import IGNORE, CausalLM, build_objective
from hyena_glt.training import loop
from hyena_glt.training.checkpoint import COMMIT_FILE, CONFIG_FILE, OPTIMIZER_FOLDER, WEIGHTS_FILE, read_info, resolve_checkpoint
from hyena_glt.training.metrics import METRICS_FILE, read_reports
from hyena_glt.training.orders import OWNER_FILE, STOP
from hyena_glt.training.prepare import initial_model
from hyena_glt.training.worker import Worker
from tests.tiny_run import write_lambda_data
from tests.training.in_process import losses, run

GENOMES = Path(__file__).parents[2] / "pipelines" / "genomes"
GOLDEN = Path(__file__).with_name("golden_losses.json")


pytestmark = pytest.mark.usefixtures("process_group")


@pytest.mark.parametrize("mixers", ["hyena", "se", "mr", "li", "attention"])
@pytest.mark.parametrize("objective", ["causal_lm", "masked_lm"])
def test_golden_losses(data: Path, tmp_path: Path, mixers: str, objective: str) -> None:
    """The same numbers as when the file was written; after a change on purpose, delete it and run this once to write it anew."""
    run(data, tmp_path, f"model.mixers=[{mixers}]", f"tasks.{objective}.weight=1", "training.max_steps=4", "model.num_layers=1")
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    found = losses(tmp_path)
    if f"{objective} {mixers}" not in golden:
        GOLDEN.write_text(json.dumps(golden | {f"{objective} {mixers}": found}, indent=1, sort_keys=True) + "\n")
        pytest.fail("there was no golden loss; it is written now")
    assert found == pytest.approx(golden[f"{objective} {mixers}"], rel=1e-4)
    assert found[-1] < found[0]


@pytest.mark.parametrize("change", [
    ["training.batch_size=2", "training.gradient_accumulation_steps=2"], ["hardware.zero_stage=0"], ["hardware.zero_stage=2"],
    ["hardware.zero_stage=3"], ["hardware.gradient_checkpointing=true"], ["hardware.offload_optimizer=true"],
], ids=lambda change: change[-1])
def test_what_must_not_change_the_losses(data: Path, tmp_path: Path, change: list[str]) -> None:
    run(data, tmp_path / "plain")
    run(data, tmp_path / "changed", *change)
    assert losses(tmp_path / "changed") == pytest.approx(losses(tmp_path / "plain"), rel=1e-5)
    assert losses(tmp_path / "changed", "eval") == pytest.approx(losses(tmp_path / "plain", "eval"), rel=1e-5)


def test_bfloat16_stays_close(data: Path, tmp_path: Path) -> None:
    run(data, tmp_path / "fp32")
    run(data, tmp_path / "bf16", "hardware.precision=bf16")
    assert losses(tmp_path / "bf16") == pytest.approx(losses(tmp_path / "fp32"), rel=2e-2)
    assert losses(tmp_path / "bf16") != losses(tmp_path / "fp32")


def test_resume_with_dropout_is_exact(data: Path, tmp_path: Path) -> None:
    settings = ["model.dropout=0.2", "training.min_learning_rate=1e-2"]
    run(data, tmp_path / "unbroken", *settings)
    run(data, tmp_path / "broken", *settings, "training.max_steps=3")
    progress = run(data, tmp_path / "broken", *settings)
    assert progress.step == 6
    assert losses(tmp_path / "broken") == pytest.approx(losses(tmp_path / "unbroken"), abs=1e-6)


@pytest.fixture(scope="module")
def weighted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phage lambda, every other 100 bases soft-masked and weighing 0.1."""
    return write_lambda_data(tmp_path_factory.mktemp("weighted") / "lambda", {"kind": "char"}, max_length=64, soft_masked=0.1)


@pytest.mark.parametrize("objective", ["causal_lm", "masked_lm"])
def test_the_loss_is_the_weighted_mean_over_the_global_batch(weighted: Path, tmp_path: Path, objective: str) -> None:
    """The first step's loss, before any weight has moved, against a sum in float64."""
    settings = [f"tasks.{objective}.weight=1", "training.batch_size=2", "training.gradient_accumulation_steps=3", "training.max_steps=1"]
    run(weighted, tmp_path, *settings)
    cfg = load_config(resolve_checkpoint(tmp_path) / "config.yaml")
    mixture = open_training(cfg.data)
    goal = build_objective(only_task(cfg.tasks), mixture.tokenizer)
    batch = TrainingBatches(mixture, goal, cfg.training.seed, cfg.data.shuffle_row_groups)[Request(0, 6)]
    model = initial_model(cfg, vocab_size=4, causal=goal.causal).double()
    scored = batch.targets != IGNORE
    nats = -model(batch.inputs, batch.padding)[scored].log_softmax(-1).gather(1, batch.targets[scored][:, None])[:, 0]
    weights = batch.weights.double()[scored]
    assert set(weights.unique().tolist()) == {float(np.float16(0.1)), 1.0}
    assert losses(tmp_path)[0] == pytest.approx(((weights * nats).sum() / weights.sum()).item(), rel=1e-5)
    assert losses(tmp_path)[0] != pytest.approx(nats.mean().item(), rel=1e-5)


def test_weights_do_not_depend_on_micro_steps_and_do_not_enter_the_validation(weighted: Path, tmp_path: Path) -> None:
    run(weighted, tmp_path / "whole")
    run(weighted, tmp_path / "parts", "training.batch_size=1", "training.gradient_accumulation_steps=4")
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), rel=1e-5)
    plain = write_lambda_data(tmp_path / "plain_data", {"kind": "char"}, max_length=64)
    run(weighted, tmp_path / "first", "training.max_steps=1", "training.learning_rate=1e-12")
    run(plain, tmp_path / "second", "training.max_steps=1", "training.learning_rate=1e-12")
    assert losses(tmp_path / "first", "eval") == pytest.approx(losses(tmp_path / "second", "eval"), rel=1e-6)
    assert losses(tmp_path / "first") != pytest.approx(losses(tmp_path / "second"), rel=1e-5)


def test_batches_without_weight_leave_no_trace(tmp_path: Path) -> None:
    """Half of the genome is masked; with weight 0 some batches of one row have nothing to learn from."""
    data = write_lambda_data(tmp_path / "data", {"kind": "char"}, max_length=50, soft_masked=0.0)
    run(data, tmp_path / "run", "training.batch_size=1")
    steps = [report["step"] for report in read_reports(tmp_path / "run" / METRICS_FILE) if report["kind"] == "train"]
    assert 0 < len(steps) < 6 and all(math.isfinite(loss) for loss in losses(tmp_path / "run"))


def mixed(data: Path, weighted: Path) -> list[str]:
    return [
        f"data.train_path=[{data}, {weighted}]", f"data.val_path=[{data}, {weighted}]", "data.mixture_weights=[3, 1]",
        "data.reverse_complement=0.5", "data.max_shift=8",
    ]


def reports(folder: Path, kind: str) -> list[dict]:
    return [report for report in read_reports(folder / METRICS_FILE) if report["kind"] == kind]


def test_a_mixture_resumes_exactly_with_its_counts(data: Path, weighted: Path, tmp_path: Path) -> None:
    settings = [*mixed(data, weighted), "training.min_learning_rate=1e-2"]
    run(data, tmp_path / "unbroken", *settings)
    run(data, tmp_path / "broken", *settings, "training.max_steps=3")
    progress = run(data, tmp_path / "broken", *settings)
    assert losses(tmp_path / "broken") == pytest.approx(losses(tmp_path / "unbroken"), abs=1e-6)
    for one, two in zip(reports(tmp_path / "broken", "train"), reports(tmp_path / "unbroken", "train"), strict=True):
        for name in ("rows/phages", "rows/lambda", "tokens/phages", "tokens/lambda"):
            assert one[name] == two[name]
        assert one["rows/phages"] + one["rows/lambda"] == 4 * one["step"]
        assert one["tokens/phages"] + one["tokens/lambda"] == one["tokens"]
    assert progress.domain_tokens == {name: one[f"tokens/{name}"] for name in ("phages", "lambda")}
    assert 0 < one["rows/lambda"] < one["rows/phages"]


def test_validation_of_a_mixture_is_over_all_rows_and_by_domain(data: Path, weighted: Path, tmp_path: Path) -> None:
    settings = ["training.max_steps=1", "training.learning_rate=1e-12", "training.eval_max_rows=40"]
    run(data, tmp_path / "mixed", *settings, *mixed(data, weighted))
    [report] = reports(tmp_path / "mixed", "eval")
    parts, scored = [], []
    for name, folder in (("phages", data), ("lambda", weighted)):
        run(folder, tmp_path / name, *settings)
        parts += losses(tmp_path / name, "eval")
        assert report[f"loss/{name}"] == pytest.approx(parts[-1], rel=1e-6)
        assert report[f"bits_per_base/{name}"] == pytest.approx(parts[-1] / math.log(2), rel=1e-6)
        batch = EvaluationBatches(open_rows(str(folder), "val"), CausalLM(), 40)[0]
        scored.append(batch.num_scored)
    assert report["loss"] == pytest.approx(sum(a * b for a, b in zip(parts, scored, strict=True)) / sum(scored), rel=1e-6)
    assert not [name for name in reports(tmp_path / "lambda", "eval")[0] if "/" in name], "a single dataset is the total"


def test_stop_request_saves_and_ends(data: Path, tmp_path: Path) -> None:
    run(data, tmp_path, "training.max_steps=1")
    (tmp_path / "checkpoints" / "latest").unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hyena_glt.training.worker.Worker.stop_requested", lambda worker: worker.run.joinpath(OWNER_FILE).exists())
        progress = run(data, tmp_path)
    assert (progress.step, progress.stopped_by) == (2, "interrupted")
    assert read_info(resolve_checkpoint(tmp_path / "checkpoints" / "latest")).progress.step == 2


def test_owner_file(tmp_path: Path) -> None:
    worker = Worker(0, 1, torch.device("cpu"), tmp_path, "mine")
    (tmp_path / OWNER_FILE).write_text("mine")
    assert not worker.stop_requested()
    (tmp_path / OWNER_FILE).write_text(f"mine {STOP}")
    assert worker.stop_requested()
    (tmp_path / OWNER_FILE).write_text("theirs")
    with pytest.raises(ClusterError, match="was taken over by a later start of this run"):
        worker.stop_requested()


def test_a_start_that_was_taken_over_reports_nothing_more(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even what it has just measured: a later start has gone on from the checkpoint before."""
    original = loop.evaluate

    def take_over(of: loop.Run) -> object:
        (tmp_path / OWNER_FILE).write_text("theirs")
        return original(of)

    monkeypatch.setattr(loop, "evaluate", take_over)
    with pytest.raises(ClusterError, match=f"^{tmp_path} was taken over by a later start of this run$"):
        run(data, tmp_path)
    assert [report["kind"] for report in read_reports(tmp_path / METRICS_FILE)] == ["start", "train", "train", "train"]


def test_early_stopping_and_best_model(data: Path, tmp_path: Path) -> None:
    """With a rate so high that the loss only rises, the first evaluation stays the best."""
    progress = run(data, tmp_path, "training.learning_rate=0.5", "training.max_steps=40", "training.early_stopping_patience=2",
                   "logging.eval_interval=2", "logging.save_interval=100", "training.max_grad_norm=null")
    assert progress.stopped_by == "early_stopping"
    assert progress.evaluations_without_gain == 2
    assert progress.step == progress.best_step + 4
    best = resolve_checkpoint(tmp_path)
    assert read_info(best).progress.step == progress.best_step
    assert {p.name for p in (tmp_path / "checkpoints").glob("step_*")} == {f"step_{s:08d}" for s in (progress.best_step, progress.step)}


def test_epoch_pointers(data: Path, tmp_path: Path) -> None:
    rows = 720
    progress = run(data, tmp_path, "training.num_epochs=2", "training.max_steps=null", f"training.batch_size={rows // 2}",
                   "logging.save_epochs=1", "logging.eval_interval=100", "logging.save_interval=100")
    for epoch in (1, 2):
        step = read_info(resolve_checkpoint(tmp_path / "checkpoints" / f"epoch_{epoch}")).progress.step
        per_epoch = next(r["step"] / r["epoch"] for r in read_reports(tmp_path / METRICS_FILE) if r["kind"] == "train")
        assert step == math.ceil(epoch * per_epoch - 1e-9)
    assert progress.stopped_by == "finished"


def test_warm_start_takes_weights_only(data: Path, tmp_path: Path) -> None:
    run(data, tmp_path / "first")
    run(data, tmp_path / "second", f"training.init_from={tmp_path / 'first'}", "training.max_steps=1", "training.learning_rate=1e-9")
    first, second = (load_model(tmp_path / name / "checkpoints" / "latest").model.state_dict() for name in ("first", "second"))
    best = load_model(tmp_path / "first").model.state_dict()
    assert read_info(resolve_checkpoint(tmp_path / "second" / "checkpoints" / "latest")).progress.step == 1
    for name in first:
        torch.testing.assert_close(second[name], best[name], atol=1e-6, rtol=0)


def test_a_loss_that_is_not_finite_ends_the_run(data: Path, tmp_path: Path) -> None:
    settings = ["training.learning_rate=1e30", "training.max_grad_norm=null", "training.max_steps=20", "hardware.zero_stage=0"]
    with pytest.raises(ClusterError, match=r"the training loss is nan at step \d+; nothing of it was saved. Lower training.learning_rate"):
        run(data, tmp_path, *settings)


def test_weights_that_are_not_finite_are_not_saved(data: Path, tmp_path: Path) -> None:
    settings = ["training.learning_rate=1e30", "training.max_grad_norm=null", "training.max_steps=1", "hardware.zero_stage=0"]
    with pytest.raises(ClusterError, match="the (weights|validation loss)"):
        run(data, tmp_path, *settings, "training.weight_decay=1e30")
    assert not list((tmp_path / "checkpoints").glob("step_*"))


def test_a_hostile_checkpoint_runs_nothing(data: Path, tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "was_here",)

    run(data, tmp_path / "run", "training.max_steps=3")
    folder = resolve_checkpoint(tmp_path / "run")
    shard = next((folder / OPTIMIZER_FOLDER).rglob("*optim_states.pt"))
    listed = json.loads((folder / COMMIT_FILE).read_text())
    torch.save({"optimizer_state_dict": Hostile()}, shard)
    listed["files"][str(shard.relative_to(folder))] = {"bytes": shard.stat().st_size, "crc32": crc32(shard.read_bytes())}
    (folder / COMMIT_FILE).write_text(json.dumps(listed))
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        run(data, tmp_path / "run")
    assert not (tmp_path / "was_here").exists()


def test_a_run_whose_checkpoints_are_all_damaged_does_not_begin_again(data: Path, tmp_path: Path) -> None:
    run(data, tmp_path, "logging.save_interval=2", "training.max_steps=4")
    damaged = list((tmp_path / "checkpoints").glob(f"step_*/{WEIGHTS_FILE}"))
    for path in damaged:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    kept = {path: path.read_bytes() for path in damaged}
    with pytest.raises(CheckpointError, match="none of its checkpoints is whole, and training would begin again at step 0") as raised:
        run(data, tmp_path)
    assert len(damaged) == 2 and all(str(path) in str(raised.value) for path in damaged)
    assert kept == {path: path.read_bytes() for path in damaged}


def test_a_changed_bit_is_named_and_the_checkpoint_before_it_is_used(data: Path, tmp_path: Path) -> None:
    settings = ["training.min_learning_rate=1e-2", "logging.save_interval=2"]
    run(data, tmp_path / "unbroken", *settings)
    run(data, tmp_path / "damaged", *settings, "training.max_steps=4")
    shard = next((tmp_path / "damaged" / "checkpoints" / "step_00000004").rglob("*optim_states.pt"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    run(data, tmp_path / "damaged", *settings)
    reports = read_reports(tmp_path / "damaged" / METRICS_FILE)
    assert [report["message"] for report in reports if report["kind"] == "warning"] == [
        f"passed over a damaged checkpoint: {shard}: its content has changed since it was written"
    ]
    assert [report["step"] for report in reports if report["kind"] == "start"] == [0, 2]
    assert losses(tmp_path / "damaged")[-4:] == pytest.approx(losses(tmp_path / "unbroken")[-4:], abs=1e-6)


def test_each_save_is_reported_with_the_time_that_training_stood_still(data: Path, tmp_path: Path) -> None:
    run(data, tmp_path)
    reports = read_reports(tmp_path / METRICS_FILE)
    assert [report["step"] for report in reports if report["kind"] == "save"] == [3, 6]
    stalled = {report["step"]: report["save_stalled_s"] for report in reports if report["kind"] == "train"}
    assert [step for step, seconds in stalled.items() if seconds] == [4], "that of step 3; no line follows that of step 6"


def test_a_run_folder_that_a_node_does_not_see_is_not_a_new_run(data: Path, tmp_path: Path) -> None:
    run(data, tmp_path / "run")
    cfg = load_config(resolve_checkpoint(tmp_path / "run") / CONFIG_FILE)
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match=f"^{tmp_path}/run: not to be seen on the node .*; mount it on every node, and run the same"):
        loop.train(cfg, Worker(0, 1, torch.device("cpu"), tmp_path / "run", "test"))
    assert not (tmp_path / "run").exists()
