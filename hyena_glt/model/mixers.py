"""The Hyena recurrence around a long convolution: project, featurize, gate, convolve, gate, project.

Suffixes: D width, B batch, L tokens. Between the two projections channels stand first, [D, B, L].
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .filters import ShortConv


class ToChannels(nn.Linear):
    """A linear layer [B, L, D] -> [out, B, L]: the product comes out with channels first, so nothing is transposed in memory."""

    def forward(self, x: Tensor) -> Tensor:
        B, L, D = x.shape
        y = torch.mm(self.weight, x.reshape(B * L, D).t()).view(-1, B, L)
        # torch.addmm would first copy the bias to every token: this sum is fused with what follows.
        return y + self.bias.to(y.dtype)[:, None, None]


class FromChannels(nn.Linear):
    """A linear layer [D, B, L] -> [B, L, out]."""

    def forward(self, x: Tensor) -> Tensor:
        D, B, L = x.shape
        return F.linear(x.reshape(D, B * L).t(), self.weight, self.bias).view(B, L, -1)


class HyenaMixer(nn.Module):
    """Order-N Hyena: N + 1 projections x0 .. x_(N-1), v; v <- conv(v * x_i) for i = N-1 .. 1; then v * x0.

    `conv(z, step)` is the long convolution of one step, [D, B, L] -> [D, B, L].
    """

    def __init__(self, width: int, conv: nn.Module, *, order: int = 2, featurizer_taps: int = 3, causal: bool) -> None:
        super().__init__()
        self.width, self.order = width, order
        self.in_proj = ToChannels(width, (order + 1) * width)
        self.featurizer = ShortConv((order + 1) * width, taps=featurizer_taps, causal=causal)
        self.conv = conv
        self.out_proj = FromChannels(width, width)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        """x [B, L, D], padding [B, L] (true = pad) -> [B, L, D]; no output depends on a padded position."""
        features = self.in_proj(x)
        if padding is not None:
            features = features.masked_fill(padding, 0)
        return self.out_proj(self.recur(self.featurizer(features), self.conv, padding))

    def recur(self, features: Tensor, conv: Callable[[Tensor, int], Tensor], padding: Tensor | None = None) -> Tensor:
        """The recurrence: featurized projections [(order + 1) * D, B, L] -> [D, B, L], each step by `conv`."""
        *gates, v = features.split(self.width)
        # Filters keep fp32; what the convolution reads already has the autocast precision.
        with torch.autocast(features.device.type, enabled=False):
            for step, gate in enumerate(reversed(gates[1:])):
                v = v * gate
                if padding is not None:
                    v = v.masked_fill(padding, 0)
                v = conv(v, step)
            return v * gates[0]
