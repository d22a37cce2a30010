"""Divide records into splits, and splits into windows and tasks, by arithmetic alone. Runs on driver and workers, without Ray.

Suffixes: N records, R regions (the stretch of a record that belongs to one split), W windows.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from ..config.preprocessing import SplitConfig
from ..config.settings import suggest
from ..errors import ConfigError
from .manifest import SPLITS


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


def make_regions(records: pa.Table, cfg: SplitConfig, cut: Cut) -> dict[str, Regions]:
    """Split name -> regions, for the records that stay (columns file, name, offset, place, length, in order).

    A split that gets nothing is there with no regions.
    """
    columns = {key: records[key].to_numpy() for key in ("file", "offset", "place", "length")}
    spans = _tail_spans(columns["length"], cfg, cut.max_length) if cfg.by == "tail" else _record_spans(records, cfg)
    return {split: _regions(records["name"].combine_chunks(), columns, *spans[split], cut) for split in SPLITS}


def _regions(name_N: pa.StringArray, columns: dict[str, np.ndarray], start_N: np.ndarray, end_N: np.ndarray, cut: Cut) -> Regions:
    """Leave out the records that have no base in the split."""
    kept = np.flatnonzero(end_N > start_N)
    first_window = np.concatenate([[0], np.cumsum(cut.num_windows((end_N - start_N)[kept]))])
    return Regions(
        file_R=columns["file"][kept], name_R=name_N.take(pa.array(kept)), offset_R=columns["offset"][kept], place_R=columns["place"][kept],
        start_R=start_N[kept], end_R=end_N[kept], first_window=first_window,
    )


def _tail_spans(length_N: np.ndarray, cfg: SplitConfig, gap: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The end of each record is for test, what stands before it for val; train pays for the gaps, so that the others keep their size."""
    spans, end_N = {}, length_N
    for split, share in (("test", cfg.test), ("val", cfg.val)):
        start_N = np.maximum(end_N - np.rint(length_N * share).astype(np.int64), 0)
        spans[split] = start_N, end_N
        end_N = np.where(end_N > start_N, np.maximum(start_N - gap, 0), end_N)
    return spans | {"train": (np.zeros_like(length_N), end_N)}


def _record_spans(records: pa.Table, cfg: SplitConfig) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Whole records, by name: all records of one name, in whatever file, go to one split."""
    names = records["name"].to_pylist()
    chosen = dict.fromkeys(cfg.val_records, "val") | dict.fromkeys(cfg.test_records, "test")
    split_N = np.array([chosen.get(name, "train") if cfg.by == "named" else hashed_split(name, cfg) for name in names])
    length_N = records["length"].to_numpy()
    return {split: (np.zeros_like(length_N), np.where(split_N == split, length_N, 0)) for split in SPLITS}


def hashed_split(name: str, cfg: SplitConfig) -> str:
    """The split of a record: the same on every machine, and whichever other records there are."""
    digest = hashlib.blake2b(name.encode(), digest_size=8, key=cfg.seed.to_bytes(16, "little", signed=True)).digest()
    share = int.from_bytes(digest, "little") / 2**64
    return "test" if share < cfg.test else "val" if share < cfg.test + cfg.val else "train"


def refuse_unknown_names(names: list[str], cfg: SplitConfig) -> None:
    """ConfigError, with the nearest name, for each record of `val_records` and `test_records` that no input has."""
    problems = [
        f"preprocessing.split.{split}_records: no record is named {wanted!r}{suggest(wanted, names) or _first(names)}"
        for split in ("val", "test")
        for wanted in sorted(set(getattr(cfg, f"{split}_records")) - set(names))
    ]
    if problems:
        raise ConfigError(*problems)


def _first(names: list[str]) -> str:
    return f"; there are {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
