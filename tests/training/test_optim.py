"""The learning rate against a formula of its own, and every parameter in the group where it belongs."""

from __future__ import annotations

import cmath

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hyena_glt.config.tree import ModelConfig
from hyena_glt.model import LanguageModel, build_model
from hyena_glt.training.optim import adamw, learning_rate, parameter_groups, set_rate

PEAK, FLOOR = 3e-3, 1e-4


def rate(step: int, warmup_steps: int, total_steps: int) -> float:
    return learning_rate(step, peak=PEAK, floor=FLOOR, warmup_steps=warmup_steps, total_steps=total_steps)


def half_circle(share: float) -> float:
    """The height, from 1 to 0, of a point that has gone `share` of the way around half a circle."""
    return (cmath.rect(0.5, cmath.pi * share) + 0.5).real


@pytest.mark.parametrize(
    "step, warmup_steps, total_steps, wanted",
    [
        (0, 10, 110, PEAK / 10),
        (4, 10, 110, PEAK / 2),
        (9, 10, 110, PEAK),
        (10, 10, 110, PEAK),
        (60, 10, 110, (PEAK + FLOOR) / 2),
        (35, 10, 110, FLOOR + (PEAK - FLOOR) * half_circle(0.25)),
        (85, 10, 110, FLOOR + (PEAK - FLOOR) * half_circle(0.75)),
        (109, 10, 110, FLOOR + (PEAK - FLOOR) * half_circle(0.99)),
        (110, 10, 110, FLOOR),
        (500, 10, 110, FLOOR),
        (0, 0, 100, PEAK),
        (0, 0, 1, PEAK),
        (4, 50, 5, PEAK / 10),
        (49, 50, 50, PEAK),
        (50, 50, 50, PEAK),
    ],
)
def test_learning_rate_at_the_corners(step, warmup_steps, total_steps, wanted):
    assert rate(step, warmup_steps, total_steps) == pytest.approx(wanted, rel=1e-12)


@given(warmup_steps=st.integers(0, 40), decay_steps=st.integers(1, 60))
def test_the_rate_rises_to_its_peak_and_falls_to_its_floor(warmup_steps, decay_steps):
    rates = [rate(step, warmup_steps, warmup_steps + decay_steps) for step in range(warmup_steps + decay_steps + 1)]
    up, down = rates[: max(1, warmup_steps)], rates[warmup_steps:]
    assert up == sorted(set(up)) and down == sorted(set(down), reverse=True)
    assert [max(rates), up[-1], down[0], down[-1]] == pytest.approx([PEAK, PEAK, PEAK, FLOOR])


def model_of(mixers: tuple[str, ...], **settings: object) -> LanguageModel:
    torch.set_num_threads(1)
    fields = {"hidden_size": 8, "num_layers": len(mixers), "num_attention_heads": 2, "mixers": mixers, "max_position_embeddings": 32}
    return build_model(ModelConfig(**fields | settings), vocab_size=4, causal=False)


@pytest.mark.parametrize("settings", [{}, {"tie_embeddings": False}, {"position_encoding": "learned"}])
def test_every_parameter_is_in_one_group(settings):
    model = model_of(("se", "mr", "li", "hyena", "attention"), **settings)
    decayed, others = parameter_groups(model, 0.1)
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    grouped = [id(parameter) for group in (decayed, others) for parameter in group["params"]]
    assert len(grouped) == len(set(grouped)) and set(grouped) == {id(parameter) for parameter in model.parameters()}
    assert all(parameter._no_weight_decay for parameter in others["params"])
    assert not any(getattr(parameter, "_no_weight_decay", False) for parameter in decayed["params"])
    assert all(parameter.ndim == 2 for parameter in decayed["params"]), "norms, biases and filter taps do not decay"
    vocabulary = {id(parameter) for name, parameter in model.named_parameters() if parameter.shape[0] == model.num_rows}
    assert vocabulary and not vocabulary & {id(parameter) for parameter in decayed["params"]}, "embeddings do not decay"


def test_frozen_parameters_and_empty_groups_are_left_out():
    layer = torch.nn.Linear(3, 3)
    layer.bias.requires_grad_(False)
    (only,) = parameter_groups(layer, 0.3)
    assert only["weight_decay"] == 0.3 and [id(parameter) for parameter in only["params"]] == [id(layer.weight)]


def test_only_marked_parameters_escape_the_decay():
    layer = torch.nn.Linear(3, 2)
    layer.bias._no_weight_decay = True
    before = [parameter.detach().clone() for parameter in layer.parameters()]
    optimizer = adamw(layer, rate=1.0, weight_decay=0.1, betas=(0.9, 0.95), epsilon=1e-8)
    set_rate(optimizer, 0.5)
    for parameter in layer.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(layer.weight.detach(), before[0] * (1 - 0.5 * 0.1))
    torch.testing.assert_close(layer.bias.detach(), before[1])
