"""Batches are a function of (data, seed, step): workers, micro-batches, processes and restarts choose only who computes what."""

from __future__ import annotations

import multiprocessing
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hyena_glt.config import DataConfig, TokenizationConfig
from hyena_glt.data.batches import PLAIN, Batch, EvaluationBatches, Serving, Slice, TrainingBatches, load
from hyena_glt.data.dataset import open_rows
from hyena_glt.data.mixture import open_training
from hyena_glt.data.order import Shuffle
from hyena_glt.errors import DataError
from hyena_glt.objectives import IGNORE, CausalLM, MaskedLM, Objective
from hyena_glt.tokenizers.base import MASK
from tests.data.micro_steps import MicroSteps
from tests.data.small_folder import random_letters, write_folder

MASKED, CAUSAL = MaskedLM(0.3, vocab_size=4), CausalLM()
WIDTH, NUM_ROWS = 16, 37


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """37 full rows in 13 row groups of three shards."""
    letters = random_letters(WIDTH * NUM_ROWS)
    return write_folder(tmp_path_factory.mktemp("data") / "out", {"a": letters}, max_length=WIDTH, rows_per_group=3, rows_per_shard=14)


def training(
    folder: Path, part: Slice, *, objective: Objective = MASKED, seed: int = 5, window_groups: int = 4, length: int | None = None,
    serving: Serving = PLAIN,
) -> MicroSteps:
    mixture = open_training(DataConfig(train_path=str(folder), sequence_length=length))
    return MicroSteps(TrainingBatches(mixture, objective, seed, window_groups), part, serving)


def equal(one: Batch, two: Batch) -> bool:
    tensors = all(torch.equal(getattr(one, name), getattr(two, name)) for name in ("inputs", "targets", "padding"))
    return tensors and (one.num_scored, one.total_weight, one.num_tokens) == (two.num_scored, two.total_weight, two.num_tokens)


def slices(world_size: int, batch_size: int, accumulation_steps: int) -> list[Slice]:
    return [Slice(rank, world_size, batch_size, accumulation_steps) for rank in range(world_size)]


def global_batch(folder: Path, parts: list[Slice], step: int) -> Batch:
    """What all workers compute in one optimizer step, in the order of the stream."""
    workers, steps = [training(folder, part) for part in parts], parts[0].accumulation_steps
    made = [worker[step * steps + micro] for micro in range(steps) for worker in workers]
    tensors = [torch.cat([getattr(batch, name) for batch in made]) for name in ("inputs", "targets", "padding")]
    scored, weight, tokens = (sum(getattr(batch, name) for batch in made) for name in ("num_scored", "total_weight", "num_tokens"))
    return Batch(*tensors, None, scored, weight, (tokens,))


@given(
    shape=st.sampled_from([(1, 12, 1), (1, 3, 4), (2, 6, 1), (3, 2, 2), (12, 1, 1), (4, 1, 3)]),
    step=st.integers(0, 9),
)
def test_the_workers_divide_a_global_batch_without_gap_or_repeat(shape, step):
    parts = slices(*shape)
    assert {part.global_rows for part in parts} == {12}
    micro_steps = range(step * shape[2], (step + 1) * shape[2])
    places = np.concatenate([part.request(micro).positions for micro in micro_steps for part in parts])
    assert places.tolist() == list(range(12 * step, 12 * (step + 1)))


@pytest.mark.parametrize("shape", [(1, 4, 3), (2, 6, 1), (3, 2, 2), (4, 3, 1)])
def test_workers_and_micro_batches_do_not_change_a_global_batch(folder, shape):
    for step in (0, 3, 7):  # 37 rows: the fourth and eighth batch hold rows of two epochs
        wanted = global_batch(folder, slices(1, 12, 1), step)
        assert wanted.num_scored > 0
        assert equal(global_batch(folder, slices(*shape), step), wanted)


def test_a_run_that_goes_on_with_other_workers_sees_the_rows_that_it_had_not_seen(folder):
    """All rows of three epochs: four steps on two workers, then the rest on three, each after a restart."""
    rows = open_rows(str(folder), "train")
    numbers = {row.tobytes(): number for number, row in enumerate(rows.read(np.arange(NUM_ROWS)).astype(np.int64))}
    assert len(numbers) == NUM_ROWS
    seen = []
    for parts, steps in ((slices(2, 3, 2), range(4)), (slices(3, 4, 1), range(4, 9)), (slices(1, 2, 6), range(9, 10))):
        workers, micro_steps = [training(folder, part, objective=CAUSAL) for part in parts], parts[0].accumulation_steps
        for micro in range(steps.start * micro_steps, steps.stop * micro_steps):
            seen += [numbers[row.tobytes()] for worker in workers for row in worker[micro].inputs.numpy()]
    assert [sorted(seen[e * NUM_ROWS : (e + 1) * NUM_ROWS]) for e in range(3)] == [list(range(NUM_ROWS))] * 3


