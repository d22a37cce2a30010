"""Embeddings: the model's hidden states after its final norm, a token or a sequence at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, TypeVar

import numpy as np
import torch

from .load import LoadedModel
from .windows import Context, Window, batched, pad_rows, plan_context

T = TypeVar("T")


def embed(
    loaded: LoadedModel,
    sequences: Sequence[str],
    *,
    pool: Literal["mean"] | None = "mean",
    batch_size: int = 8,
    overlap: int | None = None,
) -> list[np.ndarray]:
    """One float32 array a sequence: [D], the mean over its tokens, or [T, D] with `pool=None`.

    Sequences beyond the context go through windows that share `overlap` tokens (default: half the context). [CLS], [SEP]
    and padding never enter. A causal model's embedding of a token knows only what stands before it.
    Raises ValueError for a sequence without a token.
    """
    context = plan_context(loaded.model.max_length, loaded.tokenizer, causal=loaded.causal, overlap=overlap)
    all_ids = [loaded.tokenizer.encode(sequence.encode()) for sequence in sequences]
    for number, (sequence, ids) in enumerate(zip(sequences, all_ids, strict=True)):
        if not len(ids):
            raise ValueError(f"sequence {number} ({len(sequence)} letters) is shorter than one token ({loaded.tokenizer.span} letters)")
    width = loaded.config.model.hidden_size
    results = [np.zeros(width if pool else (len(ids), width), np.float32) for ids in all_ids]
    windows = ((number, window, context.lay_out(ids, window)) for number, ids in enumerate(all_ids) for window in context.windows(len(ids)))
    for number, window, states in hidden_states(loaded, context, windows, batch_size):
        if pool:
            results[number] += states.sum(0) / len(all_ids[number])
        else:
            results[number][window.keep_start : window.keep_end] = states
    return results


def hidden_states(
    loaded: LoadedModel, context: Context, windows: Iterable[tuple[T, Window, np.ndarray]], batch_size: int
) -> Iterator[tuple[T, Window, np.ndarray]]:
    """Whatever stands with a window, the window, and the states of its kept tokens, float32 [kept, D].

    windows: with the model's input [L] for each. They are read as they are needed, `batch_size` at once.
    """
    for batch in batched(windows, batch_size):
        rows = [row for _, _, row in batch]
        for (what, window, _), states_LD in zip(batch, _hidden(loaded, rows), strict=True):
            first = window.keep_start - window.start + context.offset
            yield what, window, states_LD[first : first + window.keep_end - window.keep_start]


@torch.inference_mode()
def _hidden(loaded: LoadedModel, rows: list[np.ndarray]) -> np.ndarray:
    """Hidden states of rows [L] of ids, fp32 [B, longest L, D]."""
    lengths = torch.tensor([len(row) for row in rows])
    ids_BL = torch.from_numpy(pad_rows(rows))
    padding_BL = torch.arange(ids_BL.shape[1]) >= lengths[:, None]
    states_BLD: np.ndarray = loaded.model.hidden(ids_BL.to(loaded.device), padding_BL.to(loaded.device)).float().cpu().numpy()
    return states_BLD
