"""Divide records into train, val and test. Runs on the driver, by arithmetic alone.

A base is known by its place, its number among all bases of all inputs, so a split is a list of stretches of places: set operations on
such lists are all that splits, selected regions and gaps need. Suffix: N records.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from ..config.preprocessing import SplitConfig
from ..config.settings import suggest
from ..errors import ConfigError
from .manifest import SPLITS
from .sources.intervals import Stretches


def split_places(records: pa.Table, cfg: SplitConfig, *, gap: int) -> dict[str, Stretches]:
    """Split name -> its places, for the records that stay (columns file, name, length, place, in order).

    `gap` bases between splits of one record belong to none, so that no window of one is a neighbour of another's. A split that gets
    nothing is there with no stretches; no stretch crosses the end of a record.
    """
    start_N, length_N = records["place"].to_numpy(), records["length"].to_numpy()
    if cfg.by == "tail":
        return _tails(start_N, length_N, cfg, gap)
    split_N = np.array(_splits_of(records["name"].to_pylist(), cfg))
    return {split: _stretches(start_N[split_N == split], (start_N + length_N)[split_N == split]) for split in SPLITS}


def _stretches(start: np.ndarray, end: np.ndarray) -> Stretches:
    """Those that are not empty."""
    return start[end > start], end[end > start]


def _tails(start_N: np.ndarray, length_N: np.ndarray, cfg: SplitConfig, gap: int) -> dict[str, Stretches]:
    """The end of each record is for test, what stands before it for val; train pays for the gaps, so that the others keep their size."""
    splits, end_N = {}, start_N + length_N
    for split, share in (("test", cfg.test), ("val", cfg.val)):
        first_N = np.maximum(end_N - np.rint(length_N * share).astype(np.int64), start_N)
        splits[split] = _stretches(first_N, end_N)
        end_N = np.where(end_N > first_N, np.maximum(first_N - gap, start_N), end_N)
    return splits | {"train": _stretches(start_N, end_N)}


def _splits_of(names: Sequence[str], cfg: SplitConfig) -> list[str]:
    """The split of each record: all records of one name, in whatever file, go to one."""
    chosen = dict.fromkeys(cfg.val_records, "val") | dict.fromkeys(cfg.test_records, "test")
    return [chosen.get(name, "train") if cfg.by == "named" else hashed_split(name, cfg) for name in names]


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
