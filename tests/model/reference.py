"""Plain float64 references: every sum of the definition written out as a matrix of taps, nothing clever."""

from __future__ import annotations

import torch
from torch import Tensor


def direct_conv(x_CBL: Tensor, past: Tensor, future: Tensor | None) -> Tensor:
    """y[n] = sum_k past[k] x[n-k] + sum_f future[f] x[n+1+f], by the matrix M[m, n] that holds the tap from input m to output n."""
    L = x_CBL.shape[2]
    lag = torch.arange(L)[None, :] - torch.arange(L)[:, None]
    M = torch.where((lag >= 0) & (lag < past.shape[1]), past[:, lag.clamp(0, past.shape[1] - 1)], 0.0)
    if future is not None and future.shape[1]:
        lead = -lag - 1
        M = M + torch.where((lead >= 0) & (lead < future.shape[1]), future[:, lead.clamp(0, future.shape[1] - 1)], 0.0)
    return torch.einsum("cbm,cmn->cbn", x_CBL, M)


def exponentials(rates: Tensor, residues: Tensor, length: int) -> Tensor:
    """h_t = sum_s R_s exp(-a_s t): [C, length]."""
    t = torch.arange(length, dtype=rates.dtype)
    return (residues[..., None] * torch.exp(-rates[..., None] * t)).sum(1)
