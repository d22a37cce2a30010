"""Masked language modelling (Devlin et al., 2019), with runs for overlapping k-mers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from ..tokenizers.base import MASK, NUM_SPECIAL
from .base import IGNORE, Example, padding_of, scorable, weighed


@dataclass(frozen=True, slots=True)
class MaskedLM:
    """Choose 15 % of the tokens; 80 % of them become [MASK], 10 % a random symbol, 10 % stay; predict all of them.

    With overlapping k-mers (`span` k > 1) a masked token could be read off its neighbours. There, single bases are hidden
    instead: all k tokens that touch a hidden base are chosen together, share one 80/10/10 draw, and only one of
    them is scored, so that accuracy and loss count each hidden base once.
    """

    mask_probability: float
    vocab_size: int
    span: int = 1
    hidden_share: float = 0.8
    replaced_share: float = 0.1
    causal: ClassVar[bool] = False

    def for_evaluation(self) -> MaskedLM:
        """The same choice of tokens with all of them hidden.

        A model that has learned to trust what it sees is right at most of the tokens that stay in sight, so counting those would
        flatter it by some hundredths of a bit against any baseline that only sees the neighbours.
        """
        return replace(self, hidden_share=1.0, replaced_share=0.0)

    def __call__(self, ids: np.ndarray, rngs: list[np.random.Generator], weights: np.ndarray | None = None) -> Example:
        """ids [B, L] -> inputs with masks, targets IGNORE but for the scored tokens; weights change no mask."""
        inputs = ids.astype(np.int64)
        targets = np.full(ids.shape, IGNORE, np.int64)
        symbols = scorable(ids)
        for row, rng in enumerate(rngs):
            self._mask_row(inputs[row], targets[row], symbols[row], rng)
        return Example(inputs, weighed(targets, weights), padding_of(ids), weights)

    def _mask_row(self, inputs: np.ndarray, targets: np.ndarray, symbols: np.ndarray, rng: np.random.Generator) -> None:
        """Mask one row in place; draws for all positions, so that the stream does not depend on the content."""
        chosen = rng.random(len(inputs))
        action = rng.random(len(inputs))
        replacement = rng.integers(NUM_SPECIAL, NUM_SPECIAL + self.vocab_size, len(inputs))
        runs = np.flatnonzero(symbols & (chosen < self._run_probability()))
        targets[runs] = inputs[runs]
        for offset in range(self.span):  # a base is touched by the token that ends on it and the span - 1 that follow
            touched = runs + offset
            inside = touched < len(inputs)
            touched, owner = touched[inside], runs[inside]
            touched, owner = touched[symbols[touched]], owner[symbols[touched]]
            hidden = action[owner] < self.hidden_share
            replaced = ~hidden & (action[owner] < self.hidden_share + self.replaced_share)
            inputs[touched[replaced]] = replacement[touched[replaced]]
            inputs[touched[hidden]] = MASK

    def _run_probability(self) -> float:
        """Chance that a run starts at a token, such that `mask_probability` of all tokens are touched."""
        return 1.0 - (1.0 - self.mask_probability) ** (1.0 / self.span)
