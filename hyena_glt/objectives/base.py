"""What an objective is: the batch schema of the training path."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..tokenizers.base import NUM_SPECIAL, PAD

IGNORE = -100
"""Target of a position that is not scored (torch's `ignore_index`)."""


@dataclass(frozen=True, slots=True)
class Example:
    """A batch as the model sees it; B rows, L tokens.

    inputs int64 [B, L]; targets int64 [B, L], IGNORE where not scored; padding bool [B, L], true on pads; weights float32 [B, L], what
    each target counts in the loss, or None where all count 1. A target without weight is not scored.
    """

    inputs: np.ndarray
    targets: np.ndarray
    padding: np.ndarray
    weights: np.ndarray | None = None

    @property
    def num_scored(self) -> int:
        """Positions that enter the loss."""
        return int((self.targets != IGNORE).sum())

    @property
    def total_weight(self) -> float:
        """Sum of the weights of the positions that enter the loss."""
        return float(self.num_scored if self.weights is None else self.weights[self.targets != IGNORE].sum(dtype=np.float64))

    @property
    def num_tokens(self) -> int:
        """Positions that are not padding."""
        return int(self.padding.size - self.padding.sum())


class Objective(Protocol):
    """Token ids in, `Example` out."""

    causal: bool

    def __call__(self, ids: np.ndarray, rngs: list[np.random.Generator], weights: np.ndarray | None = None) -> Example:
        """ids [B, L] of any unsigned type; one generator a row, so that a row's draw ignores its batch-mates.

        `weights` float32 [B, L] are the tokens' own: a prediction counts what the token counts that is predicted.
        """

    def for_evaluation(self) -> Objective:
        """The objective with nothing left in sight that it predicts."""


def scorable(ids: np.ndarray) -> np.ndarray:
    """True where the token is a symbol: specials and [UNK] are never predicted."""
    return ids >= NUM_SPECIAL


def weighed(targets: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """The targets [B, L] without those of weight 0."""
    return targets if weights is None else np.where(weights > 0, targets, IGNORE)


def padding_of(ids: np.ndarray) -> np.ndarray:
    """True on [PAD]."""
    return ids == PAD
