"""Precision: which number format a device computes in, and the loss scale that fp16 needs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal

import torch

from ..config.tree import HardwareConfig
from ..errors import ConfigError
from .checkpoint import Progress

Precision = Literal["bf16", "fp16", "fp32"]

INITIAL_LOSS_SCALE = 2.0**16
GROWTH_INTERVAL_STEPS = 1000


def choose_precision(cfg: HardwareConfig, device_type: str) -> Precision:
    """The format for `device_type`. Raises ConfigError for fp16 where it cannot work."""
    wanted = cfg.precision
    if wanted == "auto" and cfg.mixed_precision is False:
        wanted = "fp32"
    if wanted == "auto" and device_type == "cpu":
        wanted = "fp32"
    if wanted == "auto":
        wanted = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if wanted == "fp16" and device_type == "cpu":
        raise ConfigError("hardware.precision: fp16 needs a GPU; use fp32 or bf16 on a CPU")
    if wanted == "fp16" and cfg.zero_stage == 0:
        raise ConfigError("hardware.precision: fp16 needs its loss scaled, which zero_stage 0 does not do; use zero_stage 1 or more")
    return wanted


@contextmanager
def autocast(precision: Precision, device_type: str) -> Iterator[None]:
    """Matrix products in `precision`; weights, optimizer state, filters and norms stay float32.

    Entered inside the module's forward, because DeepSpeed's engine turns an outer autocast off.
    """
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]
    with torch.autocast(device_type, dtype=dtype, enabled=precision != "fp32"):
        yield


def initial_loss_scale(precision: Precision) -> float:
    """fp16 gradients underflow without one."""
    return INITIAL_LOSS_SCALE if precision == "fp16" else 1.0


def next_loss_scale(progress: Progress, *, overflowed: bool) -> Progress:
    """Halve after an overflow (the step was skipped); double after 1,000 good steps (Micikevicius et al., 2018)."""
    if overflowed:
        return replace(progress, loss_scale=max(1.0, progress.loss_scale / 2), good_steps=0)
    if progress.good_steps + 1 >= GROWTH_INTERVAL_STEPS:
        return replace(progress, loss_scale=progress.loss_scale * 2, good_steps=0)
    return replace(progress, good_steps=progress.good_steps + 1)
