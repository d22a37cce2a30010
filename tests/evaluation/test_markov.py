"""The Markov baselines against a slow model made of dictionaries, and on sequences whose entropy is known."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyena_glt.evaluation import markov
from hyena_glt.evaluation.markov import highest_order, markov_bits, masked_markov_bits, uniform_bits

COMPLEMENT = (3, 2, 1, 0)
GENOMES = Path(__file__).parents[2] / "pipelines" / "genomes"
sequences = st.lists(st.lists(st.sampled_from([0, 0, 1, 2, 3, 255]), max_size=30).map(lambda codes: np.array(codes, np.uint8)), max_size=4)


class SlowModel:
    """The formula of the module's docstring, one base at a time; `sides` is 1 (left) or 2."""

    def __init__(self, train, letters, highest, sides, complement):
        self.letters, self.highest, self.sides = letters, highest, sides
        strands = [list(s) for s in train]
        if complement:
            strands += [[255 if c == 255 else complement[c] for c in reversed(s)] for s in strands]
        self.counts, self.strengths = Counter(), []
        for codes in strands:
            for i in range(len(codes)):
                for order in range(self.depth(codes, i) + 1):
                    self.counts[self.context(codes, i, order), codes[i]] += 1
        for order in range(highest + 1):
            self.strengths.append(self.best_strength(order))

    def depth(self, codes, i):
        if codes[i] == 255:
            return -1
        best = 0
        while best < self.highest and all(
            0 <= j < len(codes) and codes[j] != 255 for j in ([i - best - 1] if self.sides == 1 else [i - best - 1, i + best + 1])
        ):
            best += 1
        return best

    def context(self, codes, i, order):
        return tuple((codes[i - d], codes[i + d] if self.sides == 2 else None) for d in range(1, order + 1))

    def p(self, context, base, left_out=0):
        lower = self.p(context[:-1], base, left_out) if context else 1 / self.letters
        strength = self.strengths[len(context)]
        total = sum(self.counts[context, b] for b in range(self.letters))
        return (self.counts[context, base] - left_out + strength * lower) / (total - left_out + strength)

    def best_strength(self, order):
        fits = []
        for strength in markov.STRENGTHS:
            self.strengths.append(strength)
            seen = [(c, b, n) for (c, b), n in self.counts.items() if len(c) == order]
            fits.append(sum(n * math.log(self.p(c, b, left_out=1)) for c, b, n in seen))
            self.strengths.pop()
        return max(s for s, fit in zip(markov.STRENGTHS, fits, strict=True) if fit >= max(fits) - 1e-9 * abs(max(fits)))

    def bits(self, heldout, order):
        costs = []
        for codes in map(list, heldout):
            for i in range(len(codes)):
                if codes[i] != 255:
                    context = self.context(codes, i, min(order, self.depth(codes, i)))
                    costs.append(-math.log2(self.p(context, codes[i])))
        return sum(costs) / len(costs)


@pytest.mark.parametrize("evaluate, sides", [(markov_bits, 1), (masked_markov_bits, 2)])
@pytest.mark.parametrize("complement", [None, COMPLEMENT])
@given(train=sequences, heldout=sequences)
@settings(max_examples=25, deadline=None)
def test_equals_the_slow_model(evaluate, sides, complement, train, heldout):
    heldout = [*heldout, np.array([2, 1], np.uint8)]
    slow = SlowModel(train, 4, 2, sides, complement)
    results = evaluate(train, heldout, alphabet_size=4, max_order=2, complement=complement)
    assert [r.order for r in results] == [0, 1, 2]
    for result in results:
        assert result.bits_per_base == pytest.approx(slow.bits(heldout, result.order), rel=1e-9)
        assert result.scored == sum((s < 4).sum() for s in heldout)


@pytest.mark.parametrize("sides", [1, 2])
def test_probabilities_sum_to_one(sides):
    train = np.random.default_rng(0).choice(4, 500, p=[0.6, 0.2, 0.1, 0.1]).astype(np.uint8)
    model = markov._fit([train], 4, 3, sides, COMPLEMENT)
    for order in range(4):
        cells = np.arange(len(model.counts[order]))
        assert np.allclose(model.probability(order, cells).reshape(-1, 4).sum(1), 1)


