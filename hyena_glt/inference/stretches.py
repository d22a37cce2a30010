"""Embeddings with the place in the genome that each is of: a vector a sequence, a window or a token. Runs on the workers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa

from ..tokenizers import Tokenizer
from .embed import hidden_states
from .load import LoadedModel
from .windows import Context, Window

Per = Literal["sequence", "window", "token"]
"""What a vector stands for: the mean over a sequence, that over the kept tokens of each window, or one token."""


class Stretch(NamedTuple):
    """Tokens of one sequence, and the windows in which they are read; all of it where a vector stands for the sequence."""

    source: str
    record: str
    start: int
    """Of the first token, 0-based, in bases of the record."""
    ids: np.ndarray
    windows: list[Window]
    """In tokens from the first one here."""


class _Vectors(NamedTuple):
    """Some of a stretch: first base and bases of each, int64 [K], and the vectors, float32 [K, D]."""

    stretch: Stretch
    start: np.ndarray
    length: np.ndarray
    values: np.ndarray


def stretch_of_letters(source: str, record: str, letters: np.ndarray, windows: list[Window], tokenizer: Tokenizer) -> Stretch:
    """Windows of a record, given in tokens of all of it; letters: uint8 [bases] of the record, of which only theirs are read."""
    first, last = windows[0].start, windows[-1].end
    start = first * tokenizer.bases_per_token
    ids = tokenizer.encode(letters[start : start + num_bases(last - first, tokenizer)])
    return Stretch(source, record, start, ids, [window.moved(-first) for window in windows])


def num_bases(num_tokens: int, tokenizer: Tokenizer) -> int:
    """Under so many neighbouring tokens, one or more."""
    return (num_tokens - 1) * tokenizer.bases_per_token + tokenizer.span


def embed_stretches(loaded: LoadedModel, context: Context, stretches: Iterable[Stretch], *, per: Per, batch_size: int) -> pa.Table:
    """A row a vector (`columns`), in order."""
    found = [*_vectors(loaded, context, stretches, per, batch_size)]
    width = loaded.config.model.hidden_size
    counts = [len(some.start) for some in found]
    names = [np.repeat(np.array(column, object), counts) for column in zip(*(some.stretch[:2] for some in found), strict=True)]
    start, length, values = (np.concatenate(column) for column in zip(*(some[1:] for some in found), strict=True))
    return pa.table([*names, start, length, pa.FixedSizeListArray.from_arrays(values.reshape(-1), width)], schema=columns(width))


def columns(width: int) -> pa.Schema:
    """Of embeddings of `width` numbers; `start` is a base of the record, from 0, and `length` the bases that a vector stands for."""
    return pa.schema({
        "source": pa.string(), "record": pa.string(), "start": pa.int64(), "length": pa.int64(), "embedding": pa.list_(pa.float32(), width),
    })


def _vectors(loaded: LoadedModel, context: Context, stretches: Iterable[Stretch], per: Per, batch_size: int) -> Iterator[_Vectors]:
    states = hidden_states(loaded, context, _laid_out(stretches, context), batch_size)
    if per == "sequence":
        for _, of_one in groupby(states, key=lambda state: state[0][:3]):
            yield _mean(of_one, loaded.tokenizer)
    else:
        for stretch, window, states_TD in states:
            yield (_of_tokens if per == "token" else _of_window)(stretch, window, states_TD, loaded.tokenizer)


def _of_tokens(stretch: Stretch, window: Window, states_TD: np.ndarray, tokenizer: Tokenizer) -> _Vectors:
    start = stretch.start + np.arange(window.keep_start, window.keep_end) * tokenizer.bases_per_token
    return _Vectors(stretch, start, np.full(len(start), tokenizer.span), states_TD.copy())  # a view would keep the whole batch


def _of_window(stretch: Stretch, window: Window, states_TD: np.ndarray, tokenizer: Tokenizer) -> _Vectors:
    start = stretch.start + window.keep_start * tokenizer.bases_per_token
    return _Vectors(stretch, np.array([start]), np.array([num_bases(len(states_TD), tokenizer)]), states_TD.mean(0, keepdims=True))


def _mean(states: Iterable[tuple[Stretch, Window, np.ndarray]], tokenizer: Tokenizer) -> _Vectors:
    """Over all windows of one stretch."""
    total, number = 0.0, 0
    for stretch, _, states_TD in states:  # noqa: B007
        total, number = total + states_TD.sum(0, dtype=np.float64), number + len(states_TD)
    mean = (total / number).astype(np.float32)
    return _Vectors(stretch, np.array([stretch.start]), np.array([num_bases(number, tokenizer)]), mean[None])


def _laid_out(stretches: Iterable[Stretch], context: Context) -> Iterator[tuple[Stretch, Window, np.ndarray]]:
    for stretch in stretches:
        for window in stretch.windows:
            yield stretch, window, context.lay_out(stretch.ids, window)
