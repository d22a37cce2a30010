"""What the tasks of one preprocessing run share, and where its intermediate files lie. Made on the driver, read on the workers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from ..dna import SequenceType
from ..tokenizers import Tokenizer
from .features import Weights
from .row_format import RowFormat, id_bits
from .scratch import SCRATCH
from .sources.intervals import Intervals
from .storage import Location
from .windows import Cut, Regions

ROW_GROUP_TOKENS = 1 << 20
"""Tokens in a row group, about: what a task and a reader hold in memory at once, and what training shuffles."""


TASK_BASES = 1 << 24
"""Bases in a task, at most, of an output that does not need more than `MAX_SHARDS` tasks then."""
MAX_SHARDS = 100_000
"""Tasks of an output, about: a larger input makes larger shards, not more of them."""


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

    sequence_type: SequenceType
    min_length: int
    max_ambiguous_fraction: float = 1.0
    max_low_complexity_fraction: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """Passed to the workers once, through Ray's object store."""

    output: Path
    """Where the scratch folder lies, and what is written before it goes to `destination`."""
    destination: Location
    """The output folder; `output` itself unless it is an object store."""
    format: Literal["parquet", "hdf5"]
    sources: tuple[str, ...]
    """The name of each input file, by its number."""
    regions: Mapping[str, Regions]
    cut: Cut
    filters: Filters
    tokenizer: Tokenizer
    compress: bool
    repeated_places: np.ndarray
    """int64, sorted: the windows, by the place of their first base, that repeat an earlier one."""
    near_duplicate_places: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    """The same for windows that are nearly an earlier one."""
    weights: Weights | None = None
    labels: Intervals | None = None

    @property
    def row_format(self) -> RowFormat:
        return RowFormat(
            width=self.tokenizer.num_tokens(self.cut.max_length), id_bits=id_bits(self.tokenizer.num_ids),
            weights=self.weights is not None, labels=self.labels is not None,
        )

    @property
    def num_bases(self) -> int:
        """Bases of all regions."""
        return sum(int((regions.end_R - regions.start_R).sum()) for regions in self.regions.values())

    @property
    def shards(self) -> Path:
        """Where shards are written; those that will be converted do not show in the output."""
        return self.output if self.format == "parquet" else self.output / SCRATCH / "shards"

    @property
    def rows_per_group(self) -> int:
        return max(1, ROW_GROUP_TOKENS // self.row_format.width)

    def tasks(self, rows_per_shard: int) -> Iterator[Task]:
        """All windows of all splits, in order; a task has few enough that long windows too make many tasks."""
        num_windows = sum(regions.num_windows for regions in self.regions.values())
        windows_per_task = max(1, min(rows_per_shard, TASK_BASES // self.cut.max_length), -(-num_windows // MAX_SHARDS))
        for split, regions in self.regions.items():
            for number, first in enumerate(range(0, regions.num_windows, windows_per_task)):
                yield Task(split, number, first, min(first + windows_per_task, regions.num_windows))
