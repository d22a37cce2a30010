"""Short and medium convolutions as block-Toeplitz products: dense products of blocks of tokens, exact, and autograd-ready.

Suffixes: C channels, B batch, L tokens, b tokens a block, W tokens a window (the blocks that one output block sees).

A sequence is cut into blocks of b tokens. The outputs of one block see the `before` blocks before it, itself, and the `after` blocks
behind it, so the convolution is one product of [tokens / b, b] with [b, b] for each of them: y_n = sum_j x_(n + j - before) H_j.
Blocks of zeros around each sequence keep neighbours in the batch apart, and let one product run over the whole batch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


class _Toeplitz(torch.autograd.Function):
    """Lay a vector over the diagonals of a matrix; the backward pass sums each diagonal in fp32 or better."""

    @staticmethod
    def forward(ctx, diagonals: Tensor, b: int, dtype: torch.dtype) -> Tensor:
        ctx.b, ctx.dtype = b, diagonals.dtype
        return diagonals.to(dtype).unfold(-1, b, 1).flip(1)

    @staticmethod
    def backward(ctx, grad_CWb: Tensor) -> tuple[Tensor, None, None]:
        b, (C, W, _) = ctx.b, grad_CWb.shape
        # Row c shifted right by c: the skew puts every diagonal into one column, so that a plain sum over rows finishes the job.
        rows = F.pad(grad_CWb.flip(1).transpose(1, 2), (0, b)).reshape(C, -1)[:, : b * (W + b - 1)]
        return rows.view(C, b, W + b - 1).sum(1, dtype=ctx.dtype), None, None


def toeplitz(past: Tensor, future: Tensor | None, *, b: int, before: int, after: int, dtype: torch.dtype) -> Tensor:
    """The matrix [C, W, b] that maps a window of W = (before + 1 + after) * b tokens to the outputs of its block `before`.

    past [C, K]: taps at lags 0 .. K-1 into the past. future [C, F]: taps at lags 1 .. F into the future. Taps that
    the window does not reach are left out.
    """
    most_past, most_future = (before + 1) * b - 1, (after + 1) * b - 1
    past = past[:, : most_past + 1]
    future = past.new_zeros(past.shape[0], 0) if future is None else future[:, :most_future]
    diagonals = torch.cat([future.flip(1), past], 1)
    diagonals = F.pad(diagonals, (most_future - future.shape[1], most_past + 1 - past.shape[1]))
    return _Toeplitz.apply(diagonals, b, dtype)


def _blocks(x_CBL: Tensor, b: int, lead: int, tail: int) -> Tensor:
    """Sequences between `lead` and `tail` blocks of zeros, end to end, with one more such gap at the end: [C, blocks, b]."""
    C, B, L = x_CBL.shape
    per_row = lead + -(-L // b) + tail
    blocks = x_CBL.new_zeros(C, B * per_row + lead + tail, b)
    blocks[:, : B * per_row].view(C, B, per_row * b)[..., lead * b : lead * b + L] = x_CBL
    return blocks


def _rows(blocks: Tensor, B: int, L: int, per_row: int) -> Tensor:
    """Undo `_blocks`: [C, B * per_row, b] -> [C, B, L], a view."""
    return blocks.view(blocks.shape[0], B, per_row * blocks.shape[2])[..., :L]


class _BlockConvolution(torch.autograd.Function):
    """y_n = sum_j x_(n + j - before) H_j over blocks; H [C, W, b] holds the H_j one below the other."""

    @staticmethod
    def forward(ctx, x_CBL: Tensor, H: Tensor, before: int, after: int) -> Tensor:
        (_, B, L), b = x_CBL.shape, H.shape[2]
        x = _blocks(x_CBL, b, before, after)
        count = x.shape[1] - before - after
        y = torch.bmm(x[:, :count], H[:, :b])
        for j in range(1, before + 1 + after):
            y = y + torch.bmm(x[:, j : j + count], H[:, j * b : (j + 1) * b])
        ctx.save_for_backward(x, H)
        ctx.reach, ctx.shape = (before, after), (B, L)
        return _rows(y, B, L, count // B)

    @staticmethod
    def backward(ctx, grad_CBL: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, H = ctx.saved_tensors
        (before, after), (B, L), b = ctx.reach, ctx.shape, H.shape[2]
        span = before + after
        grad = _blocks(grad_CBL, b, after, before)
        count = grad.shape[1] - span
        H_T = H.transpose(1, 2)
        dx = torch.bmm(grad[:, span : span + count], H_T[:, :, :b])
        for j in range(1, span + 1):
            dx = dx + torch.bmm(grad[:, span - j : span - j + count], H_T[:, :, j * b : (j + 1) * b])
        y_grad = grad[:, after : after + count]
        dH = torch.cat([torch.bmm(x[:, j : j + count].transpose(1, 2), y_grad) for j in range(span + 1)], 1)
        return _rows(dx, B, L, count // B), dH, None, None


def block_size(num_taps: int, device: torch.device) -> int:
    """Tokens a block, the fastest measured: small blocks waste the least arithmetic, tensor cores want them large."""
    if device.type == "cpu":
        return 16 if num_taps <= 17 else 32
    return 32 if num_taps <= 33 else 128


def toeplitz_conv(x_CBL: Tensor, past: Tensor, future: Tensor | None = None, *, b: int | None = None) -> Tensor:
    """y[n] = sum_k past[k] x[n-k] + sum_f future[f] x[n+1+f] for each channel; exact for any number of taps and any L.

    x [C, B, L]; past [C, K] at lags 0 .. K-1; future [C, F] at lags 1 .. F (lag 0 belongs to `past` alone); returns [C, B, L].
    """
    L, num_past, num_future = x_CBL.shape[2], past.shape[1], 0 if future is None else future.shape[1]
    b = b or block_size(num_past, x_CBL.device)
    # Lags beyond the sequence meet nothing but zeros.
    before, after = -(-(min(num_past, L) - 1) // b), -(-min(num_future, L - 1) // b)
    H = toeplitz(past, future, b=b, before=before, after=after, dtype=x_CBL.dtype)
    return _BlockConvolution.apply(x_CBL, H, before, after)
