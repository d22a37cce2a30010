"""Stages and curricula step by step: the timeline against a slow walk that asks at every single step."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyena_glt.config import CurriculumConfig, StageConfig, TrainingConfig
from hyena_glt.config.recipe import BatchSizeCurriculum, SequenceLengthCurriculum
from hyena_glt.errors import ConfigError
from hyena_glt.training.plan import Plan, make_plan, split_batch

NUM_ROWS, WIDTH, GLOBAL_ROWS = 40, 8, 12


def plan_of(curriculum: CurriculumConfig | None = None, *, moves: dict[str, list[int]] | None = None, **training: object) -> Plan:
    cfg = TrainingConfig(**{"batch_size": GLOBAL_ROWS, "learning_rate": 1.0} | training)
    return make_plan(cfg, curriculum, world_size=1, num_rows=NUM_ROWS, width=WIDTH, moves=moves)


def rates(plan: Plan) -> list[float]:
    return [plan.stage(step).rate(step) for step in range(plan.total_steps)]


def rows(plan: Plan) -> list[int]:
    return [plan.stretch(step).rows for step in range(plan.total_steps)]


GUIDE = (
    StageConfig(name="initial learning", epochs=20, learning_rate=1e-4, warmup_steps=10, batch_ramp=(0.25, 0.5, 1)),
    StageConfig(name="pattern recognition", epochs=40, learning_rate=5e-5, eval_interval=500),
    StageConfig(name="fine-tuning", epochs=40, learning_rate=1e-5, dropout=0.2, early_stopping_patience=3),
)


def test_the_guides_three_stages():
    plan = plan_of(stages=GUIDE)
    ends = [plan.epoch(stage.end_step) for stage in plan.timeline.stages]
    assert ends == pytest.approx([20, 60, 100], abs=3 * GLOBAL_ROWS / NUM_ROWS), "each stage is rounded up to a step"
    first, second, third = plan.timeline.stages
    assert (second.eval_interval, third.early_stopping_patience, third.dropout, first.dropout) == (500, 3, 0.2, None)
    assert rates(plan)[:2] == pytest.approx([1e-5, 2e-5]) and set(rates(plan)[10:]) == {1e-4, 5e-5, 1e-5}
    taken = rows(plan)[: first.end_step]
    assert sorted(set(taken)) == [3, 6, 12] and taken == sorted(taken)
    shares = [sum(row for row in taken if row == size) / (20 * NUM_ROWS) for size in (3, 6, 12)]
    assert shares == pytest.approx([1 / 3] * 3, abs=0.02), "each share of the batch gets an equal part of the stage"


def test_a_limit_of_the_run_cuts_the_stages():
    assert plan_of(stages=GUIDE, max_steps=5).total_steps == 5
    assert [stage.name for stage in plan_of(stages=GUIDE, num_epochs=30).timeline.stages] == ["initial learning", "pattern recognition"]
    last = plan_of(stages=(StageConfig(name="a", steps=3), StageConfig(name="b")), max_steps=10)
    assert [(stage.first_step, stage.end_step) for stage in last.timeline.stages] == [(0, 3), (3, 10)]
    with pytest.raises(ConfigError, match="one of num_epochs, max_steps and max_tokens is needed"):
        plan_of(stages=(StageConfig(name="a", steps=3), StageConfig(name="b")))


def test_patience_ends_a_stage_early_and_changes_nothing_before():
    stages = (StageConfig(name="a", steps=10, schedule="linear"), StageConfig(name="b", steps=10, learning_rate=0.5))
    planned, early = plan_of(stages=stages), plan_of(stages=stages, moves={"stage": [4]})
    assert rates(early)[:4] == rates(planned)[:4] and rates(early)[4:] == [0.5] * 10
    assert early.total_steps == 14 and early.rows_before(14) == 14 * GLOBAL_ROWS


@given(
    intervals=st.lists(st.one_of(st.none(), st.integers(1, 9)), min_size=1, max_size=3), every=st.integers(1, 9),
    lengths=st.lists(st.integers(1, 8), min_size=3, max_size=3), early=st.integers(1, 8),
)
def test_validations_are_where_the_loop_makes_them(intervals, every, lengths, early):
    named = zip("abc", intervals, lengths, strict=False)
    plan = plan_of(stages=tuple(StageConfig(name=name, steps=n, eval_interval=own) for name, own, n in named), moves={"stage": [early]})
    steps = range(1, plan.total_steps + 1)
    due = [step for step in steps if step % (plan.stage(step - 1).eval_interval or every) == 0 or step == plan.total_steps]
    assert plan.timeline.validations(every) == due


def test_a_plateau_gives_a_curriculum_its_next_value():
    lengths = CurriculumConfig(sequence_length=SequenceLengthCurriculum(values=(2, 4, 8), at=(2, 3), by="plateau"))
    assert {plan_of(lengths, max_steps=9).stretch(step).sequence_length for step in range(9)} == {2}
    moved = plan_of(lengths, max_steps=9, moves={"sequence_length": [3, 5]})
    assert [moved.stretch(step).sequence_length for step in range(9)] == [2, 2, 2, 4, 4, 8, 8, 8, 8]


@given(
    batch=st.lists(st.sampled_from([0.25, 0.5, 1.0]), min_size=2, max_size=4),
    lengths=st.lists(st.sampled_from([2, 4, 8]), min_size=2, max_size=3),
    units=st.tuples(st.sampled_from(["step", "epoch", "tokens"]), st.sampled_from(["step", "epoch", "tokens"])),
    places=st.lists(st.integers(1, 12), min_size=6, max_size=6, unique=True),
    limit=st.one_of(
        st.integers(1, 40).map(lambda n: {"max_steps": n}), st.integers(1, 9).map(lambda n: {"num_epochs": float(n)}),
        st.integers(1, 2000).map(lambda n: {"max_tokens": n}),
    ),
)
def test_every_step_is_what_a_slow_walk_finds(batch, lengths, units, places, limit):
    scale = {"step": 1, "epoch": 1, "tokens": 50}
    at = [sorted(scale[unit] * place for place in places[: len(values) - 1]) for unit, values in zip(units, (batch, lengths), strict=True)]
    curriculum = CurriculumConfig(
        batch_size=BatchSizeCurriculum(values=tuple(batch), at=tuple(at[0]), by=units[0]),
        sequence_length=SequenceLengthCurriculum(values=tuple(lengths), at=tuple(at[1]), by=units[1]),
    )
    plan = plan_of(curriculum, **limit)
    step = taken = 0
    while True:
        done = {"step": Fraction(step), "epoch": Fraction(taken, NUM_ROWS), "tokens": Fraction(taken * WIDTH)}
        limits = {"max_steps": "step", "num_epochs": "epoch", "max_tokens": "tokens"}
        if any(done[limits[name]] >= Fraction(value) for name, value in limit.items()):
            break
        passed = [sum(done[unit] >= place for place in marks) for unit, marks in zip(units, at, strict=True)]
        stretch = plan.stretch(step)
        assert (stretch.rows, stretch.sequence_length) == (round(batch[passed[0]] * GLOBAL_ROWS), lengths[passed[1]])
        assert plan.rows_before(step) == taken and stretch.first_step <= step < stretch.end_step
        step, taken = step + 1, taken + stretch.rows
    assert (plan.total_steps, plan.rows_before(step)) == (step, taken)


@given(rows=st.integers(1, 60), batch_size=st.integers(1, 10), world_size=st.integers(1, 6))
def test_a_batch_is_split_evenly_or_refused(rows, batch_size, world_size):
    if rows % world_size:
        with pytest.raises(ConfigError, match=f"{world_size} workers do not divide a global batch of {rows} rows.*these do: 1"):
            split_batch(rows, batch_size, world_size)
        return
    micro, steps = split_batch(rows, batch_size, world_size)
    assert micro * steps * world_size == rows and micro <= batch_size
    assert not any(rows % (size * world_size) == 0 for size in range(micro + 1, batch_size + 1)), "no larger micro-batch would do"
