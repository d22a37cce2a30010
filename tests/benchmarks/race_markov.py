"""What counting alone achieves in the race: Markov models on the same rows, on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hyena_glt.config.tree import DataConfig
from hyena_glt.data.dataset import Rows
from hyena_glt.data.mixture import open_training, open_validation
from hyena_glt.evaluation.markov import BREAK, markov_bits
from hyena_glt.tokenizers.base import NUM_SPECIAL

COMPLEMENT = (3, 2, 1, 0)
BLOCK_ROWS = 64


def markov_row(data: Path, max_order: int) -> dict[str, Any]:
    """Bits per base of the models of each order, counted on both strands and smoothed."""
    cfg = DataConfig(train_path=str(data), val_path=str(data))
    (train,), (heldout,) = open_training(cfg).rows, open_validation(cfg).values()
    results = markov_bits(codes(train), codes(heldout), alphabet_size=4, max_order=max_order, complement=COMPLEMENT)
    return {"label": "markov", "markov": {str(result.order): result.bits_per_base for result in results}, "scored": results[0].scored}


def codes(rows: Rows) -> Iterator[np.ndarray]:
    """The letters of each row as uint8 codes 0 to 3, BREAK for all others."""
    for first in range(0, rows.num_rows, BLOCK_ROWS):
        ids = rows.read(np.arange(first, min(first + BLOCK_ROWS, rows.num_rows)))
        yield from np.where(ids >= NUM_SPECIAL, ids - NUM_SPECIAL, BREAK).astype(np.uint8)
