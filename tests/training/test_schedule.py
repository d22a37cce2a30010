"""The learning rate against formulas of its own."""

from __future__ import annotations

import cmath
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyena_glt.training.schedule import learning_rate

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


def at(step: int, schedule: str, **changes: object) -> float:
    return learning_rate(step, **{"peak": 1.0, "floor": 0.1, "warmup_steps": 10, "total_steps": 110, "schedule": schedule} | changes)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear", "inverse_sqrt", "wsd"])
def test_every_schedule_warms_up_alike_and_reaches_its_peak(schedule):
    assert [at(step, schedule) for step in (0, 4, 9, 10)] == pytest.approx([0.1, 0.5, 1.0, 1.0])


@pytest.mark.parametrize(
    "schedule, changes, wanted",
    [
        ("constant", {}, {11: 1.0, 60: 1.0, 109: 1.0, 500: 1.0}),
        ("linear", {}, {35: 0.775, 60: 0.55, 110: 0.1, 500: 0.1}),
        ("inverse_sqrt", {}, {40: 0.5, 90: 1 / 3, 1000: 0.1, 10_000: 0.1}),
        ("wsd", {}, {60: 1.0, 88: 1.0, 99: 0.55, 110: 0.1, 500: 0.1}),
        ("wsd", {"cooldown_steps": 10}, {99: 1.0, 100: 1.0, 105: 0.55, 110: 0.1}),
        ("wsd", {"cooldown_steps": 1000}, {10: 1.0, 60: 0.55, 110: 0.1}),
        ("wsd", {"warmup_steps": 0, "total_steps": 5, "cooldown_steps": 5}, {0: 1.0, 1: 0.82, 4: 0.28, 5: 0.1}),
    ],
)
def test_schedules_at_chosen_steps(schedule, changes, wanted):
    assert {step: at(step, schedule, **changes) for step in wanted} == pytest.approx(wanted)


@given(
    schedule=st.sampled_from(["constant", "cosine", "linear", "inverse_sqrt", "wsd"]),
    warmup_steps=st.integers(1, 40), decay_steps=st.integers(1, 60), cooldown_steps=st.integers(1, 80),
)
def test_no_schedule_rises_after_the_warm_up_or_leaves_its_bounds(schedule, warmup_steps, decay_steps, cooldown_steps):
    total = warmup_steps + decay_steps
    given = {"warmup_steps": warmup_steps, "total_steps": total, "cooldown_steps": cooldown_steps}
    rates = [at(step, schedule, **given) for step in range(warmup_steps, total + 9)]
    assert rates == sorted(rates, reverse=True) and rates[0] <= 1.0 and min(rates) >= 0.1 - 1e-12
    assert math.isclose(rates[0], 1.0)
