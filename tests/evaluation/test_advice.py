"""Each rule of the advice: a series of reports that provokes it, and ones that do not."""

from __future__ import annotations

import pytest

from hyena_glt.config import load_config
from hyena_glt.evaluation.advice import advise
from hyena_glt.training.plan import make_plan

STEPS = 120


def reports(*, losses=None, evals=(), start=None, end="finished", every=10, **columns):
    """A healthy run's reports, with the given figures in place of its own; a column is one value or a value a report."""
    losses = losses or [1.39 - 0.01 * n for n in range(12)]
    healthy = {"grad_norm": 0.4, "learning_rate": [6e-4 - 5e-5 * n for n in range(len(losses))], "loader_wait_share": 0.01}
    usual = {"kind": "start", "step": 0, "world_size": 1, "global_rows": 32, "accumulation_steps": 1, "padding_share": 0.0}
    found = [usual | (start or {})]
    for number, loss in enumerate(losses):
        values = {name: value[number] if isinstance(value, list) else value for name, value in (healthy | columns).items()}
        found.append({"kind": "train", "step": every * (number + 1), "loss": loss} | values)
    found += [{"kind": "eval", "step": step, "loss": loss} for step, loss in evals]
    return [*found, {"kind": "end", "step": every * len(losses), "reason": end}]


def settings(*given):
    return load_config(None, list({one.split("=")[0]: one for one in (f"training.max_steps={STEPS}", *given)}.values()))


def advice(found, *given):
    cfg = settings(*given)
    training = cfg.training
    rows = training.batch_size * training.gradient_accumulation_steps
    plan = make_plan(training, cfg.curriculum, world_size=1, num_rows=1000, width=64, global_rows=rows)
    return [f"{one.found}: {one.change}" for one in advise(found, cfg, plan)]


def only(found, *given):
    (one,) = advice(found, *given)
    return one


def test_a_healthy_run_gets_none():
    assert advice(reports(evals=[(60, 1.35), (120, 1.3)])) == []


def test_too_little_to_judge_by():
    assert advice(reports(losses=[1.3, 1.35], grad_norm=9.0, end="interrupted")) == []
    assert advise([], settings()) == []


def test_loss_that_does_not_fall():
    flat = [1.386, 1.385, 1.387] * 4
    assert only(reports(losses=flat), "training.warmup_steps=5") == (
        "The training loss does not fall: 1.3860 in the first third of the run, 1.3862 in the last: lower training.learning_rate "
        "(now 0.0006), raise training.warmup_steps (now 5), or lower training.max_grad_norm (now 1)"
    )
    stages = "training.stages=[{name: a, steps: 60, learning_rate: 1e-4}, {name: b, learning_rate: 5e-5, schedule: cosine}]"
    assert "lower learning_rate in training.stages (now 0.0001, 5e-05), raise warmup_steps in training.stages (now 0 in a)" in only(
        reports(losses=flat, learning_rate=1e-6), stages
    )


def test_clipping():
    assert only(reports(grad_norm=[2.0] * 8 + [0.5] * 4)) == (
        "The gradient is clipped most of the time: its norm is above 1 in 67 % of the reports, with a median of 2: raise "
        "training.max_grad_norm (now 1) where the loss falls smoothly, else lower training.learning_rate (now 0.0006)"
    )
    assert advice(reports(grad_norm=[2.0] * 5 + [0.5] * 7)) == []
    assert advice(reports(grad_norm=2.0), "training.max_grad_norm=null") == []


RISING = [(30, 1.36), (60, 1.34), (80, 1.355), (100, 1.36), (120, 1.38)]


def test_overfitting():
    found = only(reports(evals=RISING))
    assert found == (
        "The model overfits: the validation loss rose from 1.3400 at step 60 to 1.3800, while the training loss fell from 1.3650 to "
        "1.3050: raise model.dropout (now 0), training.weight_decay (now 0.1), data.reverse_complement (now 0), or stop earlier by "
        "training.early_stopping_patience (now none)"
    )
    assert "reverse_complement" not in only(reports(evals=RISING), "data.reverse_complement=0.5")
    assert "reverse_complement" not in only(reports(evals=RISING), "preprocessing.sequence_type=protein", "tokenization.kind=amino_acid")


@pytest.mark.parametrize("evals", [
    [(30, 1.36), (60, 1.34), (80, 1.341), (100, 1.342), (120, 1.343)], RISING[:4], [*RISING[:4], (120, 1.34)], RISING[:2], RISING[:1],
])
def test_no_overfitting(evals):
    assert advice(reports(evals=evals)) == []


def test_validation_that_rises_with_the_training_loss_is_no_overfitting():
    losses = [1.39, 1.38, 1.37, 1.35, 1.33, 1.3] + [1.36] * 6
    assert advice(reports(losses=losses, evals=RISING)) == []


def test_waiting_for_the_loader():
    found = reports(loader_wait_share=[0.1, 0.2] * 6)
    assert only(found) == "The steps wait for the loader in 15 % of the time: raise hardware.num_workers (now 0)"
    on_gpu = reports(loader_wait_share=0.15, gpu_memory_gb=60.0)
    assert "raise hardware.num_workers (now 2) and set hardware.pin_memory" in only(on_gpu, "hardware.num_workers=2")
    assert advice(reports(loader_wait_share=0.04)) == []


def test_padding():
    assert only(reports(start={"padding_share": 0.31}), "data.sequence_length=512").startswith(
        "31 % of the positions are padding: shorten data.sequence_length (now 512), or preprocess with a shorter preprocessing.max_length"
    )
    assert advice(reports(start={"padding_share": 0.2})) == []


