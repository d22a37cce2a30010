"""A causal model token by token: each layer with the state that its next token needs.

`se`, `mr` and the featurizer keep their last inputs, `li` one number a pole, so that a token costs the same wherever it stands; attention
keeps its keys and values; `hyena`, whose filter has no short state, spreads each tile of its inputs over the outputs that follow.

Suffixes: C channels, B batch, L tokens, K taps, S poles, H heads, F features of a head.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import Attention
from .filters import ExplicitConv, ImplicitConv, ModalConv, full_precision
from .heads import LanguageModel
from .mixers import HyenaMixer

DIRECT = 32
"""Tiles of up to so many tokens are products, longer ones go by FFT."""
CHUNK = 1024
"""Tokens by which a prompt enters the state of `li`."""


class Decoder:
    """Reads a prompt in one pass, and then one token of each row at a time.

    `capacity`: the most tokens of a row, prompt and specials included. ValueError for a bidirectional model, and for more tokens than the
    model takes.
    """

    @torch.inference_mode()
    def __init__(self, model: LanguageModel, capacity: int) -> None:
        if not model.causal:
            raise ValueError("a bidirectional model reads whole sequences; only a causal one goes token by token")
        if capacity > model.max_length:
            raise ValueError(
                f"{capacity:,} tokens are more than this model's limit of {model.max_length:,} (model.max_position_embeddings)"
            )
        self._model, self._capacity, self._length = model, capacity, 0
        self._mixers = [_mixer(block.mixer, capacity) for block in model.backbone.blocks]

    @property
    def is_full(self) -> bool:
        """Whether it has read as many tokens as it can."""
        return self._length == self._capacity

    @torch.inference_mode()
    def read(self, ids: Tensor) -> Tensor:
        """ids [B, L], behind what was read before only [B, 1] -> logits of the token that follows, [B, rows].

        ValueError beyond the capacity.
        """
        L = ids.shape[1]
        if self._length + L > self._capacity:
            raise ValueError(f"{self._length + L:,} tokens are more than the {self._capacity:,} that there is room for")
        backbone = self._model.backbone
        x = full_precision(backbone.embedding(ids))
        if backbone.positions is not None:
            x = backbone.positions(x, self._length)
        for block, mixer in zip(backbone.blocks, self._mixers, strict=True):
            x = x + mixer.read(block.norm1(x))
            x = x + block.mlp(block.norm2(x))
        self._length += L
        return self._model.logits(backbone.norm(x[:, -1]))


class _Mixer(Protocol):
    def read(self, x: Tensor) -> Tensor:
        """x [B, L, D] of a prompt, or [B, 1, D] of the token behind what was read -> [B, L, D]."""
        ...


class _Conv(Protocol):
    def read(self, z: Tensor) -> Tensor:
        """z [C, B, L] of a prompt, or [C, B, 1] of the token behind what was read -> [C, B, L]."""
        ...


def _mixer(mixer: nn.Module, capacity: int) -> _Mixer:
    return _Attention(mixer, capacity) if isinstance(mixer, Attention) else _Hyena(mixer, capacity)


class _Hyena:
    def __init__(self, mixer: HyenaMixer, capacity: int) -> None:
        self._mixer = mixer
        featurizer = mixer.featurizer
        self._featurizer = _Taps(featurizer, featurizer.taps.flip(-1), featurizer.bias)
        self._convs: list[_Conv] = [_conv(mixer.conv, step, capacity) for step in range(mixer.order - 1)]

    def read(self, x: Tensor) -> Tensor:
        features = self._featurizer.read(self._mixer.in_proj(x))
        return self._mixer.out_proj(self._mixer.recur(features, lambda z, step: self._convs[step].read(z)))


def _conv(conv: nn.Module, step: int, capacity: int) -> _Conv:
    match conv:
        case ExplicitConv():
            return _Taps(conv, conv.filters()[0])
        case ModalConv():
            return _Poles(conv)
        case ImplicitConv():
            return _Tiles(conv, step, capacity)
    raise TypeError(f"{type(conv).__name__} has no form that goes token by token")


class _Taps:
    """A filter of a few taps, [C, K] from lag 0: the last K - 1 inputs, [C, B, K - 1]."""

    def __init__(self, conv: nn.Module, taps: Tensor, bias: Tensor | None = None) -> None:
        self._conv, self._taps, self._bias = conv, taps.flip(-1)[:, None], bias
        self._last: Tensor | None = None

    def read(self, z: Tensor) -> Tensor:
        K = self._taps.shape[-1]
        if self._last is None:
            self._last = F.pad(z, (K - 1, 0))[..., z.shape[-1] :].clone()  # a view would keep the whole prompt
            return self._conv(z)
        window = torch.cat([self._last, z], -1)
        self._last = window[..., 1:]
        y = (window * self._taps).sum(-1, keepdim=True)
        return (y if self._bias is None else y + self._bias[:, None, None]).to(z.dtype)


class _Poles:
    """A sum of exponentials: one number a pole, [C, B, S], in fp32 or better."""

    def __init__(self, conv: ModalConv) -> None:
        self._conv = conv
        self._rates, self._residues = conv.filters()[:2]
        self._state: Tensor | None = None

    def read(self, z: Tensor) -> Tensor:
        if self._state is None:
            self._state = self._after(z)
            return self._conv(z)
        self._state = self._state * torch.exp(-self._rates)[:, None] + z.to(self._rates.dtype)
        return (self._state * self._residues[:, None]).sum(-1, keepdim=True).to(z.dtype)

    def _after(self, z: Tensor) -> Tensor:
        """sum_t exp(-rate * (L - 1 - t)) z[t]."""
        state = z.new_zeros((*z.shape[:2], self._rates.shape[1]), dtype=self._rates.dtype)
        for chunk in z.to(self._rates.dtype).split(CHUNK, -1):
            b = chunk.shape[-1]
            lags = torch.arange(b - 1, -1, -1, device=z.device, dtype=self._rates.dtype)
            state = state * torch.exp(-self._rates * b)[:, None] + chunk @ torch.exp(-self._rates[:, None] * lags[:, None])
        return state


class _Tiles:
    """Any filter: the outputs to come, to which every tile of inputs is added once it is full.

    FutureFill (arXiv 2410.03766) and Flash Inference (arXiv 2410.12982). The prompt is added to all of them at once. Behind it, after the
    i-th token, the last u inputs are added to the next u outputs, u the largest power of 2 that divides i: n tokens cost n log^2 n, where
    reading the sequence anew for each costs n^2 log n.
    """

    def __init__(self, conv: ImplicitConv, step: int, capacity: int) -> None:
        self._conv, self._step, self._capacity = conv, step, capacity
        self._inputs: Tensor | None = None
        self._outputs: Tensor | None = None
        self._count = 0

    def read(self, z: Tensor) -> Tensor:
        if self._inputs is None:
            self._begin(z)
            return self._conv(z, self._step)
        i = self._count
        self._inputs[..., i : i + 1] = z
        y = self._outputs[..., i : i + 1] + self._taps[:, None, :1] * z
        self._count = i + 1
        self._spread(tile=self._count & -self._count)
        return y.to(z.dtype)

    def _begin(self, z: Tensor) -> None:
        L, room = z.shape[-1], self._capacity - z.shape[-1]
        past, _, skip = self._conv.filters(self._capacity, self._step)
        self._taps = torch.cat([past[:, :1] + skip[:, None], past[:, 1:]], 1)
        n = 1 << (self._capacity - 1).bit_length()
        whole = torch.fft.irfft(torch.fft.rfft(z.to(past.dtype), n=n) * torch.fft.rfft(past, n=n)[:, None], n=n)
        self._outputs = whole[..., L : self._capacity].clone()
        self._inputs = self._outputs.new_zeros(*z.shape[:2], room)

    def _spread(self, tile: int) -> None:
        """Add the last `tile` inputs to as many outputs that follow."""
        first, last = self._count, min(self._count + tile, self._inputs.shape[-1])
        if first >= last:
            return
        inputs, taps = self._inputs[..., first - tile : first], F.pad(self._taps, (0, max(0, 2 * tile - self._capacity)))[:, : 2 * tile]
        if tile <= DIRECT:
            added = torch.einsum("cbk,cjk->cbj", inputs.flip(-1), taps[:, 1:].unfold(-1, tile, 1))
        else:
            added = torch.fft.irfft(torch.fft.rfft(inputs, n=2 * tile) * torch.fft.rfft(taps, n=2 * tile)[:, None], n=2 * tile)[..., tile:]
        self._outputs[..., first:last] += added[..., : last - first]


class _Attention:
    """The keys and values of all tokens so far, [B, H, capacity, F]."""

    def __init__(self, attention: Attention, capacity: int) -> None:
        self._attention, self._capacity = attention, capacity
        self._keys: Tensor | None = None
        self._values: Tensor | None = None
        self._length = 0

    def read(self, x: Tensor) -> Tensor:
        B, L, D = x.shape
        start, end = self._length, self._length + L
        q, k, v = self._attention.project(x, start)
        if self._keys is None:
            self._keys, self._values = (k.new_empty(B, k.shape[1], self._capacity, k.shape[3]) for _ in range(2))
        self._keys[:, :, start:end], self._values[:, :, start:end], self._length = k, v, end
        attended = F.scaled_dot_product_attention(q, self._keys[:, :, :end], self._values[:, :, :end], is_causal=L > 1)
        return self._attention.out_proj(attended.transpose(1, 2).reshape(B, L, D))
