"""AdamW's parameter groups and the learning rate as a function of the step."""

from __future__ import annotations

import math

import torch
from torch import nn


def learning_rate(step: int, *, peak: float, floor: float, warmup_steps: int, total_steps: int) -> float:
    """Rate for the optimizer step after `step` done ones: linear warm-up to `peak`, then cosine down to `floor`.

    A pure function, so that a resumed run needs no scheduler state. With S = warmup_steps, T = total_steps:
    peak * (step + 1) / S below S, then floor + (peak - floor) * (1 + cos(pi * (step - S) / (T - S))) / 2.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return floor + (peak - floor) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Two groups: matrices decay; norms, biases, embeddings and filters do not."""
    decayed = [p for p in model.parameters() if p.requires_grad and not getattr(p, "_no_weight_decay", False)]
    others = [p for p in model.parameters() if p.requires_grad and getattr(p, "_no_weight_decay", False)]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def adamw(model: nn.Module, *, rate: float, weight_decay: float, betas: tuple[float, float], epsilon: float) -> torch.optim.AdamW:
    """Decoupled weight decay (Loshchilov & Hutter, 2019); torch's fused kernel, so that no node needs a compiler."""
    return torch.optim.AdamW(parameter_groups(model, weight_decay), lr=rate, betas=betas, eps=epsilon, fused=True)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group the same rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate
