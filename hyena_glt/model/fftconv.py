"""The long convolution of `hyena`: any filter as long as the sequence, by FFT in fp32.

Suffixes: C channels, B batch, L tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor


class _FFTConvolution(torch.autograd.Function):
    """Keeps only real inputs for the backward pass, which transforms them again: spectra are four times as large."""

    @staticmethod
    def forward(ctx, x_CBL: Tensor, past_CL: Tensor, future_CL: Tensor | None) -> Tensor:
        ctx.save_for_backward(x_CBL, past_CL, future_CL)
        L = x_CBL.shape[-1]
        spectrum = _spectrum(past_CL, future_CL).unsqueeze(1)
        y = torch.fft.irfft(torch.fft.rfft(x_CBL.to(past_CL.dtype), n=2 * L) * spectrum, n=2 * L)
        return y[..., :L].to(x_CBL.dtype)

    @staticmethod
    def backward(ctx, grad_CBL: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        x_CBL, past_CL, future_CL = ctx.saved_tensors
        n = 2 * grad_CBL.shape[-1]
        grad_f = torch.fft.rfft(grad_CBL.to(past_CL.dtype), n=n)
        dx = torch.fft.irfft(grad_f * _spectrum(past_CL, future_CL).unsqueeze(1).conj(), n=n)[..., : n // 2]
        # One circular correlation holds both filters' gradients: lags into the past from its start, into the future from its end.
        lags = torch.fft.irfft((grad_f * torch.fft.rfft(x_CBL.to(past_CL.dtype), n=n).conj()).sum(1), n=n)
        d_future = None if future_CL is None else torch.cat([torch.zeros_like(lags[:, :1]), lags[:, n // 2 + 1 :].flip(1)], 1)
        return dx.to(x_CBL.dtype), lags[:, : n // 2], d_future


def _spectrum(past_CL: Tensor, future_CL: Tensor | None) -> Tensor:
    n = 2 * past_CL.shape[-1]
    spectrum = torch.fft.rfft(past_CL, n=n)
    if future_CL is None:
        return spectrum
    # Conjugation reverses time; lag 0 is taken out because it belongs to the past filter.
    return spectrum + torch.fft.rfft(future_CL, n=n).conj() - future_CL[:, :1]


def fft_conv(x_CBL: Tensor, past_CL: Tensor, future_CL: Tensor | None = None) -> Tensor:
    """y[n] = sum_(t>=0) past[t] x[n-t] + sum_(t>=1) future[t] x[n+t]; future[0] has no effect, lag 0 belongs to `past`.

    x [C, B, L]; past, future [C, L], fp32 or better (the precision of the transforms); returns [C, B, L] in x's dtype.
    """
    return _FFTConvolution.apply(x_CBL, past_CL, future_CL)
