"""Set operations on stretches of bases, against sets of positions."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hyena_glt.data.sources.intervals import Intervals, Stretches, intersect, overlapping, subtract, union

LENGTH = 40
spans = st.lists(st.tuples(st.integers(0, LENGTH), st.integers(1, 12)).map(lambda pair: (pair[0], pair[0] + pair[1])), max_size=12)
stretches = st.sets(st.integers(0, LENGTH), max_size=30).map(lambda bases: runs(bases))


def runs(bases: set[int]) -> Stretches:
    """The stretches that hold exactly these bases."""
    starts = sorted(base for base in bases if base - 1 not in bases)
    ends = sorted(base + 1 for base in bases if base + 1 not in bases)
    return np.array(starts, np.int64), np.array(ends, np.int64)


def bases_of(pairs: Stretches) -> set[int]:
    return {base for start, end in zip(*pairs, strict=True) for base in range(start, end)}


def arrays(pairs: list[tuple[int, int]]) -> Stretches:
    return np.array([start for start, _ in pairs], np.int64), np.array([end for _, end in pairs], np.int64)


def assert_equal(found: Stretches, wanted: Stretches) -> None:
    assert found[0].dtype == found[1].dtype == np.int64
    assert (found[0].tolist(), found[1].tolist()) == (wanted[0].tolist(), wanted[1].tolist())


def labelled(pairs: list[tuple[int, int]], labels: list[str]) -> Intervals:
    ordered = sorted(zip(pairs, labels, strict=True), key=lambda item: item[0])
    start_K, end_K = arrays([pair for pair, _ in ordered])
    return Intervals(start_K, end_K, np.zeros(len(ordered), np.int8), tuple(label for _, label in ordered))


@given(spans)
def test_union(pairs):
    assert_equal(union(*arrays(pairs)), runs(bases_of(arrays(pairs))))


@given(stretches, stretches)
def test_intersect_and_subtract(a, b):
    assert_equal(intersect(a, b), runs(bases_of(a) & bases_of(b)))
    assert_equal(subtract(a, b), runs(bases_of(a) - bases_of(b)))


@given(st.sets(st.integers(0, LENGTH), min_size=1), st.integers(1, LENGTH))
def test_subtract_where_stretches_touch(bases, cut):
    low, high = {base for base in bases if base < cut}, {base for base in bases if base >= cut}
    touching = tuple(np.append(a, b) for a, b in zip(runs(low), runs(high), strict=True))
    assert_equal(subtract(runs(set(range(LENGTH + 1))), touching), runs(set(range(LENGTH + 1)) - bases))


@given(spans, st.lists(st.integers(0, LENGTH), max_size=8), st.integers(1, 9), st.data())
def test_overlapping(pairs, starts, width, data):
    labels = data.draw(st.lists(st.sampled_from(["", "CDS", "exon", "gene"]), min_size=len(pairs), max_size=len(pairs)))
    start_W = np.array(sorted(starts), np.int64)
    wanted = [
        tuple(sorted({label for (start, end), label in zip(pairs, labels, strict=True) if label and start < at + width and end > at}))
        for at in start_W.tolist()
    ]
    assert overlapping(labelled(pairs, labels), start_W, start_W + width) == wanted


def test_overlapping_needs_a_shared_base():
    intervals = labelled([(0, 5), (0, 100), (5, 10)], ["left", "all", "right"])
    assert overlapping(intervals, np.array([5]), np.array([6])) == [("all", "right")]
    assert overlapping(intervals, np.array([4]), np.array([5])) == [("all", "left")]


@given(spans, st.integers(0, LENGTH + 15))
def test_intervals_beyond_the_end_are_counted(pairs, length):
    intervals = labelled(pairs, [""] * len(pairs))
    assert intervals.num_beyond(length) == sum(end > length for _, end in pairs)
