"""The micro-batches of each step, in the order of the plan, also when the plan changes on the way. Runs on the workers."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

import numpy as np

from ..config.tree import DataConfig
from ..data.batches import Batch, Request, Serving, Slice, TrainingBatches, load
from ..data.mixture import Mixture, row_shares
from ..data.order import Interleave
from .plan import Plan
from .timeline import Stretch

Skips = Sequence[Sequence[int]]
"""(step, rows): after that many steps, so many rows of the stream were left out."""


@dataclass(frozen=True, slots=True)
class Course:
    """Where in the stream each step takes its rows, and how these are served."""

    plan: Plan
    mixture: Mixture
    data: DataConfig
    seed: int
    skips: Skips = ()
    _draws: dict[int, Serving] = field(default_factory=dict, init=False, compare=False)
    """By stretch of this plan; worked out once."""

    def position(self, step: int) -> int:
        """Place in the stream of the first row of the step after `step` done ones."""
        return self.plan.rows_before(step) + sum(rows for at, rows in self.skips if at <= step)

    def requests(self, step: int, rank: int) -> list[Request]:
        """What a worker takes in the micro-steps of a step."""
        batch_size, micro_steps = self.plan.micro_batch(self.plan.stretch(step).rows)
        part, first, serving = Slice(rank, self.plan.world_size, batch_size, micro_steps), self.position(step), self.serving(step)
        return [part.within(first, micro, serving) for micro in range(micro_steps)]

    def serving(self, step: int) -> Serving:
        """How the rows of a step are drawn and served."""
        stretch = self.plan.stretch(step)
        return replace(self._draw(stretch), sequence_length=stretch.sequence_length, mask_probability=stretch.mask_probability)

    def rows_drawn(self, step: int) -> list[int]:
        """Rows that each domain gave to the steps before `step`."""
        if step == 0:
            return [0] * len(self.mixture.rows)
        serving = self._draw(self.plan.stretch(step - 1))
        return self._after(serving, self.position(step))

    def _draw(self, stretch: Stretch) -> Serving:
        """How the rows of a stretch are drawn.

        Consecutive stretches that draw alike are one, so that a change of length, batch or masking leaves the order as it was.
        """
        stretches = self.plan.timeline.stretches
        first = stretches.index(stretch)
        while first and _drawn_alike(stretches[first - 1], stretch):
            first -= 1
        if first not in self._draws:
            self._draws[first] = self._open_draw(stretches[first], stretches[first - 1] if first else None)
        return self._draws[first]

    def _open_draw(self, stretch: Stretch, before: Stretch | None) -> Serving:
        place = self.position(stretch.first_step) if before else 0
        return Serving(
            first_row=place, domain_rows=tuple(self._after(self._draw(before), place)) if before else None,
            shares=self._shares(stretch), difficulty=stretch.difficulty,
        )

    def _after(self, serving: Serving, position: int) -> list[int]:
        """Rows that each domain gave before a place in the stream that `serving` reaches."""
        shares = self.mixture.shares if serving.shares is None else np.array(serving.shares)
        drawn = Interleave(shares, seed=self.seed).drawn(position - serving.first_row)
        return (drawn + (0 if serving.domain_rows is None else np.array(serving.domain_rows))).tolist()

    def _shares(self, stretch: Stretch) -> tuple[float, ...] | None:
        if stretch.mixture_weights is None:
            return None
        return tuple(row_shares(self.mixture.domains, replace(self.data, mixture_weights=stretch.mixture_weights)).tolist())


def _drawn_alike(a: Stretch, b: Stretch) -> bool:
    return (a.difficulty, a.mixture_weights) == (b.difficulty, b.mixture_weights)


@dataclass(slots=True)
class Feed:
    """Prefetched micro-batches of one worker, from a step on.

    The loader is never started anew when the course changes: requests that are on their way by then are thrown away.
    """

    dataset: TrainingBatches
    num_workers: int
    """Loader processes."""
    pin_memory: bool
    rank: int
    course: Course
    step: int
    _asked: deque[Request] = field(default_factory=deque)
    _requests: Iterator[Request] = field(init=False)
    _batches: Iterator[Batch] = field(init=False)

    def __post_init__(self) -> None:
        self._requests = self._requests_from(self.step)
        self._batches = load(self.dataset, self._order(), num_workers=self.num_workers, pin_memory=self.pin_memory)

    def next_step(self) -> list[Batch]:
        """The micro-batches of the next step."""
        wanted = self.course.requests(self.step, self.rank)
        self.step += 1
        return [self._get(request) for request in wanted]

    def follow(self, course: Course, step: int) -> None:
        """Go on with `step` of another course."""
        self.course, self.step = course, step
        self._requests = self._requests_from(step)

    def close(self) -> None:
        """End the loader's processes."""
        del self._batches

    def _get(self, wanted: Request) -> Batch:
        while True:
            batch = next(self._batches)
            if self._asked.popleft() == wanted:
                return batch

    def _order(self) -> Iterator[Request]:
        """What the loader is asked for, as far ahead as it likes."""
        while True:
            request = next(self._requests)
            self._asked.append(request)
            yield request

    def _requests_from(self, step: int) -> Iterator[Request]:
        for later in count(step):
            yield from self.course.requests(later, self.rank)
