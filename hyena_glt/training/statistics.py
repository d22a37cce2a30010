"""Norms of gradients, weights and activations, block by block, to find where a training goes wrong. Runs on the workers."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .engine import Engine
from .metrics import Report

_BLOCK = re.compile(r"blocks\.(\d+)\.")


def part_of(name: str) -> str:
    """`block_3` for what lies in block 3, else the name of the module that holds the parameter."""
    found = _BLOCK.search(name)
    return f"block_{found[1]}" if found else name.split(".")[-2]


class Activations:
    """Root mean square and largest magnitude of what each block gives on, [B, L, D]."""

    def __init__(self) -> None:
        self.report: dict[str, Tensor] = {}

    def observe(self, block: int, x: Tensor) -> None:
        """Take in one block's output."""
        x = x.detach().float()
        self.report[f"activation_rms/block_{block}"] = x.square().mean().sqrt()
        self.report[f"activation_max/block_{block}"] = x.abs().max()


@contextmanager
def observed(model: nn.Module, wanted: bool) -> Iterator[Activations]:
    """Look at the blocks' outputs inside the block, where that is wanted."""
    activations = Activations()
    model.backbone.observer = activations.observe if wanted else None
    try:
        yield activations
    finally:
        model.backbone.observer = None


def statistics(engine: Engine, activations: Activations) -> Report:
    """L2 norms by part of the model, between the last backward and the step. Every rank must call it."""
    gradients: dict[str, Tensor] = defaultdict(lambda: torch.zeros(()))
    weights: dict[str, Tensor] = defaultdict(lambda: torch.zeros(()))
    for name, parameter in engine.model.named_parameters():
        gradient, weight, part = engine.gradient(parameter), engine.weight(parameter), part_of(name)
        gradients[part] = gradients[part] + (0.0 if gradient is None else gradient.float().square().sum().cpu())
        weights[part] = weights[part] + weight.float().square().sum().cpu()
    norms = {f"grad_norm/{part}": float(total.sqrt()) for part, total in gradients.items()}
    norms |= {f"weight_norm/{part}": float(total.sqrt()) for part, total in weights.items()}
    return norms | {name: float(value) for name, value in activations.report.items()}