def chosen(batches: MicroSteps, micro_step: int) -> torch.Tensor:
    return batches[micro_step].targets != IGNORE


def test_masks_depend_on_seed_and_place_alone(folder):
    whole = Slice(0, 1, 12, 1)
    batches, other_order = training(folder, whole), training(folder, whole, window_groups=1)
    assert not torch.equal(batches[2].inputs, other_order[2].inputs), "other rows stand there"
    assert torch.equal(chosen(batches, 2), chosen(other_order, 2))
    assert not torch.equal(chosen(batches, 2), chosen(batches, 3))
    assert not torch.equal(chosen(batches, 2), chosen(training(folder, whole, seed=6), 2))


def test_a_row_is_masked_anew_in_each_epoch(folder):
    batches = training(folder, Slice(0, 1, NUM_ROWS, 1))  # a batch is an epoch
    stored = batches.batches.mixture.rows[0]
    order = Shuffle(stored.group_sizes(), seed=5, window_groups=4).rows(np.arange(2 * NUM_ROWS)).reshape(2, NUM_ROWS)
    first, second = (chosen(batches, epoch)[np.argsort(order[epoch])] for epoch in (0, 1))
    rows = torch.from_numpy(stored.read(order[1]).astype(np.int64))
    assert (batches[1].targets[chosen(batches, 1)] == rows[chosen(batches, 1)]).all(), "the order is the one that was used"
    assert (first != second).any(dim=1).sum() > NUM_ROWS - 2
    assert (chosen(batches, 0) != chosen(batches, 1)).any(dim=1).sum() > NUM_ROWS - 2, "nor is it the place in the epoch that decides"


def test_batches_survive_pickling(folder):
    batches = training(folder, Slice(1, 2, 3, 2))
    wanted = [batches[micro] for micro in (7, 8)]
    copy = pickle.loads(pickle.dumps(batches))
    assert all(equal(copy[micro], batch) for micro, batch in zip((7, 8), wanted, strict=True))


@pytest.mark.slow
def test_loader_processes_give_the_same_batches(folder):
    batches, order = training(folder, Slice(0, 2, 3, 2)), range(3, 10)
    wanted = list(load(batches, order))
    assert len(wanted) == 7 and equal(wanted[0], batches[3])
    assert all(equal(one, two) for one, two in zip(load(batches, order, num_workers=2), wanted, strict=True))


def test_a_batch_counts_what_it_holds(folder):
    batch = training(folder, Slice(0, 1, 8, 1))[0]
    assert (batch.inputs.dtype, batch.targets.dtype, batch.padding.dtype) == (torch.int64, torch.int64, torch.bool)
    assert batch.inputs.shape == batch.targets.shape == batch.padding.shape == (8, WIDTH)
    assert batch.num_scored == (batch.targets != IGNORE).sum() and batch.num_tokens == 8 * WIDTH
    moved = batch.to(torch.device("cpu"))
    assert equal(moved, batch)


def evaluated(folder: Path, world_size: int, batch_size: int, objective: Objective, length: int | None = None) -> list[Batch]:
    rows = open_rows(str(folder), "train", length)
    ranks = [EvaluationBatches(rows, objective, batch_size, rank, world_size) for rank in range(world_size)]
    assert len({len(batches) for batches in ranks}) == 1, "collective calls need equally many batches on each rank"
    return [batches[number] for number in range(len(ranks[0])) for batches in ranks]


@pytest.mark.parametrize("world_size, batch_size", [(1, 5), (2, 4), (3, 4), (4, 10), (1, 50), (5, 8)])
def test_an_evaluation_covers_every_row_once(folder, world_size, batch_size):
    made = evaluated(folder, world_size, batch_size, MASKED)
    inputs, targets, padding = (torch.cat([getattr(batch, name) for batch in made]) for name in ("inputs", "targets", "padding"))
    single = EvaluationBatches(open_rows(str(folder), "train"), MASKED, NUM_ROWS)[0]
    assert torch.equal(inputs[:NUM_ROWS], single.inputs) and torch.equal(targets[:NUM_ROWS], single.targets)
    rows = torch.from_numpy(open_rows(str(folder), "train").read(np.arange(NUM_ROWS)).astype(np.int64))
    assert torch.equal(torch.where(targets == IGNORE, inputs, targets)[:NUM_ROWS], rows)
    assert ((inputs == MASK) == (targets != IGNORE)).all(), "what is predicted is hidden"
    assert padding[NUM_ROWS:].all() and not padding[:NUM_ROWS].any() and (targets[NUM_ROWS:] == IGNORE).all()
    assert sum(batch.num_scored for batch in made) == single.num_scored > 0
    assert sum(batch.num_tokens for batch in made) == NUM_ROWS * WIDTH
    assert len(inputs) < NUM_ROWS + world_size * batch_size, "no more empty rows than the last round needs"


