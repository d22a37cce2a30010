"""Stages, curricula, optimizers and the guard in the real loop: what they do, and that a run can be resumed in the middle of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hyena_glt.config import load_config
from hyena_glt.data.batches import Batch
from hyena_glt.errors import ClusterError
from hyena_glt.training.checkpoint import resolve_checkpoint
from hyena_glt.training.engine import Engine
from hyena_glt.training.feed import Feed
from hyena_glt.training.metrics import METRICS_FILE, Report, read_reports
from hyena_glt.training.prepare import initial_model
from tests.tiny_run import write_lambda_data
from tests.training.in_process import losses, run

pytestmark = pytest.mark.usefixtures("process_group")

STAGES = (
    "training.stages=[{name: a, steps: 3, learning_rate: 1e-2, warmup_steps: 2, batch_ramp: [0.5, 1]}, "
    "{name: b, steps: 3, learning_rate: 5e-3, schedule: linear, dropout: 0.2, eval_interval: 1}]"
)
CURRICULA = [
    "curriculum.sequence_length={values: [16, 64], at: [4], by: step}", "tasks.masked_lm.weight=1",
    "curriculum.mask_probability={values: [0.4, 0.2], at: [128], by: tokens}",
    "curriculum.difficulty={values: [0.5, 1], at: [2], by: step}",
]


def reports(folder: Path, kind: str) -> list[Report]:
    return [report for report in read_reports(folder / METRICS_FILE) if report["kind"] == kind]


def weights(folder: Path) -> bytes:
    return (resolve_checkpoint(folder / "checkpoints" / "latest") / "model.safetensors").read_bytes()


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[Batch]:
    """What the feed gives the loop, looked at on its way."""
    seen: list[Batch] = []
    original: Callable[[Feed], list[Batch]] = Feed.next_step

    def watch(feed: Feed) -> list[Batch]:
        found = original(feed)
        seen.extend(found)
        return found

    monkeypatch.setattr(Feed, "next_step", watch)
    return seen


def test_stages_change_rate_batch_and_evaluations(data: Path, tmp_path: Path, batches: list[Batch]) -> None:
    run(data, tmp_path, STAGES, "training.max_steps=null")
    rates = [report["learning_rate"] for report in reports(tmp_path, "train")]
    assert rates == pytest.approx([5e-3, 1e-2, 1e-2, 5e-3, 5e-3 - 4.5e-3 / 3, 5e-3 - 9e-3 / 3])
    assert [len(batch.inputs) for batch in batches] == [2, 2, 4, 4, 4, 4]
    assert [report["step"] for report in reports(tmp_path, "eval")] == [3, 4, 5, 6]


def test_a_stage_has_a_dropout_of_its_own(data: Path, tmp_path: Path) -> None:
    def trained(name: str, everywhere: float, first: str, second: str) -> list[float]:
        stages = f"training.stages=[{{name: a, steps: 3{first}}}, {{name: b, steps: 3{second}}}]"
        run(data, tmp_path / name, stages, "training.max_steps=null", f"model.dropout={everywhere}")
        return losses(tmp_path / name)

    with_dropout = trained("model", 0.2, "", "")
    assert trained("stages", 0.0, ", dropout: 0.2", ", dropout: 0.2") == with_dropout
    ended = trained("ended", 0.2, "", ", dropout: 0")
    assert ended[:3] == with_dropout[:3] and ended[3] != with_dropout[3]


def test_a_shorter_length_serves_the_same_tokens_in_the_same_order(data: Path, tmp_path: Path, batches: list[Batch]) -> None:
    run(data, tmp_path / "plain", "training.max_steps=4")
    plain = list(batches)
    batches.clear()
    run(data, tmp_path / "curriculum", "training.max_steps=4", "curriculum.sequence_length={values: [16, 32], at: [2], by: step}")
    assert [batch.inputs.shape[1] for batch in batches] == [16, 16, 32, 32]
    for whole, cut in zip(plain, batches, strict=True):
        assert torch.equal(whole.inputs.flatten(), cut.inputs.flatten()), "positions per step stay as they are"
        assert whole.domain_tokens == cut.domain_tokens


def crash(data: Path, folder: Path, *settings: str, after: int) -> None:
    """A run that ends without warning after so many steps, each of them saved."""
    original: Callable[[Feed], list[Batch]] = Feed.next_step

    def next_step(feed: Feed) -> list[Batch]:
        if feed.step == after:
            raise KeyboardInterrupt
        return original(feed)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Feed, "next_step", next_step)
        run(data, folder, *settings, "logging.save_interval=1")


def broken_and_unbroken(data: Path, folder: Path, *settings: str, broken_at: int) -> tuple[Path, Path]:
    """The same run twice: one crashed after so many steps and went on."""
    run(data, folder / "unbroken", *settings)
    crash(data, folder / "broken", *settings, after=broken_at)
    run(data, folder / "broken", *settings)
    return folder / "broken", folder / "unbroken"


@pytest.mark.parametrize("broken_at", [1, 2, 3, 5])
def test_resume_in_the_middle_of_everything_is_exact(data: Path, tmp_path: Path, broken_at: int) -> None:
    broken, unbroken = broken_and_unbroken(data, tmp_path, STAGES, *CURRICULA, "training.max_steps=null", broken_at=broken_at)
    assert losses(broken) == losses(unbroken)
    assert weights(broken) == weights(unbroken)


@pytest.mark.parametrize("broken_at", [1, 2, 3, 4, 5])
def test_resume_in_the_middle_of_batch_and_mixture_is_exact(
    data: Path, other_data: Path, tmp_path: Path, batches: list[Batch], broken_at: int
) -> None:
    domains = f"[{data}, {other_data}]"
    settings = [
        f"data.train_path={domains}", f"data.val_path={domains}",
        "curriculum.batch_size={values: [0.5, 1, 0.25], at: [2, 4], by: step}",
        "curriculum.mixture_weights={values: [[9, 1], [1, 9], [1, 1]], at: [3, 5], by: step}",
    ]
    broken, unbroken = broken_and_unbroken(data, tmp_path, *settings, broken_at=broken_at)
    assert [len(batch.inputs) for batch in batches[:6]] == [2, 2, 4, 4, 1, 1]
    drawn = [report["rows/lambda"] for report in reports(unbroken, "train")]
    assert drawn[2] / 8 < 0.3 and (drawn[4] - drawn[2]) / 5 > 0.5, "the weights of the mixture turned after step 3"
    assert [report["rows/lambda"] for report in reports(broken, "train")] == drawn
    assert losses(broken) == losses(unbroken)
    assert weights(broken) == weights(unbroken)


def test_learned_positions_wait_until_a_row_reaches_them(data: Path, tmp_path: Path) -> None:
    """Four steps at 16 tokens, then two at 64: the vectors behind the 16th are the initial ones until then, whatever moves the others."""
    curriculum = "curriculum.sequence_length={values: [16, 64], at: [4], by: step}"
    run(data, tmp_path, "model.position_encoding=learned", "training.weight_decay=0.1", "logging.save_interval=1", curriculum)
    at = [load_file(tmp_path / f"checkpoints/step_{step:08d}/model.safetensors")["backbone.positions.weight"] for step in (1, 4, 5)]
    cfg = load_config(tmp_path / "checkpoints/step_00000001/config.yaml")
    initial = initial_model(cfg, vocab_size=4, causal=True).backbone.positions.weight
    assert torch.equal(at[0][16:], initial[16:]) and torch.equal(at[1][16:], initial[16:])
    assert not torch.isclose(at[1][:15], initial[:15]).all(1).any() and not torch.isclose(at[2][16:63], initial[16:63]).all(1).any()


@pytest.fixture(scope="module")
def other_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phage lambda alone, a second domain."""
    return write_lambda_data(tmp_path_factory.mktemp("other") / "lambda", {"kind": "char"}, max_length=64)