def test_bad_steps():
    events = [
        {"kind": "warning", "step": 40, "message": "", "event": "rolled_back", "back_to": 30},
        {"kind": "warning", "step": 70, "message": "", "event": "skipped"},
        {"kind": "warning", "step": 90, "message": "", "event": "skipped"},
    ]
    guarded = "training.spike_factor=2"
    assert only([*reports(), *events], guarded).startswith(
        "2 steps were left out and 1 roll-back for a loss that was not finite or a spike, the first at step 40: lower training.learning"
    )
    assert only([*reports(), events[1]], guarded).startswith("1 step was left out for")
    assert advice([*reports(), {"kind": "warning", "step": 40, "message": "a damaged checkpoint"}]) == []


def test_spikes_without_a_guard():
    losses = [1.39, 1.38, 1.37, 1.36, 1.35, 1.34, 2.68, 1.33, 1.32, 1.31, 1.30, 1.29]
    found = only(reports(losses=losses))
    assert found == (
        "1 spike of the training loss, the highest at step 70: 2.6800 after 1.3600: set training.spike_factor (now none), to 1.5 for "
        "instance, and training.on_bad_step to skip or roll_back (now stop)"
    )
    assert advice(reports(losses=losses), "training.spike_factor=3") == []


def test_overflows_of_fp16():
    start = {"precision": "fp16"}
    assert only(reports(start=start, skipped_steps=list(range(12)))).startswith(
        "11 of 120 steps were lost to overflows of fp16 (9.2 %): set hardware.precision to bf16"
    )
    assert advice(reports(start=start, skipped_steps=2)) == []


def test_warm_up():
    assert only(reports(), "training.warmup_steps=30") == (
        "The warm-up takes 30 of the 120 steps of the run (25 %): lower training.warmup_steps (now 30), to 6 for instance, or train longer"
    )
    assert advice(reports(), "training.warmup_steps=12") == []
    stages = "training.stages=[{name: a, steps: 40, warmup_steps: 10}, {name: b, learning_rate: 1e-4, schedule: cosine}]"
    assert "The warm-up takes 10 of the 40 steps of stage a (25 %): lower warmup_steps of a in training.stages" in only(reports(), stages)


@pytest.mark.parametrize(
    "optimizer, rate, high", [("adamw", 2e-3, True), ("adamw", 6e-4, False), ("lion", 2e-4, True), ("lion", 5e-5, False)]
)
def test_a_high_rate_without_warm_up(optimizer, rate, high):
    given = [f"training.optimizer={optimizer}", f"training.learning_rate={rate}"]
    found = advice(reports(learning_rate=1e-6), *given)
    assert [f"The run starts at once with a rate of {rate:g}: set training.warmup_steps (now 0), to 2 for instance" in one
            for one in found] == [True] * high
    assert advice(reports(learning_rate=1e-6), *given, "training.warmup_steps=5") == []


def test_a_rate_that_is_still_high_at_the_end():
    constant = "training.schedule=constant"
    assert only(reports(learning_rate=6e-4), constant) == (
        "The rate was still 0.0006 at the end of the run, 100 % of its peak: let it come down: set training.schedule (now constant) to "
        "cosine or wsd"
    )
    assert advice(reports(learning_rate=6e-4, end="interrupted"), constant) == []
    assert only(reports(learning_rate=4e-4, end="early_stopping"), "training.max_steps=400", "training.early_stopping_patience=3") == (
        "The rate was still 0.0004 at the end of the run, 67 % of its peak, because it stopped early, at step 120 of 400: plan a shorter "
        "run, in which the rate comes down: training.max_steps near 120 (now 400)"
    )
    stages = "training.stages=[{name: a, steps: 60}, {name: b, learning_rate: 1e-4}]"
    assert advice(reports(learning_rate=1e-4), stages) == [], "a last stage with a lower rate is a descent"


def test_a_batch_that_did_not_fit():
    found = reports(start={"accumulation_steps": 4})
    assert only(found) == (
        "A batch of 32 rows did not fit into a worker's memory; the run went on with 8: set training.batch_size=8 "
        "training.gradient_accumulation_steps=4 (now 32 and 1), the same global batch, or hardware.gradient_checkpointing"
    )
    assert advice(found, "training.batch_size=8", "training.gradient_accumulation_steps=4") == []


def test_unused_memory():
    found = reports(gpu_memory_gb=16.0, start={"device_memory_gb": 80.0, "accumulation_steps": 8})
    micro = ["training.batch_size=4", "training.gradient_accumulation_steps=8"]
    assert only(found, *micro) == (
        "At most 16.0 of 80 GB of GPU memory were used (20 %): make the same global batch of fewer micro-steps: training.batch_size=16 "
        "training.gradient_accumulation_steps=2 (now 4 and 8)"
    )
    whole = reports(gpu_memory_gb=16.0, start={"device_memory_gb": 80.0})
    assert only(whole, "hardware.gradient_checkpointing=true").endswith(
        "turn off hardware.gradient_checkpointing, which trades time for memory"
    )
    assert advice(whole) == [], "with one micro-step a larger batch is another global batch"
    assert advice(reports(gpu_memory_gb=60.0, start={"device_memory_gb": 80.0, "accumulation_steps": 8}), *micro) == []


def test_an_idle_gpu():
    assert only(reports(gpu_utilization=35.0)) == (
        "The GPU is busy only 35 % of the time, in the median of the reports: set hardware.compile_model, or give it more work a step by a "
        "larger training.batch_size (now 32)"
    )
    assert advice(reports(gpu_utilization=[35.0] * 5 + [95.0] * 7)) == []
