"""Baselines for reports: smoothed Markov models of each order, from the left context or from both sides.

A model of order k counts how often each base stands in each context of k bases (k on each side for `masked_markov_bits`).
Its probabilities are interpolated with those of the next shorter context, down to the uniform distribution (order -1):

    p_k(b | context) = (n(context, b) + c_k * p_{k-1}(b | shorter context)) / (N(context) + c_k)

the Dirichlet-smoothed back-off of MacKay and Peto, "A hierarchical Dirichlet language model" (Natural Language
Engineering 1, 1995). Each c_k is the power of 4 that gives the training bases the highest probability when the base in
question is left out of the counts of all orders (leave-one-out), so that a high order does no harm on a small genome.

Sequences are uint8 arrays [bases] of codes 0 to A - 1; any other code breaks the context and is not scored. Close to a
break or an end, where fewer than k bases are known, the longest context that is known is used. Pass windows or pieces of
chromosomes: memory is about 1 GB at most, plus some 100 bytes for each base of the longest sequence.

Suffixes: N positions, A letters of the alphabet.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np

MAX_CELLS = 1 << 26
"""Most (context, base) pairs of one order: int32 counts of 268 MB; DNA reaches order 12, or 6 on each side."""
BLOCK_BASES = 1 << 19
"""Bases worked on at once; the windows of a block are joined, with a break behind each."""
BREAK = 255
STRENGTHS = 4.0 ** np.arange(-2, 11)
"""The values of c_k that are tried."""


@dataclass(frozen=True, slots=True)
class MarkovResult:
    """How well the model of one order predicts the held-out bases."""

    order: int
    """Bases of context (on each side for the masked baseline)."""
    bits_per_base: float
    accuracy: float
    """Share of bases to which the model gave the highest probability (ties go to the first in the alphabet)."""
    scored: int
    """Bases that were scored: the same ones at each order."""


def markov_bits(
    train: Iterable[np.ndarray], heldout: Iterable[np.ndarray], *, alphabet_size: int, max_order: int,
    complement: Sequence[int] | None = None, scored: Iterable[np.ndarray] | None = None,
) -> list[MarkovResult]:
    """Left-context models of order 0 to `max_order`, counted on `train` and scored on `heldout`.

    complement: code to code; if given, both strands of `train` are counted. scored: bool arrays beside `heldout` that
    choose the positions; default: all. ValueError if the tables would be too large or nothing can be scored.
    """
    return _evaluate(train, heldout, alphabet_size, max_order, 1, complement, scored)


def masked_markov_bits(
    train: Iterable[np.ndarray], heldout: Iterable[np.ndarray], *, alphabet_size: int, max_order: int,
    complement: Sequence[int] | None = None, scored: Iterable[np.ndarray] | None = None,
) -> list[MarkovResult]:
    """P(base | k left, k right) for k = 0 to `max_order`; otherwise as `markov_bits`."""
    return _evaluate(train, heldout, alphabet_size, max_order, 2, complement, scored)


def uniform_bits(alphabet_size: int) -> float:
    """Bits per base of a model that knows nothing: 2 for DNA."""
    return math.log2(alphabet_size)


def highest_order(alphabet_size: int, sides: int) -> int:
    """The highest order whose counts fit in memory, with context on one or two sides."""
    return int((math.log(MAX_CELLS, alphabet_size) + 1e-9 - 1) // sides)


@dataclass(slots=True)
class _Model:
    """Counts of orders 0, 1, ...; a cell is a context and its base as one number, the base the last digit to base A.

    Further bases of context are more significant digits, so a cell modulo the size of a shorter table is its cell there.
    """

    alphabet_size: int
    sides: int
    counts: list[np.ndarray]
    """int32 [cells of the order]."""
    totals: list[np.ndarray]
    """int32 [contexts of the order]."""
    strengths: list[float]
    """c_k."""

    def probability(self, order: int, cells: np.ndarray, left_out: int = 0) -> np.ndarray:
        """float64, shape of `cells` (of that order): p(base | context), with `left_out` occurrences of it not counted."""
        probability = np.full(cells.shape, 1 / self.alphabet_size)
        for counts, totals, strength in zip(self.counts[:order + 1], self.totals, self.strengths, strict=False):
            shorter = cells % len(counts)
            probability *= strength
            probability += counts[shorter] - left_out
            probability /= totals[shorter // self.alphabet_size] - left_out + strength
        return probability


def _evaluate(
    train: Iterable[np.ndarray], heldout: Iterable[np.ndarray], alphabet_size: int, highest: int, sides: int,
    complement: Sequence[int] | None, scored: Iterable[np.ndarray] | None,
) -> list[MarkovResult]:
    """Fit on one set, score on the other, a result for each order."""
    if highest > highest_order(alphabet_size, sides):
        raise ValueError(f"order {highest} over {alphabet_size} letters has more than {MAX_CELLS:,} contexts to count; "
                         f"use at most {highest_order(alphabet_size, sides)}")
    return _score(_fit(train, alphabet_size, highest, sides, complement), heldout, scored)


def _fit(train: Iterable[np.ndarray], alphabet_size: int, highest: int, sides: int, complement: Sequence[int] | None) -> _Model:
    """Count, then choose the strengths from the lowest order up."""
    sizes = [alphabet_size ** (sides * order + 1) for order in range(highest + 1)]
    model = _Model(alphabet_size, sides, [np.zeros(size, np.int32) for size in sizes], [], [])
    for codes, _ in _blocks(train, None):
        for strand in [codes] if complement is None else [codes, _opposite(codes, complement)]:
            for counts, (_, cells, _) in zip(model.counts, _contexts(strand, model, highest), strict=True):
                np.add.at(counts, cells, 1)
    model.totals = [counts.reshape(-1, alphabet_size).sum(1, dtype=np.int32) for counts in model.counts]
    for order in range(highest + 1):
        model.strengths.append(_best_strength(model, order))
    return model


def _best_strength(model: _Model, order: int) -> float:
    """The c_k of `order` under which the training bases, each left out once, are most probable."""
    counts = model.counts[order]
    likelihood = np.zeros(len(STRENGTHS))
    seen = np.flatnonzero(counts)
    for first in range(0, len(seen), BLOCK_BASES):
        cells = seen[first:first + BLOCK_BASES]
        shorter = model.probability(order - 1, cells, left_out=1)
        times, total = counts[cells], model.totals[order][cells // model.alphabet_size]
        for number, strength in enumerate(STRENGTHS):
            likelihood[number] += times @ np.log((times - 1 + strength * shorter) / (total - 1 + strength))
    # Contexts seen once say nothing about c_k; if there are no others the likelihoods are equal, and the largest c_k is the safe one.
    as_good = likelihood >= likelihood.max() - 1e-9 * abs(likelihood.max())
    return float(STRENGTHS[as_good].max())


def _score(model: _Model, heldout: Iterable[np.ndarray], scored: Iterable[np.ndarray] | None) -> list[MarkovResult]:
    """Sum bits and hits by order; a position whose context is shorter than an order counts there with the longest it has."""
    orders = len(model.counts)
    bits, hits, positions = np.zeros(orders), np.zeros(orders, np.int64), 0
    for codes, chosen in _blocks(heldout, scored):
        for order, (at, cells, depth) in enumerate(_contexts(codes, model, orders - 1)):
            keep = chosen[at]
            cost, hit = _predict(model, order, cells[keep])
            last = depth[keep] == order
            bits[order] += cost.sum()
            hits[order] += hit.sum()
            bits[order + 1:] += cost[last].sum()
            hits[order + 1:] += hit[last].sum()
            positions += len(cost) if order == 0 else 0
    if not positions:
        raise ValueError("the held-out sequences have no unambiguous base to score")
    return [MarkovResult(k, float(bits[k] / positions), float(hits[k] / positions), positions) for k in range(orders)]


def _predict(model: _Model, order: int, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bits [N] that the true base of each cell [N] costs, and whether it was the likeliest [N]."""
    truth = cells % model.alphabet_size
    candidates_NA = (cells - truth)[:, None] + np.arange(model.alphabet_size)
    probability_NA = model.probability(order, candidates_NA)
    of_truth = np.take_along_axis(probability_NA, truth[:, None], axis=1)[:, 0]
    return -np.log2(of_truth), probability_NA.argmax(1) == truth


