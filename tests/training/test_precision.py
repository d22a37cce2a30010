"""Which number format runs where, what is refused, and the loss scale of fp16."""

from __future__ import annotations

import pytest
import torch

from hyena_glt.config.tree import HardwareConfig
from hyena_glt.errors import ConfigError
from hyena_glt.training.checkpoint import Progress
from hyena_glt.training.precision import autocast, choose_precision, initial_loss_scale, next_loss_scale


@pytest.fixture(params=[True, False], ids=["bf16 GPU", "older GPU"])
def has_bf16(request, monkeypatch) -> bool:
    """What the GPU answers; the choice is ours."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: request.param and not including_emulation)
    return request.param


@pytest.mark.parametrize(
    "settings, on_cpu, on_gpu",
    [
        ({}, "fp32", "best"),
        ({"mixed_precision": True}, "fp32", "best"),
        ({"mixed_precision": False}, "fp32", "fp32"),
        ({"precision": "fp32"}, "fp32", "fp32"),
        ({"precision": "fp32", "mixed_precision": False}, "fp32", "fp32"),
        ({"precision": "bf16"}, "bf16", "bf16"),
        ({"precision": "bf16", "mixed_precision": True}, "bf16", "bf16"),
        ({"precision": "fp16"}, None, "fp16"),
    ],
)
def test_the_table(has_bf16, settings, on_cpu, on_gpu):
    cfg = HardwareConfig(**settings)
    assert choose_precision(cfg, "cuda") == ({True: "bf16", False: "fp16"}[has_bf16] if on_gpu == "best" else on_gpu)
    if on_cpu:
        assert choose_precision(cfg, "cpu") == on_cpu


def test_fp16_is_refused_on_a_cpu():
    with pytest.raises(ConfigError, match="^hardware.precision: fp16 needs a GPU; use fp32 or bf16 on a CPU$"):
        choose_precision(HardwareConfig(precision="fp16"), "cpu")


def test_fp16_is_refused_without_zero_also_where_it_was_not_asked_for(has_bf16):
    sentence = "^hardware.precision: fp16 needs its loss scaled, which zero_stage 0 does not do; use zero_stage 1 or more$"
    with pytest.raises(ConfigError, match=sentence):
        choose_precision(HardwareConfig(precision="fp16", zero_stage=0), "cuda")
    if has_bf16:
        assert choose_precision(HardwareConfig(zero_stage=0), "cuda") == "bf16"
    else:
        with pytest.raises(ConfigError, match=sentence):
            choose_precision(HardwareConfig(zero_stage=0), "cuda")


@pytest.mark.parametrize("precision, dtype", [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_matrix_products_run_in_the_chosen_format(precision, dtype):
    weight = torch.ones(2, 2)
    with autocast(precision, "cpu"):
        assert (weight @ weight).dtype == dtype
    assert (weight @ weight).dtype == weight.dtype == torch.float32


def test_only_fp16_starts_with_a_loss_scale():
    assert {name: initial_loss_scale(name) for name in ("bf16", "fp16", "fp32")} == {"bf16": 1.0, "fp16": 65536.0, "fp32": 1.0}


def after(progress: Progress, overflows: list[bool]) -> Progress:
    for overflowed in overflows:
        progress = next_loss_scale(progress, overflowed=overflowed)
    return progress


def test_the_loss_scale_doubles_after_a_thousand_good_steps_in_a_row():
    start = Progress(loss_scale=8.0, step=3)
    assert after(start, [False] * 999) == Progress(loss_scale=8.0, good_steps=999, step=3)
    assert after(start, [False] * 1000) == Progress(loss_scale=16.0, good_steps=0, step=3)
    assert after(start, [False] * 2000).loss_scale == 32.0
    assert after(start, [False] * 999 + [True] + [False] * 999) == Progress(loss_scale=4.0, good_steps=999, step=3)


def test_the_loss_scale_halves_after_an_overflow_but_never_below_one():
    start = Progress(loss_scale=8.0, good_steps=500)
    assert after(start, [True]) == Progress(loss_scale=4.0, good_steps=0)
    assert after(start, [True] * 10).loss_scale == 1.0
