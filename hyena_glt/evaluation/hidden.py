"""Masked objectives as they are evaluated: every predicted token is hidden.

Training leaves a tenth of the predicted tokens in sight and replaces another tenth (80/10/10). A model that has learned so trusts
what it sees at a predicted place, and is right half of the time: a loss that counts those tokens reads up to some hundredths of a bit
lower than what the model knows of a hidden base, and no baseline gets that help. So the validation loss of a masked run and the
result of its evaluation differ on purpose.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from ..objectives import IGNORE, Example, MaskedLM, Objective
from ..objectives.base import scorable
from ..tokenizers.base import MASK


@dataclass(frozen=True, slots=True)
class AllHidden:
    """The choice of tokens of `masked`, all of them [MASK]; for overlapping k-mers all that touch a chosen base."""

    masked: MaskedLM
    causal: ClassVar[bool] = False

    def __call__(self, ids: np.ndarray, rngs: list[np.random.Generator]) -> Example:
        """ids [B, L], one generator a row -> `Example`; targets and padding are those of `masked`."""
        example = self.masked(ids, rngs)
        scored = example.targets != IGNORE
        hidden = scored.copy()
        for offset in range(1, self.masked.span):
            hidden[:, offset:] |= scored[:, :-offset]
        return replace(example, inputs=np.where(hidden & scorable(ids), MASK, ids.astype(np.int64)))


def as_evaluated(objective: Objective) -> Objective:
    """`objective`, with nothing left in sight that it predicts."""
    return AllHidden(objective) if isinstance(objective, MaskedLM) else objective
