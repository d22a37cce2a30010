"""What each step takes: the same rows however they are served, other shares on the way, rows that are left out, plans that change."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hyena_glt.config import CurriculumConfig, DataConfig, TokenizationConfig, TrainingConfig
from hyena_glt.config.recipe import BatchSizeCurriculum, MixtureWeightsCurriculum, SequenceLengthCurriculum
from hyena_glt.data.batches import TrainingBatches
from hyena_glt.data.mixture import Mixture, open_training
from hyena_glt.objectives import CausalLM
from hyena_glt.tokenizers import build_tokenizer
from hyena_glt.training.feed import Course, Feed
from hyena_glt.training.plan import make_plan
from tests.data.small_folder import random_letters
from tests.tiny_run import write_data

WIDTH, STEPS, ROWS = 16, 30, 8


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    folder, tokenizer = tmp_path_factory.mktemp("data"), build_tokenizer("dna", TokenizationConfig(kind="char"))
    paths = [write_data(folder / name, tokenizer, {"train": random_letters(WIDTH * rows)}, max_length=WIDTH)
             for name, rows in (("a", 60), ("b", 25))]
    return DataConfig(train_path=tuple(map(str, paths)))


def course(
    data: DataConfig, curriculum: CurriculumConfig | None = None, *, world_size: int = 1, skips: list[list[int]] | None = None
) -> Course:
    mixture = open_training(data)
    cfg = TrainingConfig(batch_size=ROWS // world_size, max_steps=STEPS)
    plan = make_plan(cfg, curriculum, world_size=world_size, num_rows=mixture.num_rows, width=WIDTH)
    return Course(plan, mixture, data, 3, skips or [])


def batches_of(mixture: Mixture) -> TrainingBatches:
    return TrainingBatches(mixture, CausalLM(), 3, 4)


def rows_of(one: Course, step: int, world_size: int = 1) -> list[tuple[int, int]]:
    """(Domain, row) of all that a step takes, in the order of the stream."""
    made = batches_of(one.mixture)
    places = [made.places(request) for rank in range(world_size) for request in one.requests(step, rank)]
    return [(int(d), int(r)) for domains, rows in places for d, r in zip(domains, rows, strict=True)]


LENGTHS = SequenceLengthCurriculum(values=(4, 8, 16), at=(7, 19), by="step")
BATCHES = BatchSizeCurriculum(values=(0.5, 1.0), at=(11,), by="step")
SOONER = MixtureWeightsCurriculum(values=((1, 1), (1, 7), (5, 1)), at=(3, 17), by="step")
WEIGHTS = MixtureWeightsCurriculum(values=((1, 1), (1, 7), (5, 1)), at=(5, 17), by="step")


def test_lengths_and_batches_change_no_order(data: DataConfig) -> None:
    plain = [row for step in range(STEPS) for row in rows_of(course(data), step)]
    curriculum = course(data, CurriculumConfig(sequence_length=LENGTHS, batch_size=BATCHES))
    served = [row for step in range(STEPS) for row in rows_of(curriculum, step)]
    assert served == plain[: len(served)] and len(served) == 11 * 4 + 19 * 8
    assert [curriculum.serving(step).sequence_length for step in (0, 6, 7, 18, 19)] == [4, 4, 8, 8, 16]


def test_shares_follow_the_weights_and_no_row_is_lost_or_repeated_at_a_change(data: DataConfig) -> None:
    one = course(data, CurriculumConfig(mixture_weights=WEIGHTS))
    taken = [rows_of(one, step) for step in range(STEPS)]
    for first, last, share in ((0, 5, 1 / 2), (5, 17, 7 / 8), (17, STEPS, 1 / 6)):
        domains = [domain for step in taken[first:last] for domain, _ in step]
        assert np.mean(domains) == pytest.approx(share, abs=0.2), "shares are exact over blocks of rows, each in a seeded order"
        assert one.rows_drawn(last) == [sum(d == domain for step in taken[:last] for d, _ in step) for domain in (0, 1)]
    for domain, size in ((0, 60), (1, 25)):
        mine = [row for step in taken for d, row in step if d == domain]
        epochs = [mine[start : start + size] for start in range(0, len(mine) - size + 1, size)]
        assert all(sorted(epoch) == list(range(size)) for epoch in epochs) and (epochs or domain == 0)


@pytest.mark.parametrize("world_size", [2, 4])
def test_workers_divide_each_step(data: DataConfig, world_size: int) -> None:
    curriculum = CurriculumConfig(sequence_length=LENGTHS, batch_size=BATCHES, mixture_weights=WEIGHTS)
    alone, many = course(data, curriculum), course(data, curriculum, world_size=world_size)
    for step in (0, 4, 5, 10, 11, 18, 29):
        assert rows_of(many, step, world_size) == rows_of(alone, step)


def test_rows_that_are_left_out_never_come(data: DataConfig) -> None:
    curriculum = CurriculumConfig(mixture_weights=WEIGHTS)
    plain, skipping = course(data, curriculum), course(data, curriculum, skips=[[2, 16], [3, 8]])
    assert [rows_of(skipping, step) for step in (0, 1)] == [rows_of(plain, step) for step in (0, 1)]
    assert rows_of(skipping, 2) == rows_of(plain, 4)
    assert skipping.position(3) == plain.position(3) + 24 and skipping.rows_drawn(9) != plain.rows_drawn(9)


def test_a_course_with_another_plan_draws_anew(data: DataConfig) -> None:
    """A plateau moves weights on while the loader has looked ahead in the old plan."""
    first, other = course(data, CurriculumConfig(mixture_weights=WEIGHTS)), course(data, CurriculumConfig(mixture_weights=SOONER))
    assert [first.serving(step) for step in range(STEPS)] != [other.serving(step) for step in range(STEPS)]
    changed = replace(first, plan=other.plan)
    assert [changed.serving(step) for step in range(STEPS)] == [other.serving(step) for step in range(STEPS)]


@pytest.mark.parametrize("num_workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_feed_follows_another_course_from_the_next_step_on(data: DataConfig, num_workers: int) -> None:
    """Loader processes have fetched ahead by then; what they fetched is thrown away."""
    first, second = course(data), course(data, CurriculumConfig(sequence_length=LENGTHS))
    feed = Feed(batches_of(first.mixture), num_workers, False, 0, first, 5)
    made = batches_of(first.mixture)
    wanted = [(first, 5), (first, 6), (second, 7), (second, 8), (first, 2)]
    for number, (one, step) in enumerate(wanted):
        if number in (2, 4):
            feed.follow(one, step)
        (found,), (request,) = feed.next_step(), one.requests(step, 0)
        assert found.inputs.tolist() == made[request].inputs.tolist()
    feed.close()
