"""The long convolutions as modules: explicit taps (`se`, `mr`), a sum of exponentials (`li`), and HyenaDNA's implicit filter (`hyena`).

Each maps z [D, B, L] to y [D, B, L]; channels stand first so that the products need no transposes. All parameters are read inside the
forward pass of the module that owns them. A bidirectional convolution has a second filter for the future; lag 0 belongs to the past filter.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from .fftconv import fft_conv
from .modal import modal_conv
from .shortconv import short_conv
from .toeplitz import toeplitz_conv


def full_precision(x: Tensor) -> Tensor:
    """fp32, or wider if `x` is wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class ShortConv(nn.Module):
    """Depthwise convolution over `taps` neighbouring tokens, causal or centred; weights as nn.Conv1d draws them."""

    def __init__(self, channels: int, *, taps: int, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.taps = nn.Parameter(torch.empty(channels, taps).uniform_(-1, 1) / math.sqrt(taps))
        self.bias = nn.Parameter(torch.empty(channels).uniform_(-1, 1) / math.sqrt(taps))

    def forward(self, x: Tensor) -> Tensor:
        return short_conv(x, self.taps.to(x.dtype), self.bias.to(x.dtype), causal=self.causal)


class ExplicitConv(nn.Module):
    """A filter given by its taps, by block-Toeplitz products; with `decay`, each channel's taps fade at a fixed rate of its own."""

    def __init__(self, channels: int, *, taps: int, causal: bool, decay: bool) -> None:
        super().__init__()
        self.decay = decay
        self.past = nn.Parameter(torch.randn(channels, taps) / math.sqrt(taps))
        self.future = None if causal or taps == 1 else nn.Parameter(torch.randn(channels, taps - 1) / math.sqrt(taps))

    def _decays(self, D: int, K: int, like: Tensor) -> Tensor:
        """exp(-rate * t): rates from 0.01 to 100 over the channels, t from 0 to 1 over the taps."""
        rates = torch.logspace(-2, 2, D, device=like.device, dtype=like.dtype)
        return torch.exp(-rates[:, None] * torch.linspace(0, 1, K, device=like.device, dtype=like.dtype))

    def filters(self) -> tuple[Tensor, Tensor | None]:
        """Taps at lags 0 .. K-1 into the past [C, K], and of a bidirectional filter at lags 1 .. K-1 into the future."""
        past, future = full_precision(self.past), None if self.future is None else full_precision(self.future)
        if self.decay:
            decays = self._decays(*past.shape, past)
            past, future = past * decays, None if future is None else future * decays[:, 1:]
        return past, future

    def forward(self, z: Tensor, step: int = 0) -> Tensor:
        return toeplitz_conv(z, *self.filters())


class ModalConv(nn.Module):
    """h_t = sum_s R_s exp(-a_s t), by a chunked scan; a starts log-spaced from 0.01/e to 0.1/e, R ~ 0.1 N(0, 1) / sqrt(poles)."""

    def __init__(self, channels: int, *, poles: int, causal: bool) -> None:
        super().__init__()
        self.log_rates, self.residues = self._filter(channels, poles)
        self.future_log_rates, self.future_residues = (None, None) if causal else self._filter(channels, poles)

    @staticmethod
    def _filter(channels: int, poles: int) -> tuple[nn.Parameter, nn.Parameter]:
        log_rates = torch.linspace(math.log(0.01), math.log(0.1), poles).repeat(channels, 1) - 1
        return nn.Parameter(log_rates), nn.Parameter(0.1 * torch.randn(channels, poles) / math.sqrt(poles))

    def filters(self) -> tuple[Tensor, ...]:
        """Rates and residues [C, S], and those of a bidirectional filter's future."""
        past = full_precision(self.log_rates).exp(), full_precision(self.residues)
        if self.future_log_rates is None:
            return past
        return *past, full_precision(self.future_log_rates).exp(), full_precision(self.future_residues)

    def forward(self, z: Tensor, step: int = 0) -> Tensor:
        return modal_conv(z, *self.filters())


class Sine(nn.Module):
    """sin(frequency * x) with a trained frequency for each unit."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.frequency = nn.Parameter(torch.full((width,), 10.0))

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.frequency * x)


class ImplicitFilter(nn.Module):
    """A filter that is a small MLP of the lag, under an exponential window; one `Sine` serves all of its layers.

    Lags are scaled by `max_length`, so the same weights give another filter if `max_length` changes. The features of the lags and the
    window are functions of the sizes alone, computed when needed and never stored.
    """

    def __init__(self, channels: int, *, max_length: int, width: int, shift: float, bands: int = 2, hidden_layers: int = 2) -> None:
        super().__init__()
        self.channels, self.max_length, self.shift, self.bands = channels, max_length, shift, bands
        self.activation = Sine(width)
        sizes = [1 + 2 * bands, *[width] * (1 + hidden_layers)]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.output = nn.Linear(width, channels, bias=False)

    def forward(self, length: int) -> Tensor:
        """Taps at lags 0 .. length-1: [channels, length]."""
        weight = self.output.weight
        t, h = self._features(length, weight)
        for layer in self.layers:
            h = self.activation(layer(h))
        slowest, fastest = math.log(100) / 1.5, math.log(100) / 0.3
        window = torch.exp(-t * torch.linspace(slowest, fastest, self.channels, device=t.device, dtype=t.dtype))
        return (self.output(h) * (window + self.shift)).t()

    def _features(self, length: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Time from 0 to 1 over `max_length` [length, 1], and time, cosines and sines [length, 1 + 2 * bands]."""
        n, options = self.max_length, {"device": like.device, "dtype": like.dtype}
        t = torch.linspace(0, 1, n, **options)[:length, None]
        angle = 2 * math.pi * torch.arange(length, **options)[:, None] / n
        phase = angle * torch.linspace(1e-4, self.bands - 1, self.bands, **options)
        return t, torch.cat([t, torch.cos(phase), -torch.sin(phase)], -1)


class ImplicitConv(nn.Module):
    """HyenaDNA's long convolution: an implicit filter by FFT in fp32, and a trained skip for each channel.

    `steps` filters, one for each step of the recurrence (order - 1). Raises ValueError beyond `max_length` tokens.
    """

    def __init__(self, channels: int, *, steps: int, max_length: int, width: int, shift: float, causal: bool) -> None:
        super().__init__()
        self.channels, self.max_length = channels, max_length
        # Two positions more than the sequence, as HyenaDNA sizes its filters: released weights depend on it.
        def implicit() -> ImplicitFilter:
            return ImplicitFilter(channels * steps, max_length=max_length + 2, width=width, shift=shift)

        self.past, self.future = implicit(), None if causal else implicit()
        self.skip = nn.Parameter(torch.randn(channels * steps))

    def forward(self, z: Tensor, step: int = 0) -> Tensor:
        L = z.shape[-1]
        if L > self.max_length:
            raise ValueError(f"a sequence of {L} tokens is longer than this model's hyena filters ({self.max_length}); "
                             "raise model.max_position_embeddings before training")
        past, future, skip = self.filters(L, step)
        return fft_conv(z, past, future) + skip[:, None, None].to(z.dtype) * z

    def filters(self, length: int, step: int) -> tuple[Tensor, Tensor | None, Tensor]:
        """Of one step: taps at lags 0 .. length-1 into the past and, of a bidirectional filter, the future [C, length]; the skip [C]."""
        channels = slice(step * self.channels, (step + 1) * self.channels)
        future = None if self.future is None else self.future(length)[channels]
        return self.past(length)[channels], future, self.skip[channels]