@pytest.mark.parametrize("max_rows, covered", [(1, 1), (10, 10), (36, 36), (100, NUM_ROWS), (None, NUM_ROWS)])
def test_an_evaluation_may_be_limited_to_the_first_rows(folder, max_rows, covered):
    rows = open_rows(str(folder), "train")
    for world_size in (1, 3):
        ranks = [EvaluationBatches(rows, CAUSAL, 4, rank, world_size, max_rows) for rank in range(world_size)]
        inputs = torch.cat([batches[number].inputs for number in range(len(ranks[0])) for batches in ranks])
        assert inputs[:covered].tolist() == rows.read(np.arange(covered)).tolist() and not inputs[covered:].any()
        assert len(inputs) < covered + 4 * world_size


def test_an_evaluation_counts_every_base_of_cut_rows_once(folder):
    whole, cut = evaluated(folder, 2, 3, CAUSAL), evaluated(folder, 2, 3, CAUSAL, length=5)
    assert sum(batch.num_tokens for batch in cut) == sum(batch.num_tokens for batch in whole) == NUM_ROWS * WIDTH
    assert sum(batch.num_scored for batch in whole) == NUM_ROWS * (WIDTH - 1)
    assert sum(batch.num_scored for batch in cut) == NUM_ROWS * (4 + 4 + 4 + 0), "the first token of each piece is context only"


def test_specials_frame_the_tokens_of_a_batch(tmp_path):
    folder = write_folder(
        tmp_path / "out", {"a": b"ACGTA"}, max_length=8, tokenization=TokenizationConfig(kind="char", add_special_tokens=True)
    )
    batch = training(folder, Slice(0, 1, 1, 1), objective=CAUSAL)[0]
    assert batch.inputs.tolist() == [[2, 5, 6, 7, 8, 5, 3, 0, 0, 0]]
    assert batch.targets.tolist() == [[5, 6, 7, 8, 5] + [IGNORE] * 5]
    assert batch.padding.tolist() == [[False] * 7 + [True] * 3] and batch.num_tokens == 7


@pytest.mark.slow
def test_loader_processes_end_with_what_reads_them_and_pass_on_our_sentences(folder, tmp_path):
    batches = training(folder, Slice(0, 1, 4, 1))
    stream = load(batches, range(10**6), num_workers=1)
    assert equal(next(stream), batches[0]) and equal(next(stream), batches[1])
    stream.close()
    assert not [child for child in multiprocessing.active_children() if child.is_alive()]

    damaged = shutil.copytree(folder, tmp_path / "out")
    for shard in damaged.glob("train/*.parquet"):
        content = bytearray(shard.read_bytes())
        content[4:400] = bytes(396)
        shard.write_bytes(content)
    with pytest.raises(DataError) as caught:
        list(load(training(damaged, Slice(0, 1, 4, 1)), range(10), num_workers=1))
    assert str(caught.value).startswith(f"{damaged}/train/part-") and "Traceback" not in str(caught.value)


def test_rows_are_cut_into_shorter_ones_and_masked_piece_by_piece(folder):
    whole = training(folder, Slice(0, 1, 6, 1), objective=CAUSAL)[2]
    for length, pieces in ((8, 2), (5, 4), (16, 1), (100, 1)):
        batch = training(folder, Slice(0, 1, 6, 1), objective=CAUSAL, serving=Serving(sequence_length=length))[2]
        assert batch.inputs.shape == (6 * pieces, min(length, WIDTH))
        assert batch.inputs[~batch.padding].tolist() == whole.inputs.flatten().tolist() and batch.num_tokens == whole.num_tokens
    masked = training(folder, Slice(0, 1, 6, 1), serving=Serving(sequence_length=8))
    halves = (masked[2].targets != IGNORE).view(6, 2, 8)
    assert not torch.equal(halves[:, 0], halves[:, 1]), "each piece is masked by a draw of its own"


def test_a_serving_may_mask_more(folder):
    shares = [training(folder, Slice(0, 1, NUM_ROWS, 1), serving=Serving(mask_probability=p))[0].num_scored for p in (0.1, 0.3, 0.6)]
    usual = training(folder, Slice(0, 1, NUM_ROWS, 1))[0].num_scored
    assert shares[0] < shares[1] == usual < shares[2]
