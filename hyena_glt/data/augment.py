"""Augmentation of training rows, drawn from (seed, place in the stream): a shift along the record, then the other strand. Pure.

Rows hold tokens without specials, [B, L]. A row that is shifted or turned keeps its number of tokens, and its padding at the end.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..config.tree import DataConfig
from ..tokenizers import Tokenizer
from .dataset import TokenRows


@dataclass(frozen=True, kw_only=True, slots=True)
class Augmentation:
    """P(a row is read from the other strand), and the most tokens that a row starts later."""

    reverse_complement: float
    max_shift: int
    seed: int

    def draw(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For the rows at `positions` of the stream: tokens to shift, int64 [B]; whether to take the other strand, bool [B]."""
        rngs = [np.random.default_rng([self.seed, int(position), 0, 0, 2]) for position in positions]
        shifts = [rng.integers(self.max_shift + 1) for rng in rngs]
        return np.array(shifts, np.int64), np.array([rng.random() < self.reverse_complement for rng in rngs], bool)


def build_augmentation(data: DataConfig, seed: int) -> Augmentation | None:
    """What section `data` asks for; None where rows are to be read as they are stored."""
    if not data.reverse_complement and not data.max_shift:
        return None
    return Augmentation(reverse_complement=data.reverse_complement, max_shift=data.max_shift, seed=seed)


def shift(rows: TokenRows, following: TokenRows, shifts: np.ndarray) -> TokenRows:
    """Each row without its first `shifts` [B] tokens, with as many of `following` behind, which has them."""
    length, filled = rows.ids.shape[1], rows.filled[:, None]
    place = np.arange(length)
    source = place + shifts[:, None]
    source = np.where(source < filled, source, source + length - filled)  # over the padding, to where the following row begins
    source = np.where(place < filled, source, place)
    ids = np.take_along_axis(np.hstack([rows.ids, following.ids]), source, 1)
    if rows.weights is None or following.weights is None:
        return TokenRows(ids, None)
    return TokenRows(ids, np.take_along_axis(np.hstack([rows.weights, following.weights]), source, 1))


def opposite_strand(rows: TokenRows, turned: np.ndarray, tokenizer: Tokenizer) -> TokenRows:
    """The reverse complement of the rows that `turned` [B] marks, weights with their tokens."""
    length, filled = rows.ids.shape[1], rows.filled[turned, None]
    source = (np.arange(length) + length - filled) % length  # reversed padding stands in front
    ids, weights = rows.ids.copy(), None
    ids[turned] = np.take_along_axis(tokenizer.reverse_complement(rows.ids[turned]), source, 1)
    if rows.weights is not None:
        weights = rows.weights.copy()
        weights[turned] = np.take_along_axis(rows.weights[turned, ::-1], source, 1)
    return TokenRows(ids, weights)
