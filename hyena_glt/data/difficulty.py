"""How hard each training row is, for a curriculum from easy to hard rows. Runs on the workers, once a run.

The ranks lie in the run folder: float32 [rows] for each domain, the share of its rows that are easier. Of equally hard rows the earlier
one is easier.
"""

from __future__ import annotations

from io import BytesIO
from typing import Literal

import numpy as np

from ..tokenizers.base import PAD, UNK
from .dataset import Rows, TokenRows
from .mixture import Mixture
from .storage import Location, read_bytes, write_bytes

ROWS_AT_ONCE = 1024
LOW_WEIGHT = 1.0
"""Tokens that weigh less than this lie in repeats."""

Measure = Literal["ambiguity", "repeats"]


def write_ranks(path: Location, mixture: Mixture, measure: Measure) -> None:
    """Rank the rows of every domain; reads each row once."""
    ranks = {f"{number:04}": rank(difficulties(rows, measure)) for number, rows in enumerate(mixture.rows)}
    content = BytesIO()
    np.savez(content, **ranks)
    write_bytes(path, content.getvalue())


def read_ranks(path: Location) -> list[np.ndarray]:
    """The ranks of each domain's rows, in the order of the domains."""
    with np.load(BytesIO(read_bytes(path)), allow_pickle=False) as saved:
        return [saved[name] for name in sorted(saved.files)]


def rank(difficulty: np.ndarray) -> np.ndarray:
    """Float [rows] -> share of the rows that are easier, float32 [rows]."""
    ranks = np.empty(len(difficulty), np.float32)
    ranks[np.argsort(difficulty, kind="stable")] = np.arange(len(difficulty)) / len(difficulty)
    return ranks


def difficulties(rows: Rows, measure: Measure) -> np.ndarray:
    """Share of each row's tokens that are ambiguous, or lie in repeats, float64 [rows]."""
    starts = range(0, rows.num_rows, ROWS_AT_ONCE)
    parts = [rows.tokens(np.arange(start, min(start + ROWS_AT_ONCE, rows.num_rows))) for start in starts]
    return np.concatenate([_shares(part, measure) for part in parts])


def _shares(rows: TokenRows, measure: Measure) -> np.ndarray:
    hard = rows.ids == UNK if measure == "ambiguity" or rows.weights is None else (rows.weights < LOW_WEIGHT) & (rows.ids != PAD)
    return hard.sum(axis=1) / np.maximum(rows.filled, 1)