def _contexts(codes: np.ndarray, model: _Model, highest: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """For each order: the positions [N] with that much context, their cells [N], and how much context they have [N]."""
    base = model.alphabet_size
    depth = _unbroken(codes, base)
    if model.sides == 2:
        depth = np.minimum(depth, _unbroken(codes[::-1], base)[::-1])
    at = np.flatnonzero(depth >= 0)
    cells, depth = codes[at].astype(np.int64), depth[at]
    yield at, cells, depth
    for order in range(1, highest + 1):
        deep = depth >= order
        at, cells, depth = at[deep], cells[deep], depth[deep]
        digit = codes[at - order].astype(np.int64)
        if model.sides == 2:
            digit = digit * base + codes[at + order]
        cells = cells + digit * base ** (model.sides * (order - 1) + 1)
        yield at, cells, depth


def _unbroken(codes: np.ndarray, alphabet_size: int) -> np.ndarray:
    """int64 [bases]: known bases directly to the left of each base; -1 at a break."""
    index = np.arange(len(codes))
    return index - np.maximum.accumulate(np.where(codes < alphabet_size, -1, index)) - 1


def _opposite(codes: np.ndarray, complement: Sequence[int]) -> np.ndarray:
    """The other strand's codes; breaks stay breaks."""
    table = np.full(256, BREAK, np.uint8)
    table[:len(complement)] = complement
    return table[codes[::-1]]


def _blocks(sequences: Iterable[np.ndarray], scored: Iterable[np.ndarray] | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Join sequences to blocks of about BLOCK_BASES codes, a break behind each; with them bools [bases], scored or not."""
    chosen: Iterable[np.ndarray | None] = repeat(None) if scored is None else scored
    codes, masks, held = [], [], 0
    for sequence, mask in zip(sequences, chosen, strict=scored is not None):
        codes += [sequence, np.array([BREAK], np.uint8)]
        masks += [np.ones(len(sequence), bool) if mask is None else mask, np.array([False])]
        held += len(sequence) + 1
        if held >= BLOCK_BASES:
            yield np.concatenate(codes), np.concatenate(masks)
            codes, masks, held = [], [], 0
    if codes:
        yield np.concatenate(codes), np.concatenate(masks)