@pytest.mark.parametrize("evaluate", [markov_bits, masked_markov_bits])
def test_uniform_bases_cost_two_bits_at_each_order(evaluate):
    codes = np.random.default_rng(1).integers(0, 4, 40_000).astype(np.uint8)
    for result in evaluate([codes[:30_000]], [codes[30_000:]], alphabet_size=4, max_order=3):
        assert result.bits_per_base == pytest.approx(uniform_bits(4), abs=0.005)
        assert result.accuracy == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize("evaluate", [markov_bits, masked_markov_bits])
def test_a_periodic_sequence_costs_nothing(evaluate):
    codes = np.tile(np.array([0, 1, 2, 3], np.uint8), 500)
    nothing, *informed = evaluate([codes], [codes], alphabet_size=4, max_order=2)
    assert nothing.bits_per_base == pytest.approx(2)
    for result in informed:
        assert result.bits_per_base < 0.01 and result.accuracy > 0.998


def test_the_opposite_strand_is_counted_only_with_a_complement():
    train, heldout = [np.zeros(100, np.uint8)], [np.full(100, 3, np.uint8)]
    one, both = (markov_bits(train, heldout, alphabet_size=4, max_order=0, complement=c)[0] for c in (None, COMPLEMENT))
    assert both.bits_per_base == pytest.approx(1, abs=0.01) and one.bits_per_base > 3


def test_a_high_order_does_no_harm_where_each_context_was_seen_once():
    codes = np.random.default_rng(2).integers(0, 4, 300).astype(np.uint8)
    *_, last = markov_bits([codes[:150]], [codes[150:]], alphabet_size=4, max_order=8)
    assert last.bits_per_base < 2.02


def test_only_the_chosen_positions_are_scored():
    train, heldout = [np.zeros(50, np.uint8)], [np.array([0, 0, 3, 0, 255], np.uint8)]
    chosen = [np.array([True, True, False, False, True])]
    result = masked_markov_bits(train, heldout, alphabet_size=4, max_order=1, scored=chosen)[0]
    assert result.scored == 2 and result.accuracy == 1
    with pytest.raises(ValueError, match="no unambiguous base to score"):
        masked_markov_bits(train, heldout, alphabet_size=4, max_order=1, scored=[np.zeros(5, bool)])


@pytest.mark.parametrize("evaluate", [markov_bits, masked_markov_bits])
def test_windows_never_see_their_neighbours(evaluate, monkeypatch):
    rng = np.random.default_rng(3)
    windows = [rng.integers(0, 4, n).astype(np.uint8) for n in (5, 1, 40, 0, 17)]
    whole = evaluate(windows, windows, alphabet_size=4, max_order=2)
    monkeypatch.setattr(markov, "BLOCK_BASES", 1)
    for small, large in zip(evaluate(windows, windows, alphabet_size=4, max_order=2), whole, strict=True):
        assert small.bits_per_base == pytest.approx(large.bits_per_base, rel=1e-12)


def test_a_table_too_large_is_refused_with_the_order_that_fits():
    assert [highest_order(4, 1), highest_order(4, 2), highest_order(22, 1), highest_order(22, 2)] == [12, 6, 4, 2]
    with pytest.raises(ValueError, match="order 13 over 4 letters has more than 67,108,864 contexts to count; use at most 12"):
        markov_bits([], [], alphabet_size=4, max_order=13)


def test_lambda_reads_as_published():
    """Order 3, counted on both strands of the first 90 %, costs 1.978 bits on the last tenth."""
    letters = b"".join((GENOMES / "lambda.fa").read_bytes().split(b"\n")[1:])
    codes = np.searchsorted(np.frombuffer(b"ACGT", np.uint8), np.frombuffer(letters, np.uint8)).astype(np.uint8)
    cut = len(codes) * 9 // 10
    results = markov_bits([codes[:cut]], [codes[cut:]], alphabet_size=4, max_order=8, complement=COMPLEMENT)
    assert results[3].bits_per_base == pytest.approx(1.978, abs=0.001)
    assert min(r.bits_per_base for r in results) > 1.974
