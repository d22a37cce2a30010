"""Training batches as a function of (data, seed, step): rank and world size only choose the slice. Runs on the workers.

Step s takes rows s*G to (s+1)*G of an endless stream, G rows in the global batch. The stream is one epoch after another; an
epoch is a seeded permutation of row groups, then a seeded permutation of the rows inside each window of row groups. So a
resumed run goes on exactly, also on another number of workers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ..objectives import Example, Objective
from ..tokenizers.base import PAD
from .dataset import Rows

EVAL_SEED = 20_000
"""Masks of an evaluation are the same every time, so that two losses can be compared."""


@dataclass(frozen=True, slots=True)
class Slice:
    """The part of each global batch that one worker takes, in micro-steps."""

    rank: int
    world_size: int
    batch_size: int
    accumulation_steps: int

    @property
    def global_rows(self) -> int:
        return self.world_size * self.batch_size * self.accumulation_steps

    def positions(self, micro_step: int) -> np.ndarray:
        """Places in the stream, int64 [batch_size], of a micro-step counted from the start of the run."""
        step, micro = divmod(micro_step, self.accumulation_steps)
        start = step * self.global_rows + (micro * self.world_size + self.rank) * self.batch_size
        return np.arange(start, start + self.batch_size)


class Shuffle:
    """From places in the stream to row numbers; keeps the current epoch's order and the current window's rows."""

    def __init__(self, group_sizes: np.ndarray, *, seed: int, window_groups: int) -> None:
        self.num_rows = int(group_sizes.sum())
        self._sizes, self._seed, self._window_groups = group_sizes, seed, window_groups
        self._first_rows = np.concatenate([[0], np.cumsum(group_sizes)])
        self._epoch, self._window = -1, (-1, -1)

    def rows(self, positions: np.ndarray) -> np.ndarray:
        """Row numbers, int64, at `positions` of the endless stream."""
        return np.array([self._row(*divmod(int(position), self.num_rows)) for position in positions], np.int64)

    def _row(self, epoch: int, place: int) -> int:
        if epoch != self._epoch:
            self._draw_epoch(epoch)
        window = int(np.searchsorted(self._window_starts, place, side="right")) - 1
        if (epoch, window) != self._window:
            self._draw_window(epoch, window)
        return int(self._window_rows[place - self._window_starts[window]])

    def _draw_epoch(self, epoch: int) -> None:
        """Order of the row groups, and the place at which each window of them starts."""
        self._order = np.random.default_rng([self._seed, epoch]).permutation(len(self._sizes))
        starts = np.concatenate([[0], np.cumsum(self._sizes[self._order])])
        self._window_starts = starts[: -1 : self._window_groups]
        self._epoch = epoch

    def _draw_window(self, epoch: int, window: int) -> None:
        """Row numbers of one window in their shuffled order."""
        groups = self._order[window * self._window_groups : (window + 1) * self._window_groups]
        rows = np.concatenate([np.arange(self._first_rows[g], self._first_rows[g + 1]) for g in groups])
        self._window_rows = np.random.default_rng([self._seed, epoch, window]).permutation(rows)
        self._window = (epoch, window)


@dataclass(frozen=True, slots=True)
class Batch:
    """An `Example` as tensors: inputs, targets int64 [B, L]; padding bool [B, L]; the counts stay on the host."""

    inputs: torch.Tensor
    targets: torch.Tensor
    padding: torch.Tensor
    num_scored: int
    num_tokens: int

    @classmethod
    def of(cls, example: Example) -> Batch:
        return cls(
            torch.from_numpy(example.inputs),
            torch.from_numpy(example.targets),
            torch.from_numpy(example.padding),
            example.num_scored,
            example.num_tokens,
        )

    def pin_memory(self) -> Batch:
        """Called by torch's DataLoader when pinned memory is asked for."""
        pinned = (tensor.pin_memory() for tensor in (self.inputs, self.targets, self.padding))
        return Batch(*pinned, self.num_scored, self.num_tokens)

    def to(self, device: torch.device) -> Batch:
        """On `device`, without waiting for the copy when it comes from pinned memory."""
        moved = (tensor.to(device, non_blocking=True) for tensor in (self.inputs, self.targets, self.padding))
        return Batch(*moved, self.num_scored, self.num_tokens)


@dataclass(slots=True)
class TrainingBatches(Dataset):
    """Micro-step -> Batch, for one worker."""

    rows: Rows
    objective: Objective
    seed: int
    part: Slice
    shuffle_row_groups: int
    _shuffle: Shuffle = field(init=False)

    def __post_init__(self) -> None:
        self._shuffle = Shuffle(self.rows.group_sizes(), seed=self.seed, window_groups=self.shuffle_row_groups)

    def __getitem__(self, micro_step: int) -> Batch:
        positions = self.part.positions(micro_step)
        ids = self.rows.read(self._shuffle.rows(positions))
        return Batch.of(self.objective(ids, [np.random.default_rng([self.seed, int(p)]) for p in positions]))


@dataclass(slots=True)
class EvaluationBatches(Dataset):
    """Micro-batch number -> Batch: every row once, in order; all workers get equally many, filled up with empty rows."""

    rows: Rows
    objective: Objective
    batch_size: int
    rank: int = 0
    world_size: int = 1
    max_rows: int | None = None

    @property
    def num_rows(self) -> int:
        """Rows that are read, from the start of the split."""
        return min(self.rows.num_rows, self.max_rows or self.rows.num_rows)

    def __len__(self) -> int:
        return -(-self.num_rows // (self.batch_size * self.world_size))

    def __getitem__(self, number: int) -> Batch:
        start = (number * self.world_size + self.rank) * self.batch_size
        wanted = np.arange(start, start + self.batch_size)
        inside = wanted[wanted < self.num_rows]
        ids = np.full((self.batch_size, self.rows.width), PAD, np.uint16)
        if len(inside):
            ids[: len(inside)] = self.rows.read(inside)
        objective = self.objective.for_evaluation()
        return Batch.of(objective(ids, [np.random.default_rng([EVAL_SEED, int(row)]) for row in wanted]))


def load(dataset: Dataset, order: range, *, num_workers: int = 0, pin_memory: bool = False) -> Iterator[Batch]:
    """The items of `dataset` in `order`, prefetched by `num_workers` processes (0: in this one)."""
    return iter(
        DataLoader(
            dataset,
            batch_size=None,
            sampler=order,
            num_workers=num_workers,
            pin_memory=pin_memory,
            multiprocessing_context="spawn" if num_workers else None,  # fork is unsafe once Ray and CUDA threads run
        )
    )
