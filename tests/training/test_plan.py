"""The arithmetic of a run, the worker counts that it takes, and what a user is told before it starts."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from hyena_glt.config import ClusterConfig, Config, TrainingConfig
from hyena_glt.config.recipe import BatchSizeCurriculum, CurriculumConfig
from hyena_glt.errors import ConfigError
from hyena_glt.training.plan import Plan, divide_batch, make_plan, sizes_in_range


def plan_of(world_size: int = 1, num_rows: int = 1000, width: int = 10, padding_share: float = 0.0, global_rows: int | None = None,
            **training: object) -> Plan:
    cfg = TrainingConfig(**{"batch_size": 4, "max_steps": 50} | training)
    return make_plan(cfg, world_size=world_size, num_rows=num_rows, width=width, padding_share=padding_share, global_rows=global_rows)


def test_the_global_batch_is_workers_times_rows_times_micro_steps():
    plan = plan_of(world_size=3, gradient_accumulation_steps=2)
    assert (plan.global_rows, plan.accumulation_steps, plan.tokens_per_step) == (24, 2, 240)
    assert plan.epoch(125) == 3.0 and plan.epoch(0) == 0.0


@pytest.mark.parametrize("world_size, accumulation_steps", [(1, 6), (2, 3), (3, 2), (6, 1)])
def test_a_run_that_goes_on_keeps_its_global_batch(world_size, accumulation_steps):
    plan = plan_of(world_size=world_size, gradient_accumulation_steps=5, global_rows=24)
    assert (plan.global_rows, plan.accumulation_steps) == (24, accumulation_steps)


def test_a_number_of_workers_that_does_not_fit_is_refused_with_those_that_do():
    with pytest.raises(ConfigError) as caught:
        plan_of(world_size=5, global_rows=24)
    assert str(caught.value) == (
        "cluster.train_workers: 5 workers of batch_size 4 do not divide this run's global batch of 24 rows; these do: 1, 2, 3, 6"
    )
    with pytest.raises(ConfigError, match="1 workers of batch_size 5 do not divide this run's global batch of 24 rows; these do: none"):
        divide_batch(24, 5, 1)


@given(global_rows=st.integers(1, 60), batch_size=st.integers(1, 8), world_size=st.integers(1, 8))
def test_workers_fit_or_the_message_names_all_that_do(global_rows, batch_size, world_size):
    fitting = [n for n in range(1, 61) if any(n * batch_size * steps == global_rows for steps in range(1, 61))]
    try:
        assert divide_batch(global_rows, batch_size, world_size) * batch_size * world_size == global_rows
        assert world_size in fitting
    except ConfigError as error:
        assert world_size not in fitting
        assert str(error).endswith(f"these do: {', '.join(map(str, fitting)) or 'none'}")


@given(
    workers=st.tuples(st.integers(1, 6), st.integers(1, 6)).map(sorted), batch_size=st.integers(1, 4), steps=st.integers(1, 4),
    ramp=st.integers(1, 11),
)
def test_the_sizes_of_a_range_are_those_whose_plan_can_be_made(workers, batch_size, steps, ramp):
    training = {"batch_size": batch_size, "gradient_accumulation_steps": steps}
    ramped = CurriculumConfig(batch_size=BatchSizeCurriculum(values=(ramp / 12, 1.0), at=(3,), by="step"))
    cfg = replace(
        Config(), training=TrainingConfig(max_steps=9, **training), cluster=ClusterConfig(train_workers=tuple(workers)), curriculum=ramped
    )

    def plan(size):
        given = {"num_rows": 1000, "width": 10, "global_rows": workers[1] * batch_size * steps}
        return make_plan(cfg.training, cfg.curriculum, world_size=size, **given)

    possible = []
    for size in range(workers[1], workers[0] - 1, -1):
        with suppress(ConfigError):
            plan(size)
            possible.append(size)
    assume(possible[:1] == [workers[1]])
    assert sizes_in_range(cfg, plan(workers[1])) == possible


@pytest.mark.parametrize(
    "limits, steps",
    [
        ({"num_epochs": 2.0}, 500),
        ({"num_epochs": 0.5}, 125),
        ({"max_steps": 7}, 7),
        ({"max_tokens": 400}, 10),
        ({"max_tokens": 401}, 11),
        ({"num_epochs": 2.0, "max_steps": 499, "max_tokens": 40 * 501}, 499),
        ({"num_epochs": 2.0, "max_steps": 600, "max_tokens": 40 * 501}, 500),
        ({"num_epochs": 2.0, "max_steps": 600, "max_tokens": 40 * 20}, 20),
    ],
)
def test_the_limit_reached_first_ends_the_run(limits, steps):
    assert plan_of(**{"max_steps": None} | limits).total_steps == steps


def test_tokens_that_are_counted_are_not_padding():
    assert plan_of(max_steps=None, max_tokens=400, padding_share=0.5).total_steps == 20


@example(epochs=100, num_rows=7, global_rows=25)
@given(epochs=st.integers(1, 200), num_rows=st.integers(1, 300), global_rows=st.integers(1, 300))
def test_epochs_are_exact(epochs, num_rows, global_rows):
    """In floating point 100 * (7 / 25) is more than 28, and 28 / (7 / 25) less than 100."""
    plan = plan_of(max_steps=None, num_epochs=float(epochs), num_rows=num_rows, batch_size=global_rows)
    exact = Fraction(epochs * num_rows, global_rows)
    assert exact <= plan.total_steps < exact + 1
    assert plan.epoch(plan.total_steps) >= epochs > plan.epoch(plan.total_steps - 1)


def test_a_run_without_an_end_is_refused():
    with pytest.raises(ConfigError, match="^training: one of num_epochs, max_steps and max_tokens is needed, or the run would never end$"):
        plan_of(max_steps=None)


@pytest.mark.parametrize(
    "settings, note",
    [
        (
            {"warmup_steps": 50},
            "training.warmup_steps (50) is not shorter than the run (50 steps): the learning rate never reaches its peak",
        ),
        (
            {"padding_share": 0.256},
            "26% of the positions are padding; a shorter data.sequence_length or preprocessing.max_length wastes less",
        ),
        (
            {"num_rows": 3},
            "one global batch (4 rows) is more than the training split holds (3): rows repeat in a step",
        ),
    ],
)
def test_notes(settings, note):
    assert plan_of(**settings).notes == (note,)


def test_a_plan_without_surprises_has_no_notes():
    assert plan_of(warmup_steps=49, padding_share=0.2, num_rows=4).notes == ()
    assert len(plan_of(warmup_steps=99, padding_share=0.3, num_rows=1).notes) == 3
