"""Muon for weights that nothing shards. Runs on the workers."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from deepspeed.runtime.zero.muon.muon_optimizer import MuonWithAuxAdam
from deepspeed.runtime.zero.muon.original_muon import muon_update
from torch import nn


class Muon(MuonWithAuxAdam):
    """DeepSpeed's Muon (Jordan et al., 2024), which orthogonalizes the matrices of one shape together instead of one by one.

    One by one each takes dozens of launches of small kernels, for which a host needs longer than a GPU for the arithmetic. The state is
    DeepSpeed's own: `momentum_buffer` of each matrix.
    """

    @torch.no_grad()
    def step(self, closure: None = None, step_id: int | None = None) -> None:
        """Move the weights; `closure` and `step_id` are there for the signature's sake."""
        for group in self.param_groups:
            if group["use_muon"]:
                for matrices in _by_shape(group["params"]):
                    self._move(matrices, group)
        if self.aux_optimizer is not None:
            self.aux_optimizer.step()

    def _move(self, matrices: list[nn.Parameter], group: dict[str, Any]) -> None:
        """One step of matrices of one shape."""
        buffers = [self._momentum(matrix) for matrix in matrices]
        momentum = torch.stack(buffers)
        updates = muon_update(torch.stack([m.grad for m in matrices]), momentum, beta=group["momentum"], is_expert_group=True)
        torch._foreach_copy_(buffers, list(momentum))
        torch._foreach_mul_(matrices, 1.0 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(matrices, list(updates), alpha=-group["lr"])

    def _momentum(self, matrix: nn.Parameter) -> torch.Tensor:
        state = self.state[matrix]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(matrix)
        return state["momentum_buffer"]


def _by_shape(matrices: list[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Those that have a gradient."""
    shapes: defaultdict[torch.Size, list[nn.Parameter]] = defaultdict(list)
    for matrix in matrices:
        if matrix.grad is not None:
            shapes[matrix.shape].append(matrix)
    return list(shapes.values())
