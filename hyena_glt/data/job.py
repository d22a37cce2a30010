"""What the tasks of one preprocessing run share, and where its intermediate files lie. Made on the driver, read on the workers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..tokenizers import Tokenizer
from .manifest import SCRATCH
from .row_format import RowFormat
from .windows import Cut, Regions, windows_between


class Task(NamedTuple):
    """Windows number `first` to `last` (not included) of a split: at most one shard."""

    split: str
    number: int
    first: int
    last: int

    @property
    def name(self) -> str:
        return f"{self.split}/part-{self.number:05d}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Filters:
    """Which windows stay; lengths in bases."""

    min_length: int
    max_ambiguous_fraction: float
    unambiguous: bytes
    """The upper-case letters that are not ambiguous."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """Passed to the workers once, through Ray's object store."""

    output: Path
    sources: tuple[str, ...]
    """The name of each input file, by its number."""
    regions: Mapping[str, Regions]
    cut: Cut
    filters: Filters
    tokenizer: Tokenizer
    compress: bool
    repeated_places: np.ndarray
    """int64, sorted: the windows, by the place of their first base, that repeat an earlier one."""

    @property
    def row_format(self) -> RowFormat:
        return RowFormat(width=self.width, dtype=self.tokenizer.dtype)

    @property
    def width(self) -> int:
        """Tokens in a row."""
        return self.tokenizer.num_tokens(self.cut.max_length)

    def tasks(self, windows_per_task: int) -> Iterator[Task]:
        """All windows of all splits, in order."""
        for split, regions in self.regions.items():
            for number, first in enumerate(range(0, regions.num_windows, windows_per_task)):
                yield Task(split, number, first, min(first + windows_per_task, regions.num_windows))


class Window(NamedTuple):
    """One window as it was cut: `letters` uint8 [bases], `place` of its first base among all inputs' bases."""

    source: str
    record: str
    start: int
    place: int
    letters: np.ndarray


def bases_file(output: Path, number: int) -> Path:
    """The clean letters of one input file."""
    return output / SCRATCH / "bases" / f"{number:05d}"


def windows_of(job: Job, task: Task) -> Iterator[Window]:
    """The windows of a task, read from the clean letters; only the window at hand is in memory."""
    regions = job.regions[task.split]
    windows = windows_between(regions, task.first, task.last, job.cut)
    opened, letters = -1, np.empty(0, np.uint8)
    for region, start, end in zip(*(column.tolist() for column in windows), strict=True):
        file, offset = int(regions.file_R[region]), int(regions.offset_R[region])
        if file != opened:
            opened, letters = file, np.asarray(np.memmap(bases_file(job.output, file), np.uint8, "r"))
        place = int(regions.place_R[region]) + start
        yield Window(job.sources[file], regions.name_R[region].as_py(), start, place, letters[offset + start : offset + end])


def why_dropped(letters: np.ndarray, filters: Filters) -> str | None:
    """The reason for which a window, uint8 [bases], does not stay; None if it does."""
    if len(letters) < filters.min_length:
        return "short"
    if filters.max_ambiguous_fraction < 1:
        ambiguous = len(letters.tobytes().translate(None, filters.unambiguous))
        if ambiguous > filters.max_ambiguous_fraction * len(letters):
            return "ambiguous"
    return None
