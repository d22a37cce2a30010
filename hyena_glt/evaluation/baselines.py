"""What counting alone achieves on the same held-out windows, and which of it a model beats.

Baselines count bases on the training split, both strands for DNA, and are scored on exactly the bases that the model is
scored on: `uniform`, `markov_k` (the k bases to the left) and, beside a masked model, `flanks_k` (k bases on either side, which
see more than the model: nothing is hidden from them but the base itself).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from ..data.batches import EvaluationBatches
from ..data.dataset import Rows
from ..dna import ALPHABETS
from ..objectives import IGNORE, Objective
from ..tokenizers import Tokenizer
from ..tokenizers.base import CLS, SEP
from . import markov

HIGHEST_ORDER, HIGHEST_FLANKS = 8, 6
MAX_TRAIN_BASES = 1 << 26
"""Bases counted at most; a larger training split is sampled in evenly spaced windows."""
BLOCK_ROWS = 256


@dataclass(frozen=True, slots=True)
class Baselines:
    """Bits per base of each baseline by name, in the order uniform, markov_0, ..., flanks_1, ..."""

    bits_per_base: dict[str, float]
    train_bases: int
    """Bases that were counted, of one strand, to within a window."""


def baselines(train: Sequence[Rows], heldout: Rows, objective: Objective) -> Baselines:
    """Count on the rows of all of `train`, score on `heldout`.

    DNA and RNA up to order 8 (6 on either side), proteins as far as the table fits.
    """
    tokenizer = heldout.tokenizer
    size = len(ALPHABETS[tokenizer.sequence_type])
    complement = (3, 2, 1, 0) if tokenizer.sequence_type == "dna" else None
    total = sum(rows.manifest.splits[rows.split].bases for rows in train)
    every = max(1, -(-total // MAX_TRAIN_BASES))
    bits = {"uniform": markov.uniform_bits(size)}
    kinds = {"markov": (markov.markov_bits, min(HIGHEST_ORDER, markov.highest_order(size, 1)))}
    if not objective.causal:
        kinds["flanks"] = (markov.masked_markov_bits, min(HIGHEST_FLANKS, markov.highest_order(size, 2)))
    for name, (evaluate, highest) in kinds.items():
        results = evaluate(
            chain.from_iterable(_once(rows, every) for rows in train), _codes(heldout, np.arange(heldout.num_rows)), alphabet_size=size,
            max_order=highest, complement=complement, scored=_scored_bases(heldout, objective),
        )
        # Without flanks there is no difference to markov_0.
        bits |= {f"{name}_{result.order}": result.bits_per_base for result in results if name == "markov" or result.order > 0}
    return Baselines(bits, total // every)


def beaten(bits_per_base: float, by_name: dict[str, float]) -> list[str | int]:
    """The baselines with more bits than the model: `uniform`, the Markov orders as numbers, `flanks_k`."""
    names = [name for name, bits in by_name.items() if bits_per_base < bits]
    return [int(name.removeprefix("markov_")) if name.startswith("markov_") else name for name in names]


def _once(train: Rows, every: int) -> Iterator[np.ndarray]:
    """`_codes` of each `every`-th row, each base once: counted twice, as overlapping windows hold it, no context would seem an accident."""
    numbers = np.arange(0, train.num_rows, every)
    shared = train.places().shared_bases() if every == 1 else np.zeros(len(numbers), np.int64)
    return (codes[skip:] for codes, skip in zip(_codes(train, numbers), shared, strict=True))


def _codes(rows: Rows, numbers: np.ndarray) -> Iterator[np.ndarray]:
    """The letters of each row as uint8 codes 0 to A - 1, BREAK for ambiguous ones."""
    table = np.full(256, markov.BREAK, np.uint8)
    alphabet = np.frombuffer(ALPHABETS[rows.tokenizer.sequence_type], np.uint8)
    table[alphabet] = np.arange(len(alphabet))
    for ids in _blocks(rows, numbers):
        for row in ids:
            yield table[np.frombuffer(rows.tokenizer.decode(row).encode(), np.uint8)]


def _scored_bases(rows: Rows, objective: Objective) -> Iterator[np.ndarray]:
    """Beside each row's letters, bool: does the model's loss cover this base?"""
    batches = EvaluationBatches(rows, objective, BLOCK_ROWS)
    for number in range(len(batches)):
        batch = batches[number]
        targets, padding = batch.targets.numpy(), batch.padding.numpy()
        scored = targets != IGNORE
        if objective.causal:  # the target of position i is token i + 1
            scored[:, 1:], scored[:, 0] = scored[:, :-1].copy(), False
        letters = ~padding & ~np.isin(batch.inputs.numpy(), (CLS, SEP))
        real = min(BLOCK_ROWS, rows.num_rows - number * BLOCK_ROWS)
        yield from (spread_to_bases(row[keep], rows.tokenizer) for row, keep in zip(scored[:real], letters[:real], strict=True))


def spread_to_bases(scored: np.ndarray, tokenizer: Tokenizer) -> np.ndarray:
    """bool [tokens] -> bool [bases]: the new bases of each scored token, which are those it ends on."""
    by_base = np.repeat(scored, tokenizer.bases_per_token)
    shared = tokenizer.span - tokenizer.bases_per_token if len(scored) else 0
    return np.concatenate([np.zeros(shared, bool), by_base])


def _blocks(rows: Rows, numbers: np.ndarray) -> Iterable[np.ndarray]:
    """Token ids [at most BLOCK_ROWS, width] of the rows."""
    return (rows.read(numbers[first : first + BLOCK_ROWS]) for first in range(0, len(numbers), BLOCK_ROWS))
