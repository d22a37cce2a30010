"""Overlapping windows: how a sequence beyond the model's context is read, and which window speaks for each token.

A token's prediction comes from the window that sees most of its surroundings: for a causal model the one that reaches
furthest to the left, for a bidirectional one the one in which the token lies deepest. So a token sees at least `overlap`
tokens to its left (causal) or `overlap // 2` on either side (bidirectional), unless the sequence itself ends there. A model
whose receptive field fits into that gives exactly what it would give on the whole sequence; for others the difference is
that of the context left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from typing import TypeVar

import numpy as np

from ..tokenizers import Tokenizer
from ..tokenizers.base import CLS, PAD, SEP

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens [start, end) are read together; the predictions of [keep_start, keep_end) count. Half-open, in tokens."""

    start: int
    end: int
    keep_start: int
    keep_end: int

    def moved(self, by: int) -> Window:
        """The same stretch where counting begins `by` tokens earlier."""
        return Window(*(place + by for place in astuple(self)))


def count_windows(num_tokens: int | np.ndarray, *, size: int, overlap: int) -> np.ndarray:
    """How many windows `cut_windows` makes of a sequence, or of each of several [K]."""
    beyond = np.maximum(num_tokens - size, 0)
    return np.minimum(num_tokens, 1) + -(-beyond // max(1, size - overlap))


def cut_windows(num_tokens: int, *, size: int, overlap: int, causal: bool, first: int = 0, last: int | None = None) -> list[Window]:
    """Windows of at most `size` tokens, neighbours sharing at least `overlap`, whose kept stretches tile the sequence.

    The last window ends with the sequence and keeps its full size. Of these the ones from number `first` to before `last`.
    ValueError for an overlap outside [1, size).
    """
    if num_tokens > size and not 1 <= overlap < size:
        raise ValueError(f"overlap must lie between 1 and {size - 1} (a window holds {size} tokens), got {overlap}")
    number = int(count_windows(num_tokens, size=size, overlap=overlap))

    def start(window: int) -> int:
        return max(0, min(window * (size - overlap), num_tokens - size))

    def keep_start(window: int) -> int:
        # Where two neighbours meet: at the end of the left one (its tokens have the longer left context), or midway.
        end = start(window - 1) + size
        return 0 if window == 0 else num_tokens if window == number else end if causal else (end + start(window)) // 2

    return [
        Window(start(window), min(start(window) + size, num_tokens), keep_start(window), keep_start(window + 1))
        for window in range(first, number if last is None else last)
    ]


@dataclass(frozen=True, slots=True)
class Context:
    """How sequences are laid out for one model: `size` tokens a window without specials, `overlap` of them shared."""

    size: int
    overlap: int
    causal: bool
    add_special_tokens: bool

    @property
    def offset(self) -> int:
        """Position of a window's first token in the model's input: 1 behind a [CLS]."""
        return int(self.add_special_tokens)

    def count(self, num_tokens: np.ndarray) -> np.ndarray:
        """The windows of each of several sequences, int64 [K]."""
        return count_windows(num_tokens, size=self.size, overlap=self.overlap)

    def windows(self, num_tokens: int, first: int = 0, last: int | None = None) -> list[Window]:
        """The windows of a sequence of `num_tokens` tokens, from number `first` to before `last`."""
        return cut_windows(num_tokens, size=self.size, overlap=self.overlap, causal=self.causal, first=first, last=last)

    def lay_out(self, ids: np.ndarray, window: Window) -> np.ndarray:
        """The model's input for one window, int64: its tokens, between [CLS] and [SEP] where the model was trained so."""
        tokens = ids[window.start : window.end].astype(np.int64)
        return np.concatenate([[CLS], tokens, [SEP]]) if self.add_special_tokens else tokens


def plan_context(max_length: int, tokenizer: Tokenizer, *, causal: bool, overlap: int | None) -> Context:
    """The largest windows a model of `max_length` tokens can read; `overlap` (tokens) defaults to half of that."""
    size = max_length - 2 * tokenizer.add_special_tokens
    return Context(size, max(1, size // 2) if overlap is None else overlap, causal, tokenizer.add_special_tokens)


def pad_rows(rows: Sequence[np.ndarray], fill: int = PAD) -> np.ndarray:
    """Rows of different lengths -> int64 [B, longest], filled up with `fill` on the right."""
    padded = np.full((len(rows), max(map(len, rows))), fill, np.int64)
    for row, out in zip(rows, padded, strict=True):
        out[: len(row)] = row
    return padded


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items, the last one shorter."""
    batch: list[T] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
