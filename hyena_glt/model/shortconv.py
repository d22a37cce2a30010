"""The featurizer: a depthwise convolution over a few tokens right after the input projection.

Suffixes: C channels, B batch, L tokens, K taps.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


class _DepthwiseCPU(torch.autograd.Function):
    """oneDNN's depthwise convolution for both directions; its own gradient of the taps is several times slower than these products."""

    @staticmethod
    def forward(ctx, x_CBL: Tensor, taps_CK: Tensor, lead: int) -> Tensor:
        ctx.save_for_backward(x_CBL, taps_CK)
        ctx.lead = lead
        return _correlate(x_CBL, taps_CK, lead)

    @staticmethod
    def backward(ctx, grad_CBL: Tensor) -> tuple[Tensor, Tensor, None]:
        x_CBL, taps_CK = ctx.saved_tensors
        K, lead = taps_CK.shape[1], ctx.lead
        grad_CBL = grad_CBL.contiguous()
        dx = _correlate(grad_CBL, taps_CK.flip(1), K - 1 - lead)
        dtaps = [_shifted_product(x_CBL, grad_CBL, k - lead) for k in range(K)]
        return dx, torch.stack(dtaps, 1), None


def _correlate(x_CBL: Tensor, taps_CK: Tensor, lead: int) -> Tensor:
    """y[n] = sum_k taps[k] x[n + k - lead]."""
    C, K = taps_CK.shape
    pad = max(lead, K - 1 - lead)
    y = F.conv2d(x_CBL.unsqueeze(0), taps_CK.view(C, 1, 1, K), padding=(0, pad), groups=C)[0]
    return y[..., pad - lead : pad - lead + x_CBL.shape[-1]]


def _shifted_product(x_CBL: Tensor, grad_CBL: Tensor, shift: int) -> Tensor:
    """sum over batch and n of x[n + shift] grad[n], a number a channel."""
    L = x_CBL.shape[-1]
    if abs(shift) >= L:
        return x_CBL.new_zeros(x_CBL.shape[0])
    x, grad = x_CBL[..., max(shift, 0) : L + min(shift, 0)], grad_CBL[..., max(-shift, 0) : L - max(shift, 0)]
    return (x * grad).sum((1, 2))


def short_conv(x_CBL: Tensor, taps_CK: Tensor, bias_C: Tensor, *, causal: bool) -> Tensor:
    """y[n] = bias + sum_k taps[k] x[n + k - lead]; lead is K - 1 (causal) or K // 2 (centred). x, y [C, B, L]; taps [C, K]."""
    K, L = taps_CK.shape[1], x_CBL.shape[-1]
    lead = K - 1 if causal else K // 2
    if x_CBL.device.type == "cpu":
        return _DepthwiseCPU.apply(x_CBL, taps_CK, lead) + bias_C[:, None, None]
    padded = F.pad(x_CBL, (lead, K - 1 - lead))
    y = bias_C[:, None, None]
    for k in range(K):
        y = y + taps_CK[:, k, None, None] * padded[..., k : k + L]
    return y
