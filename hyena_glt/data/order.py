"""The order of training rows: from places in an endless stream to (domain, row), as a function of the seed. Pure; runs on the workers.

A domain's own rows come epoch after epoch; an epoch is a seeded permutation of row groups, then a seeded permutation of the rows inside
each window of row groups. Several domains are interleaved by their shares. A place can be asked for without those before it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

BLOCK_ROWS = 256
"""About so many places of the stream hold each domain as often as its share says."""


class Shuffle:
    """From places in one domain's stream to row numbers; keeps the current epoch's order and the current window's rows."""

    def __init__(
        self, group_sizes: np.ndarray, *, seed: int, window_groups: int, domain: int = 0, admitted: np.ndarray | None = None
    ) -> None:
        """`admitted` bool [rows] leaves out the others; default: all are in."""
        self._first_rows = np.concatenate([[0], np.cumsum(group_sizes)])
        self._admitted = admitted
        sizes = group_sizes if admitted is None else np.array([len(self._rows_of(group)) for group in range(len(group_sizes))], np.int64)
        self.num_rows = int(sizes.sum())
        self._sizes, self._seed, self._domain, self._window_groups = sizes, seed, domain, window_groups
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
        self._order = np.random.default_rng([self._seed, epoch, 0, self._domain]).permutation(len(self._sizes))
        starts = np.concatenate([[0], np.cumsum(self._sizes[self._order])])
        self._window_starts = starts[: -1 : self._window_groups].copy()  # of one in so many, and not a view that keeps all
        self._epoch = epoch

    def _draw_window(self, epoch: int, window: int) -> None:
        """Row numbers of one window in their shuffled order."""
        groups = self._order[window * self._window_groups : (window + 1) * self._window_groups]
        rows = np.concatenate([self._rows_of(group) for group in groups])
        self._window_rows = np.random.default_rng([self._seed, epoch, window, self._domain]).permutation(rows)
        self._window = (epoch, window)

    def _rows_of(self, group: int) -> np.ndarray:
        """Numbers of a row group's rows that are in."""
        rows = np.arange(self._first_rows[group], self._first_rows[group + 1])
        return rows if self._admitted is None else rows[self._admitted[rows]]


class Interleave:
    """Which domain each place of the stream draws from, by shares float64 [D] that sum to 1.

    After b blocks domain d was drawn round(b * BLOCK_ROWS * share_d) times: never more than half a row from its share, however
    long the run. So a block has BLOCK_ROWS places give or take D; inside it the domains stand in a seeded order.
    """

    def __init__(self, shares: np.ndarray, *, seed: int) -> None:
        self._shares, self._seed = shares, seed
        self._first = self._end = 0

    def at(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The domain at each of `positions`, and the place in that domain's own stream, int64 each."""
        found = np.array([self._at(int(position)) for position in positions], np.int64).reshape(-1, 2)
        return found[:, 0], found[:, 1]

    def drawn(self, position: int) -> np.ndarray:
        """Rows of each domain among the first `position` places, int64 [D]."""
        self._find(position)
        return self._before(self._block) + np.bincount(self._domains[: position - self._first], minlength=len(self._shares))

    def _at(self, position: int) -> tuple[int, int]:
        self._find(position)
        return self._domains[position - self._first], self._places[position - self._first]

    def _find(self, position: int) -> None:
        """Make the block that holds `position` the current one."""
        if self._first <= position < self._end:
            return
        block = position // BLOCK_ROWS
        while self._before(block).sum() > position:
            block -= 1
        while self._before(block + 1).sum() <= position:
            block += 1
        self._draw_block(block)

    def _before(self, block: int) -> np.ndarray:
        """Rows of each domain in the blocks before `block`, int64 [D]."""
        return np.floor(block * BLOCK_ROWS * self._shares + 0.5).astype(np.int64)

    def _draw_block(self, block: int) -> None:
        before, after = self._before(block), self._before(block + 1)
        rng = np.random.default_rng([self._seed, block, 0, 0, 1])
        self._domains = rng.permutation(np.repeat(np.arange(len(before)), after - before))
        self._places = np.empty_like(self._domains)
        for domain, first in enumerate(before):
            self._places[self._domains == domain] = np.arange(first, after[domain])
        self._block, self._first, self._end = block, int(before.sum()), int(after.sum())


class Stream:
    """From places in the stream of all domains to rows: the domains interleaved, each in its own shuffled order."""

    def __init__(
        self, group_sizes: list[np.ndarray], shares: np.ndarray, *, seed: int, window_groups: int,
        domain_rows: Sequence[int] | None = None, admitted: list[np.ndarray] | None = None,
    ) -> None:
        """`domain_rows` are places of each domain's own stream that were taken before; `admitted` is as in `Shuffle`, for each domain."""
        self._interleave = Interleave(shares, seed=seed)
        self._domain_rows = np.zeros(len(shares), np.int64) if domain_rows is None else np.array(domain_rows, np.int64)
        # NumPy pads a seed with zeros, so the first domain's order does not depend on whether there are others.
        self._shuffles = [
            Shuffle(sizes, seed=seed, window_groups=window_groups, domain=d, admitted=None if admitted is None else admitted[d])
            for d, sizes in enumerate(group_sizes)
        ]

    def rows(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Domain and row number in it at each of `positions`, int64 each."""
        domains, places = self._interleave.at(positions)
        places += self._domain_rows[domains]
        rows = np.empty_like(places)
        for domain in np.unique(domains):
            rows[domains == domain] = self._shuffles[domain].rows(places[domains == domain])
        return domains, rows
