"""Cut stretches of records into windows, by arithmetic alone. Runs on driver and workers, without Ray.

Suffixes: R regions (stretches of a record that belong to one split), W windows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from .sources.intervals import Stretches


@dataclass(frozen=True, kw_only=True, slots=True)
class Cut:
    """How regions are cut, in bases: windows of at most `max_length`, `stride` between their starts."""

    max_length: int
    stride: int

    def num_windows(self, lengths: np.ndarray) -> np.ndarray:
        """int64 [R] -> windows in each region [R]: as few as cover it; only the last is shorter than `max_length`."""
        beyond = np.maximum(lengths - self.max_length, 0)
        return np.where(lengths > 0, 1 + -(-beyond // self.stride), 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Regions:
    """The regions of one split in (file, record) order; all arrays int64 unless said otherwise."""

    file_R: np.ndarray
    """Number of the input file."""
    name_R: pa.StringArray
    """The record's name."""
    offset_R: np.ndarray
    """Where the record begins in the file's clean letters."""
    place_R: np.ndarray
    """Number of the record's first base, counted through all inputs: puts windows of all splits in one order."""
    start_R: np.ndarray
    """First base of the region, counted from the record's."""
    end_R: np.ndarray
    first_window: np.ndarray
    """[R + 1]: number of each region's first window, and of all windows."""

    @property
    def num_windows(self) -> int:
        return int(self.first_window[-1])


class Windows(NamedTuple):
    """Consecutive windows of a split: the region each lies in, its first base and its end in the record."""

    region_W: np.ndarray
    start_W: np.ndarray
    end_W: np.ndarray


def windows_between(regions: Regions, first: int, last: int, cut: Cut) -> Windows:
    """Windows number `first` to `last` (not included) of a split."""
    number_W = np.arange(first, last)
    region_W = np.searchsorted(regions.first_window, number_W, side="right") - 1
    start_W = regions.start_R[region_W] + (number_W - regions.first_window[region_W]) * cut.stride
    return Windows(region_W, start_W, np.minimum(start_W + cut.max_length, regions.end_R[region_W]))


def make_regions(records: pa.Table, places: Stretches, cut: Cut) -> Regions:
    """The regions at `places`, none of which crosses the end of a record (columns file, name, offset, length, place, in order)."""
    column = {key: records[key].to_numpy() for key in ("file", "offset", "place")}
    start_R, end_R = places
    record_R = np.searchsorted(column["place"], start_R, side="right") - 1
    place_R = column["place"][record_R]
    return Regions(
        file_R=column["file"][record_R], name_R=records["name"].combine_chunks().take(pa.array(record_R)),
        offset_R=column["offset"][record_R], place_R=place_R, start_R=start_R - place_R, end_R=end_R - place_R,
        first_window=np.concatenate([[0], np.cumsum(cut.num_windows(end_R - start_R))]),
    )
