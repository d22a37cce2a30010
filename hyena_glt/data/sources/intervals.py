"""Labelled intervals on one sequence, and set operations on stretches of bases, as whole arrays.

Positions are bases, 0-based and half-open. A `Stretches` pair is disjoint and ascending. Suffixes: K intervals, W windows, P pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

Stretches = tuple[np.ndarray, np.ndarray]
"""Starts and ends, int64: disjoint, ascending, none empty."""


@dataclass(frozen=True, eq=False)
class Intervals:
    """Intervals that may overlap, sorted by start, then end."""

    start_K: np.ndarray
    end_K: np.ndarray
    """int64, above the start: no interval is empty."""
    strand_K: np.ndarray
    """int8: 1 plus, -1 minus, 0 unknown."""
    label_K: tuple[str, ...]
    """An empty string where an interval has no label."""

    def __len__(self) -> int:
        return len(self.start_K)

    def num_beyond(self, length: int) -> int:
        """How many intervals end behind a sequence of this many bases, as those over the origin of a circular one do."""
        return int(np.count_nonzero(self.end_K > length))

    @cached_property
    def reach_K(self) -> np.ndarray:
        """The last base that an interval or one before it reaches, plus 1; ascending, so that it can be searched."""
        return np.maximum.accumulate(self.end_K)

    @cached_property
    def codes(self) -> tuple[tuple[str, ...], np.ndarray]:
        """The distinct labels in order, and the number of each interval's label among them [K]."""
        names = tuple(sorted(set(self.label_K)))
        number = {name: code for code, name in enumerate(names)}
        return names, np.fromiter(map(number.__getitem__, self.label_K), np.int64, len(self))


def union(start_K: np.ndarray, end_K: np.ndarray) -> Stretches:
    """The bases in any interval, none of them empty, in any order; stretches that touch become one."""
    if not len(start_K):
        return _pair(start_K, end_K)
    order = np.argsort(start_K, kind="stable")
    start_K, reach_K = start_K[order], np.maximum.accumulate(end_K[order])
    begins = np.append(True, start_K[1:] > reach_K[:-1])
    return _pair(start_K[begins], reach_K[np.append(begins[1:], True)])


def intersect(a: Stretches, b: Stretches) -> Stretches:
    """The bases in both."""
    i, j = _pairs(np.searchsorted(b[1], a[0], "right"), np.searchsorted(b[0], a[1], "left"))
    return _pair(np.maximum(a[0][i], b[0][j]), np.minimum(a[1][i], b[1][j]))


def subtract(a: Stretches, b: Stretches) -> Stretches:
    """The bases in `a` that are not in `b`."""
    limits = np.iinfo(np.int64)
    start, end = np.append(limits.min, b[1]), np.append(b[0], limits.max)
    gap = start < end  # stretches of b that touch leave nothing between them
    return intersect(a, (start[gap], end[gap]))


def overlapping(intervals: Intervals, start_W: np.ndarray, end_W: np.ndarray) -> list[tuple[str, ...]]:
    """For each window the distinct labels, in order, of the intervals that share a base with it.

    Windows are not empty and their starts ascend; one may end before the window in front of it. An empty label is not given.
    """
    if not len(start_W):
        return []
    reach_W = np.maximum.accumulate(end_W)
    near = slice(np.searchsorted(intervals.reach_K, start_W[0], "right"), np.searchsorted(intervals.start_K, reach_W[-1], "left"))
    names, code_K = intervals.codes
    low_K = np.searchsorted(reach_W, intervals.start_K[near], "right")
    high_K = np.searchsorted(start_W, intervals.end_K[near], "left")
    k_P, window_P = _pairs(low_K, high_K)
    shares_base_P = end_W[window_P] > intervals.start_K[near][k_P]
    k_P, window_P = k_P[shares_base_P], window_P[shares_base_P]
    distinct = np.unique(window_P * len(names) + code_K[near][k_P])
    window_P, code_P = np.divmod(distinct, max(len(names), 1))
    bounds = np.searchsorted(window_P, np.arange(len(start_W) + 1)).tolist()
    labels = [names[code] for code in code_P.tolist()]
    return [tuple(filter(None, labels[low:high])) for low, high in pairwise(bounds)]


def _pairs(low_N: np.ndarray, high_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every (n, m) with low_N[n] <= m < high_N[n], in order, as two arrays [P]."""
    count_N = high_N - low_N
    n_P = np.repeat(np.arange(len(low_N)), count_N)
    first_N = np.cumsum(count_N) - count_N
    return n_P, np.arange(len(n_P)) - first_N[n_P] + low_N[n_P]


def _pair(start: np.ndarray, end: np.ndarray) -> Stretches:
    return np.asarray(start, np.int64), np.asarray(end, np.int64)
