"""Next-token prediction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .base import IGNORE, Example, padding_of, scorable


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

    def __call__(self, ids: np.ndarray, rngs: list[np.random.Generator]) -> Example:
        """ids [B, L] -> inputs [B, L], targets shifted left by one; the last position has none."""
        inputs = ids.astype(np.int64)
        targets = np.full(ids.shape, IGNORE, np.int64)
        following = inputs[:, 1:]
        scored = scorable(following)
        if self.span > 1:
            scored &= scorable(ids[:, :-1])
        targets[:, :-1] = np.where(scored, following, IGNORE)
        return Example(inputs, targets, padding_of(ids))
