"""The residual block: norm, mixer, norm, MLP; the residual stream stays in fp32 or better."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Norm(nn.LayerNorm):
    """LayerNorm of an fp32 stream with weights of any precision; the result has the weights' precision."""

    def forward(self, x: Tensor) -> Tensor:
        y = F.layer_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)
        return y.to(self.weight.dtype)


def set_dropout(model: nn.Module, probability: float) -> None:
    """Dropout of all of a model's layers from now on."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = probability


class MLP(nn.Module):
    """Two linear layers around a GELU (tanh form)."""

    def __init__(self, width: int, intermediate: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, intermediate)
        self.fc2 = nn.Linear(intermediate, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class Block(nn.Module):
    """x + mixer(norm(x)), then x + MLP(norm(x)), with dropout on both branches."""

    def __init__(self, width: int, mixer: nn.Module, *, intermediate: int, dropout: float, eps: float) -> None:
        super().__init__()
        self.norm1, self.mixer = Norm(width, eps=eps), mixer
        self.norm2, self.mlp = Norm(width, eps=eps), MLP(width, intermediate)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        """x [B, L, D], padding [B, L] (true = pad) -> [B, L, D]."""
        x = x + self.dropout(self.mixer(self.norm1(x), padding))
        return x + self.dropout(self.mlp(self.norm2(x)))
