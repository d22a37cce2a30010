"""Training batches as a function of (data, seed, step): rank and world size only choose the slice. Runs on the workers.

Step s takes the rows of an endless stream (`order`) that follow on those of step s - 1, s*G to (s+1)*G for G rows in each global batch.
So a resumed run goes on exactly, also on another number of workers. Serving rows shorter cuts each of them and changes no order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ..errors import HyenaError
from ..objectives import Example, Objective
from ..tokenizers.base import PAD
from .augment import Augmentation, opposite_strand
from .dataset import Rows, TokenRows, cut_rows, frame
from .difficulty import read_ranks
from .mixture import Mixture
from .order import Stream
from .storage import Location

EVAL_SEED = 20_000
"""Masks of an evaluation are the same every time, so that two losses can be compared."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Serving:
    """How rows are drawn from the stream and served, for a part of a run; None: as the data and the objective say."""

    first_row: int = 0
    """Place in the stream from which on rows are drawn like this."""
    domain_rows: tuple[int, ...] | None = None
    """Rows that each domain gave before that place; None: 0."""
    shares: tuple[float, ...] | None = None
    """Share of the rows drawn from each domain."""
    difficulty: float | None = None
    """Share of each domain's rows that are drawn, the easiest first."""
    sequence_length: int | None = None
    """Tokens, without specials, into which each row is cut; the pieces become rows of the batch."""
    mask_probability: float | None = None


PLAIN = Serving()
"""From the first row of the stream on, everything as the data and the objective say."""


@dataclass(frozen=True, slots=True)
class Request:
    """The rows of one micro-step of one worker: `num_rows` places of the stream from `first_row` on."""

    first_row: int
    num_rows: int
    serving: Serving = PLAIN

    @property
    def positions(self) -> np.ndarray:
        """Places in the stream, int64 [num_rows]."""
        return np.arange(self.first_row, self.first_row + self.num_rows)


@dataclass(frozen=True, slots=True)
class Slice:
    """The part of each global batch that one worker takes, in micro-steps, where all global batches are alike."""

    rank: int
    world_size: int
    batch_size: int
    accumulation_steps: int

    @property
    def global_rows(self) -> int:
        return self.world_size * self.batch_size * self.accumulation_steps

    def request(self, micro_step: int, serving: Serving = PLAIN) -> Request:
        """What a micro-step takes, counted from the start of the run."""
        step, micro = divmod(micro_step, self.accumulation_steps)
        return self.within(step * self.global_rows, micro, serving)

    def within(self, first_row: int, micro: int, serving: Serving) -> Request:
        """What a micro-step of the global batch that begins at `first_row` takes."""
        return Request(first_row + (micro * self.world_size + self.rank) * self.batch_size, self.batch_size, serving)


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
    """Request -> Batch."""

    mixture: Mixture
    objective: Objective
    seed: int
    shuffle_row_groups: int
    augmentation: Augmentation | None = None
    difficulty: Location | None = None
    """What `difficulty.write_ranks` wrote; needed where a serving draws by difficulty."""
    _streams: dict[Serving, Stream] = field(default_factory=dict)

    def __getitem__(self, request: Request) -> Batch:
        positions = request.positions
        domains, numbers = self.places(request)
        rows, pieces = self.read(request, domains, numbers)
        rngs = [np.random.default_rng([self.seed, int(position), piece]) for position in positions for piece in range(pieces)]
        example = self._objective(request.serving)(rows.ids, rngs, rows.weights)
        return Batch.of(example, np.repeat(domains, pieces), len(self.mixture.rows))

    def places(self, request: Request) -> tuple[np.ndarray, np.ndarray]:
        """Domain and row number in it of each row that is drawn, int64 [B] each."""
        return self.stream(request.serving).rows(request.positions - request.serving.first_row)

    def read(self, request: Request, domains: np.ndarray, numbers: np.ndarray) -> tuple[TokenRows, int]:
        """(The rows as the model shall see them, [B * pieces, tokens], pieces of each row)."""
        rows, pieces = cut(self._augmented(domains, numbers, request.positions), request.serving.sequence_length)
        return (frame(rows) if self.mixture.tokenizer.add_special_tokens else rows), pieces

    def stream(self, serving: Serving) -> Stream:
        """The stream that a serving draws from; only the last one is kept."""
        if serving not in self._streams:
            self._streams = {serving: self._open_stream(serving)}
        return self._streams[serving]

    def _open_stream(self, serving: Serving) -> Stream:
        admitted = None
        if serving.difficulty is not None and self.difficulty is not None:
            admitted = [ranks < serving.difficulty for ranks in read_ranks(self.difficulty)]
        return Stream(
            [rows.group_sizes() for rows in self.mixture.rows], self.mixture.shares if serving.shares is None else np.array(serving.shares),
            seed=self.seed, window_groups=self.shuffle_row_groups, domain_rows=serving.domain_rows, admitted=admitted,
        )

    def _objective(self, serving: Serving) -> Objective:
        if serving.mask_probability is None:
            return self.objective
        return replace(self.objective, mask_probability=serving.mask_probability)

    def _augmented(self, domains: np.ndarray, numbers: np.ndarray, positions: np.ndarray) -> TokenRows:
        """The rows whole and without specials, [B, piece_length]."""
        if self.augmentation is None:
            return self.mixture.tokens(domains, numbers)
        shifts, turned = self.augmentation.draw(positions)
        return opposite_strand(self.mixture.tokens(domains, numbers, shifts), turned, self.mixture.tokenizer)


def cut(rows: TokenRows, length: int | None) -> tuple[TokenRows, int]:
    """(The rows cut into rows of `length` tokens, pieces of each row); as they are where None or not shorter."""
    width = rows.ids.shape[1]
    if length is None or length >= width:
        return rows, 1
    weights = None if rows.weights is None else cut_rows(rows.weights, length)
    return TokenRows(cut_rows(rows.ids, length), weights), -(-width // length)


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


def load(dataset: Dataset, order: Iterable[Any], *, num_workers: int = 0, pin_memory: bool = False) -> Iterator[Batch]:
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

    order: Iterable[Any]
    stopped: bool = False

    def __iter__(self) -> Iterator[Any]:
        for key in self.order:
            if self.stopped:
                return
            yield key