def test_a_plateau_moves_a_curriculum_and_ends_a_stage(data: Path, tmp_path: Path, batches: list[Batch]) -> None:
    """At a rate of 0.3 the validation loss soon stops falling."""
    settings = [
        "logging.eval_interval=1", "logging.save_interval=1",
        "curriculum.sequence_length={values: [16, 64], at: [1], by: plateau}",
        "training.stages=[{name: wild, steps: 8, learning_rate: 0.3, early_stopping_patience: 2}, "
        "{name: calm, steps: 3, learning_rate: 1e-3}]",
    ]
    progress = run(data, tmp_path / "unbroken", *settings, "training.max_steps=null")
    evaluated = losses(tmp_path / "unbroken", "eval")
    first = next(step for step in range(1, 9) if evaluated[step] >= min(evaluated[:step])) + 1
    assert progress.moves["sequence_length"] == [first]
    assert [batch.inputs.shape[1] for batch in batches[: first + 1]] == [16] * first + [64]
    (ended,) = progress.moves["stage"]
    rates = [report["learning_rate"] for report in reports(tmp_path / "unbroken", "train")]
    assert rates == [0.3] * ended + [1e-3] * 3 and progress.step == ended + 3 < 11

    for step in (first, ended):
        folder = tmp_path / f"broken_{step}"
        crash(data, folder, *settings, "training.max_steps=null", after=step)
        run(data, folder, *settings, "training.max_steps=null")
        assert losses(folder) == pytest.approx(losses(tmp_path / "unbroken"), abs=1e-6)


