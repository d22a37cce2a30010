"""The long convolution of `li`: a sum of real exponentials, run exactly and in linear time as a chunked scan.

h_t = sum_s R_s exp(-a_s t). Inside a chunk of b tokens it is a Toeplitz product; what a chunk passes on to all later ones fits
into one number a pole, and those numbers follow a scan over chunks, done by the same idea once more on G chunks at a time.

Suffixes: C channels, S poles, B batch, L tokens, N chunks, b tokens a chunk, G chunks a group.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .toeplitz import toeplitz

GROUP = 16


def _powers(rates: Tensor, steps: int) -> Tensor:
    """exp(-rate * t) for t = 0 .. steps-1: [..., steps]."""
    return torch.exp(-rates.unsqueeze(-1) * torch.arange(steps, device=rates.device, dtype=rates.dtype))


def exponential_scan(x_CBN: Tensor, rates_C: Tensor) -> Tensor:
    """y_n = exp(-rate) y_(n-1) + x_n along the last axis: groups of `GROUP` by a product, then the same over the groups' ends."""
    C, B, N = x_CBN.shape
    G = min(N, GROUP)
    powers = _powers(rates_C, G + 1)
    T = toeplitz(powers[:, :G], None, b=G, before=0, after=0, dtype=x_CBN.dtype)
    M = -(-N // G)
    y = torch.bmm(F.pad(x_CBN, (0, M * G - N)).view(C, B * M, G), T)
    if M == 1:
        return y.view(C, B, N)
    ends = exponential_scan(y[..., -1].view(C, B, M), rates_C * G)
    entering = F.pad(ends, (1, -1)).reshape(C, B * M, 1)
    return torch.baddbmm(y, entering, powers[:, None, 1:]).view(C, B, M * G)[..., :N]


def _carried(x: Tensor, powers: Tensor, residues: Tensor, rates: Tensor, batch: int) -> tuple[Tensor, Tensor]:
    """What earlier chunks add to each chunk, as two factors [C, B * N, S] and [C, S, b]; x [C, B * N, b]."""
    C, blocks, b = x.shape
    S = rates.shape[1]
    left = torch.bmm(powers[..., :b].flip(-1).to(x.dtype), x.transpose(1, 2))
    left = left.to(rates.dtype).view(C * S, batch, blocks // batch)
    states = F.pad(exponential_scan(left, (rates * b).view(-1))[..., :-1], (1, 0))
    return states.reshape(C, S, blocks).transpose(1, 2).to(x.dtype), (residues.unsqueeze(-1) * powers[..., 1:]).to(x.dtype)


def chunk_size(device: torch.device) -> int:
    """Tokens a chunk, the fastest measured: longer chunks cost arithmetic, shorter ones states."""
    return 64 if device.type == "cpu" else 128


def modal_conv(
    x_CBL: Tensor, rates: Tensor, residues: Tensor, future_rates: Tensor | None = None, future_residues: Tensor | None = None,
    *, b: int | None = None,
) -> Tensor:
    """y[n] = sum_(t>=0) h_t x[n-t], and with a second filter + sum_(t>=1) g_t x[n+t]; h and g are sums of exponentials.

    x [C, B, L]; rates (> 0), residues [C, S], fp32 or better: states and poles keep their precision whatever x is. Returns [C, B, L].
    """
    C, B, L = x_CBL.shape
    b = b or chunk_size(x_CBL.device)
    N = -(-L // b)
    x = F.pad(x_CBL, (0, N * b - L)).view(C, B * N, b)
    powers = _powers(rates, b + 1)
    past = torch.bmm(residues.unsqueeze(1), powers[..., :b]).squeeze(1)
    future = None
    if future_rates is not None:
        future_powers = _powers(future_rates, b + 1)
        future = torch.bmm(future_residues.unsqueeze(1), future_powers[..., 1:b]).squeeze(1)
    y = torch.bmm(x, toeplitz(past, future, b=b, before=0, after=0, dtype=x.dtype))
    if N > 1:
        y = y + torch.bmm(*_carried(x, powers, residues, rates, B))
    if N > 1 and future_rates is not None:
        # The future filter is the same scan on the sequence read backwards; its lag 0 is left to the past filter.
        back = x.view(C, B, N * b).flip(-1).view(C, B * N, b)
        states, out = _carried(back, future_powers, future_residues, future_rates, B)
        states = states.reshape(C, B, N, -1).flip(2).reshape(C, B * N, -1)
        y = y + torch.bmm(states, out.flip(-1))
    return y.view(C, B, N * b)[..., :L]
