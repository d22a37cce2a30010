"""Next-token prediction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .base import IGNORE, Example, padding_of, scorable, weighed


@dataclass(frozen=True, slots=True)
class CausalLM:
    """Predict token t + 1 from tokens 0 to t; the first token of a row is context only.

    `span` is k for overlapping k-mers. They share k - 1 bases with their left neighbour, so a target brings one new base
    if that neighbour is known, and more after an [UNK]: such targets are not scored, which keeps bits per base exact.
    """

    span: int = 1
    causal: ClassVar[bool] = True

    def for_evaluation(self) -> CausalLM:
        """Itself: nothing that it predicts is in sight."""
        return self

    def __call__(self, ids: np.ndarray, rngs: list[np.random.Generator], weights: np.ndarray | None = None) -> Example:
        """ids [B, L] -> inputs [B, L], targets and weights shifted left by one; the last position has none."""
        inputs = ids.astype(np.int64)
        targets = np.full(ids.shape, IGNORE, np.int64)
        following = inputs[:, 1:]
        scored = scorable(following)
        if self.span > 1:
            scored &= scorable(ids[:, :-1])
        targets[:, :-1] = np.where(scored, following, IGNORE)
        weights = None if weights is None else np.pad(weights[:, 1:], ((0, 0), (0, 1)))
        return Example(inputs, weighed(targets, weights), padding_of(ids), weights)