def poison(monkeypatch: pytest.MonkeyPatch, bad: set[int], factor: float) -> None:
    """Multiply the loss of the given forward passes of the training, counted from 0, through the engine that computes it."""
    original, calls = Engine.loss, iter(range(10**6))

    def loss(engine: Engine, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        loss_sum, hits = original(engine, batch)
        return (loss_sum * factor if engine.model.training and next(calls) in bad else loss_sum), hits

    monkeypatch.setattr(Engine, "loss", loss)


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
@pytest.mark.parametrize("factor, micro_step", [(float("nan"), 4), (float("nan"), 5), (10.0, 5)], ids=["nan-first", "nan-last", "spike"])
def test_a_bad_step_is_skipped(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zero_stage: int, factor: float, micro_step: int
) -> None:
    settings = ["training.on_bad_step=skip", "training.spike_factor=3", f"hardware.zero_stage={zero_stage}",
                "training.gradient_accumulation_steps=2", "training.batch_size=2", "logging.save_interval=1"]
    poison(monkeypatch, {micro_step}, factor)  # one of step 3
    progress = run(data, tmp_path, *settings)
    assert progress.step == 6 and all(loss < 2.5 for loss in losses(tmp_path))
    (warning,) = reports(tmp_path, "warning")
    assert warning["step"] == 3 and "at step 3: the step was left out" in warning["message"]
    saved = [(tmp_path / "checkpoints" / f"step_{step:08d}" / "model.safetensors").read_bytes() for step in (1, 2, 3, 4)]
    assert saved[1] == saved[2] and len(set(saved)) == 3, "the weights stood still in step 3 alone"


def test_a_roll_back_leaves_out_the_rows_since_the_checkpoint(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batches: list[Batch]
) -> None:
    run(data, tmp_path / "plain", "training.max_steps=9")
    plain = [batch.inputs for batch in batches]
    batches.clear()
    poison(monkeypatch, {4}, float("nan"))
    progress = run(data, tmp_path / "run", "training.on_bad_step=roll_back")
    taken = [next(n for n, inputs in enumerate(plain) if torch.equal(inputs, batch.inputs)) for batch in batches]
    assert taken == [0, 1, 2, 3, 4, 5, 6, 7], "steps 4 and 5 are gone, with their rows"
    assert progress.step == 6 and progress.skips == [[3, 8]] and progress.bad_steps == 0
    (warning,) = reports(tmp_path / "run", "warning")
    assert "at step 5: back to step 3, leaving out the 8 rows since" in warning["message"]
    assert (warning["event"], warning["step"], warning["back_to"]) == ("rolled_back", 5, 3)


def test_roll_backs_to_one_checkpoint_add_up(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batches: list[Batch]
) -> None:
    run(data, tmp_path / "plain", "training.max_steps=12")
    plain = [batch.inputs for batch in batches]
    batches.clear()
    poison(monkeypatch, {4, 6}, float("nan"))
    progress = run(data, tmp_path / "run", "training.on_bad_step=roll_back")
    taken = [next(n for n, inputs in enumerate(plain) if torch.equal(inputs, batch.inputs)) for batch in batches]
    assert taken == list(range(10)), "no batch comes twice"
    assert progress.skips == [[3, 8], [3, 8]] and progress.step == 6


@pytest.mark.parametrize("choice", ["skip", "roll_back", "stop"])
def test_a_run_that_stays_bad_stops(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, choice: str) -> None:
    poison(monkeypatch, set(range(3, 100)), float("nan"))
    with pytest.raises(ClusterError, match=r"the training loss is nan at step \d.*; nothing of it was saved. Lower training.learning_rate"):
        run(data, tmp_path, f"training.on_bad_step={choice}", "training.max_steps=20", "training.spike_factor=3")
    assert resolve_checkpoint(tmp_path / "checkpoints" / "latest").name == ("step_00000006" if choice == "skip" else "step_00000003")


@pytest.mark.parametrize("zero_stage", [0, 1, 3])
def test_statistics_by_block(data: Path, tmp_path: Path, zero_stage: int) -> None:
    run(data, tmp_path, "logging.statistics_interval=2", f"hardware.zero_stage={zero_stage}", "training.max_grad_norm=null")
    run(data, tmp_path / "without")
    found = reports(tmp_path, "statistics")
    assert [report["step"] for report in found] == [2, 4, 6]
    parts = {"block_0", "block_1", "embedding", "norm"}
    assert {name.partition("/")[2] for name in found[0] if name.startswith("grad_norm/")} == parts
    assert {name for name in found[0] if name.startswith("activation_")} == {
        f"activation_{what}/block_{n}" for what in ("rms", "max") for n in (0, 1)
    }
    squares = sum(value**2 for name, value in found[0].items() if name.startswith("grad_norm/"))
    assert squares**0.5 == pytest.approx(reports(tmp_path, "train")[1]["grad_norm"], rel=1e-4)
    assert squares > 0 and all(value > 0 for value in found[0].values() if isinstance(value, float))
    assert losses(tmp_path)[:2] == pytest.approx(losses(tmp_path / "without")[:2], rel=1e-5), "looking changes nothing"


@pytest.mark.parametrize("optimizer, rate", [("lion", 1e-3), ("muon", 1e-2)])
@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_optimizers_learn_alike_at_every_stage_and_resume(data: Path, tmp_path: Path, optimizer: str, rate: float, zero_stage: int) -> None:
    settings = [f"training.optimizer={optimizer}", f"training.learning_rate={rate}", "training.min_learning_rate=1e-4",
                "training.gradient_accumulation_steps=2", "training.batch_size=2", "model.hidden_size=32",
                "training.max_grad_norm=null"]  # muon is not clipped under ZeRO
    run(data, tmp_path / "plain", *settings, "hardware.zero_stage=0")
    run(data, tmp_path / "zero", *settings, f"hardware.zero_stage={zero_stage}")
    assert losses(tmp_path / "zero") == pytest.approx(losses(tmp_path / "plain"), rel=2e-3 if optimizer == "muon" else 1e-5)
    assert losses(tmp_path / "zero")[-1] < losses(tmp_path / "zero")[0]
    run(data, tmp_path / "broken", *settings, f"hardware.zero_stage={zero_stage}", "training.max_steps=3", "training.schedule=constant")
    run(data, tmp_path / "broken", *settings, f"hardware.zero_stage={zero_stage}", "training.schedule=constant")
    run(data, tmp_path / "unbroken", *settings, f"hardware.zero_stage={zero_stage}", "training.schedule=constant")
    assert losses(tmp_path / "broken") == pytest.approx(losses(tmp_path / "unbroken"), abs=1e-6)


@pytest.fixture
def nan_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first weight's gradient is NaN in the third step; the loss is not."""
    original, calls = Engine.backward, iter(range(1_000))

    def backward(engine: Engine, loss: torch.Tensor, *, last: bool) -> None:
        weight = next(engine.model.parameters())
        handle = weight.register_hook(lambda gradient: gradient * float("nan")) if next(calls) == 2 else None
        original(engine, loss, last=last)
        if handle:
            handle.remove()

    monkeypatch.setattr(Engine, "backward", backward)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_gradient_that_is_not_finite_is_no_silent_matter(data: Path, tmp_path: Path, nan_gradient: None, stage: int) -> None:
    with pytest.raises(ClusterError, match=r"^the gradient is not finite at step 3; nothing of it was saved\. Lower training"):
        run(data, tmp_path, f"hardware.zero_stage={stage}")


@pytest.mark.parametrize("save_interval", [3, 6])
def test_at_zero_0_the_next_loss_or_save_says_it(data: Path, tmp_path: Path, nan_gradient: None, save_interval: int) -> None:
    found = r"^the (training loss is nan at step 4|weights are no longer finite); nothing of it was saved\. Lower training"
    with pytest.raises(ClusterError, match=found):
        run(data, tmp_path, "hardware.zero_stage=0", f"logging.save_interval={save_interval}", "logging.eval_interval=6")
    assert not (tmp_path / "checkpoints" / "latest").exists()


@pytest.mark.parametrize("stage", range(4))
def test_a_gradient_that_is_not_finite_can_be_skipped(data: Path, tmp_path: Path, nan_gradient: None, stage: int) -> None:
    run(data, tmp_path, "training.on_bad_step=skip", f"hardware.zero_stage={stage}")
    (warning,) = reports(tmp_path, "warning")
    assert warning["message"] == "the gradient is not finite at step 3: the step was left out"
    assert reports(tmp_path, "end")[0]["step"] == 6
