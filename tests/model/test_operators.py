"""Each convolution against the direct float64 sum: outputs and gradients, causal and bidirectional, at lengths that fit no block."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hyena_glt.model.fftconv import fft_conv
from hyena_glt.model.modal import exponential_scan, modal_conv
from hyena_glt.model.shortconv import short_conv
from hyena_glt.model.toeplitz import toeplitz_conv

from .reference import direct_conv, exponentials

LENGTHS = (1, 2, 5, 127, 128, 129, 300)
C, B, S = 3, 2, 16
Operator = Callable[..., Tensor]


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def _explicit(taps: int, causal: bool, L: int) -> tuple[Operator, Operator, list[Tensor]]:
    return toeplitz_conv, lambda x, h, g=None: direct_conv(x, h, g), [_random(C, taps)] + ([] if causal else [_random(C, taps - 1)])


def _modal(causal: bool, L: int) -> tuple[Operator, Operator, list[Tensor]]:
    def reference(x: Tensor, a: Tensor, R: Tensor, a2: Tensor | None = None, R2: Tensor | None = None) -> Tensor:
        return direct_conv(x, exponentials(a, R, L), None if a2 is None else exponentials(a2, R2, L)[:, 1:])

    filters = [_random(C, S).exp() * 0.02, _random(C, S)]
    return modal_conv, reference, filters + ([] if causal else [_random(C, S).exp() * 0.02, _random(C, S)])


def _fft(causal: bool, L: int) -> tuple[Operator, Operator, list[Tensor]]:
    def reference(x: Tensor, h: Tensor, g: Tensor | None = None) -> Tensor:
        return direct_conv(x, h, None if g is None else g[:, 1:])

    return fft_conv, reference, [_random(C, L) for _ in range(1 if causal else 2)]


def _short(causal: bool, L: int) -> tuple[Operator, Operator, list[Tensor]]:
    def reference(x: Tensor, taps: Tensor, bias: Tensor) -> Tensor:
        backwards = taps.flip(1)
        past, future = (backwards, None) if causal else (backwards[:, 1:], backwards[:, :1])
        return direct_conv(x, past, future) + bias[:, None, None]

    return lambda x, taps, bias: short_conv(x, taps, bias, causal=causal), reference, [_random(C, 3), _random(C)]


CASES = {
    "se": lambda causal, L: _explicit(7, causal, L),
    "mr": lambda causal, L: _explicit(128, causal, L),
    "li": _modal,
    "hyena": _fft,
    "featurizer": _short,
}


def _with_gradients(operator: Operator, inputs: list[Tensor], direction: Tensor) -> list[Tensor]:
    leaves = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    output = operator(*leaves)
    return [output, *torch.autograd.grad((output * direction).sum(), leaves, materialize_grads=True)]


def _relative_error(found: Tensor, wanted: Tensor) -> float:
    return ((found.double() - wanted).abs().max() / wanted.abs().max().clamp(min=1e-12)).item()


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
@pytest.mark.parametrize("L", LENGTHS)
@pytest.mark.parametrize("kind", CASES)
def test_outputs_and_gradients_match_the_direct_sum(kind: str, L: int, causal: bool) -> None:
    torch.manual_seed(L)
    operator, reference, filters = CASES[kind](causal, L)
    inputs, direction = [_random(C, B, L), *filters], _random(C, B, L)
    # Both precisions start from numbers that fp32 holds exactly, so that only the arithmetic is compared.
    inputs, direction = [tensor.float().double() for tensor in inputs], direction.float().double()
    wanted = _with_gradients(reference, inputs, direction)
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        found = _with_gradients(operator, [tensor.to(dtype) for tensor in inputs], direction.to(dtype))
        for place, (got, want) in enumerate(zip(found, wanted, strict=True)):
            assert _relative_error(got, want) < tolerance, f"{dtype}, {'output' if place == 0 else f'gradient of argument {place - 1}'}"


@given(L=st.integers(1, 90), past=st.integers(1, 40), future=st.integers(0, 40), b=st.integers(1, 33))
@settings(max_examples=60, deadline=None)
def test_toeplitz_is_exact_for_any_taps_and_block(L: int, past: int, future: int, b: int) -> None:
    inputs = [_random(C, B, L), _random(C, past), _random(C, future)]
    direction = _random(C, B, L)
    wanted = _with_gradients(direct_conv, inputs, direction)
    found = _with_gradients(lambda x, h, g: toeplitz_conv(x, h, g, b=b), inputs, direction)
    for got, want in zip(found, wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


@given(L=st.integers(1, 200), b=st.integers(1, 40))
@settings(max_examples=30, deadline=None)
def test_the_chunked_scan_is_exact_for_any_chunk(L: int, b: int) -> None:
    operator, reference, filters = _modal(False, L)
    x = _random(C, B, L)
    torch.testing.assert_close(operator(x, *filters, b=b), reference(x, *filters), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("N", [1, 16, 17, 256, 300, 5000])
def test_the_scan_over_chunks_follows_its_recurrence(N: int) -> None:
    x, rates = _random(4, 2, N), torch.tensor([1e-6, 0.01, 1.0, 50.0], dtype=torch.float64)
    y, state = exponential_scan(x, rates), torch.zeros(4, 2, dtype=torch.float64)
    for n in range(N):
        state = torch.exp(-rates)[:, None] * state + x[..., n]
        torch.testing.assert_close(y[..., n], state, rtol=1e-10, atol=1e-10)


def test_li_keeps_its_states_in_fp32_when_the_sequence_is_bf16() -> None:
    """A slow pole adds thousands of equal numbers: a bf16 state would stop growing at 256."""
    x = torch.ones(1, 1, 4096, dtype=torch.bfloat16)
    rates, residues = torch.full((1, 1), 1e-7), torch.ones(1, 1)
    y = modal_conv(x, rates, residues)
    assert y.dtype == torch.bfloat16
    assert y[0, 0, -1].item() == pytest.approx(4096, rel=0.01)
