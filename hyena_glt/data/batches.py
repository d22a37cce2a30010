"""Training batches as a function of (data, seed, step): rank and world size only choose the slice. Runs on the workers.

Step s takes rows s*G to (s+1)*G of an endless stream (`order`), G rows in the global batch. So a resumed run goes on exactly, also on
another number of workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ..errors import HyenaError
from ..objectives import Example, Objective
from ..tokenizers.base import PAD
from .augment import Augmentation, opposite_strand
from .dataset import Rows, TokenRows, frame
from .mixture import Mixture
from .order import Stream

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


@dataclass(frozen=True, slots=True)
class Batch:
    """An `Example` as tensors: inputs, targets int64 [B, L]; padding bool [B, L]; weights float32 [B, L] or None. Sums stay on the host."""

    inputs: torch.Tensor
    targets: torch.Tensor
    padding: torch.Tensor
    weights: torch.Tensor | None
    num_scored: int
    total_weight: float
    """Sum of the scored positions' weights."""
    domain_tokens: tuple[int, ...]
    """Positions that are not padding, by domain."""

    @classmethod
    def of(cls, example: Example, domains: np.ndarray | None = None, num_domains: int = 1) -> Batch:
        """`domains` int64 [B] says where each row is from; default: all from one."""
        tokens = (~example.padding).sum(axis=1)
        by_domain = np.bincount(np.zeros_like(tokens) if domains is None else domains, tokens, num_domains)
        return cls(
            torch.from_numpy(example.inputs),
            torch.from_numpy(example.targets),
            torch.from_numpy(example.padding),
            None if example.weights is None else torch.from_numpy(example.weights),
            example.num_scored,
            example.total_weight,
            tuple(by_domain.astype(int).tolist()),
        )

    @property
    def num_tokens(self) -> int:
        """Positions that are not padding."""
        return sum(self.domain_tokens)

    def pin_memory(self) -> Batch:
        """Called by torch's DataLoader when pinned memory is asked for."""
        return self._with_tensors(torch.Tensor.pin_memory)

    def to(self, device: torch.device) -> Batch:
        """On `device`, without waiting for the copy when it comes from pinned memory."""
        return self._with_tensors(lambda tensor: tensor.to(device, non_blocking=True))

    def _with_tensors(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        tensors = (self.inputs, self.targets, self.padding, self.weights)
        changed = (None if tensor is None else change(tensor) for tensor in tensors)
        return Batch(*changed, self.num_scored, self.total_weight, self.domain_tokens)


@dataclass(slots=True)
class TrainingBatches(Dataset):
    """Micro-step -> Batch, for one worker."""

    mixture: Mixture
    objective: Objective
    seed: int
    part: Slice
    shuffle_row_groups: int
    augmentation: Augmentation | None = None
    stream: Stream = field(init=False)

    def __post_init__(self) -> None:
        sizes = [rows.group_sizes() for rows in self.mixture.rows]
        self.stream = Stream(sizes, self.mixture.shares, seed=self.seed, window_groups=self.shuffle_row_groups)

    def __getitem__(self, micro_step: int) -> Batch:
        positions = self.part.positions(micro_step)
        domains, numbers = self.stream.rows(positions)
        rows = self.read(domains, numbers, positions)
        rngs = [np.random.default_rng([self.seed, int(p)]) for p in positions]
        return Batch.of(self.objective(rows.ids, rngs, rows.weights), domains, len(self.mixture.rows))

    def read(self, domains: np.ndarray, numbers: np.ndarray, positions: np.ndarray) -> TokenRows:
        """The rows as the model shall see them, [B, width]."""
        if self.augmentation is None:
            rows = self.mixture.tokens(domains, numbers)
        else:
            shifts, turned = self.augmentation.draw(positions)
            rows = opposite_strand(self.mixture.tokens(domains, numbers, shifts), turned, self.mixture.tokenizer)
        return frame(rows) if self.mixture.tokenizer.add_special_tokens else rows


@dataclass(slots=True)
class EvaluationBatches(Dataset):
    """Micro-batch number -> Batch: every row once, in order; all workers get equally many, filled up with empty rows.

    Without weights, so that a loss is of all bases alike and can be compared between runs that weigh them differently.
    """

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
    """The items of `dataset` in `order`, prefetched by `num_workers` processes (0: in this one).

    Close it, or let go of it, to end the processes before the order does.
    """
    sampler = _Stoppable(order)
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=sampler,
        num_workers=num_workers,
        pin_memory=pin_memory,
        multiprocessing_context="spawn" if num_workers else None,  # fork is unsafe once Ray and CUDA threads run
    )
    # Here and not in the generator: it draws from torch's random numbers, which belong to the step once that has begun.
    return _until_closed(iter(loader), sampler)


def _until_closed(batches: Iterator[Batch], sampler: _Stoppable) -> Iterator[Batch]:
    try:
        yield from batches
    except HyenaError as error:  # torch wraps what a process raises in its traceback
        raise type(error)(str(error).rpartition(f"{type(error).__name__}: ")[2].strip()) from None
    except GeneratorExit:
        # A process that ends while it sends a tensor aborts, so those on the way are received first.
        sampler.stopped = True
        for _ in batches:
            pass
        raise


@dataclass(slots=True)
class _Stoppable:
    """An order that can be ended early."""

    order: range
    stopped: bool = False

    def __iter__(self) -> Iterator[int]:
        for number in self.order:
            if self.stopped:
                return
            yield number
