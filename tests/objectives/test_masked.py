"""Masked language modelling: the shares that are promised, and hidden bases that no visible token shows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyena_glt.config import MaskedLMConfig, TokenizationConfig
from hyena_glt.objectives import IGNORE, Example, MaskedLM, build_objective
from hyena_glt.tokenizers import build_tokenizer

PAD, MASK, CLS, SEP, UNK = range(5)
K = 3


def rngs(number: int, seed: int = 0) -> list[np.random.Generator]:
    return [np.random.default_rng([seed, row]) for row in range(number)]


def random_ids(rows: int, length: int, low: int, high: int, seed: int = 0, dtype: type = np.uint16) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, high, (rows, length)).astype(dtype)


class Scripted:
    """A generator whose draws a test writes down: where runs start, what is done to each, what replaces a token."""

    def __init__(self, starts: list[bool], actions: list[str], replacement: int) -> None:
        places = {"hide": 0.5, "replace": 0.85, "keep": 0.95}
        self._draws = [np.where(starts, 0.0, 1.0), np.array([places[action] for action in actions])]
        self._replacement = replacement

    def random(self, size: int) -> np.ndarray:
        draw = self._draws.pop(0)
        assert len(draw) == size
        return draw

    def integers(self, low: int, high: int, size: int) -> np.ndarray:
        assert low <= self._replacement < high
        return np.full(size, self._replacement)


def scripted(row: list[int], starts: set[int], actions: list[str], *, span: int, replacement: int = 68) -> Example:
    draws = Scripted([place in starts for place in range(len(row))], actions, replacement)
    return MaskedLM(0.15, vocab_size=64, span=span)(np.array([row], np.uint8), [draws])


def test_shares():
    ids = random_ids(200, 1000, 5, 4101)  # of many symbols, so that a random one is another one
    made = MaskedLM(0.15, vocab_size=4096)(ids, rngs(200))
    scored = made.targets != IGNORE
    assert scored.mean() == pytest.approx(0.15, abs=0.004)
    assert (made.targets[scored] == ids[scored]).all()
    assert (made.inputs[~scored] == ids[~scored]).all()
    hidden, kept = made.inputs[scored] == MASK, made.inputs[scored] == ids[scored]
    assert hidden.mean() == pytest.approx(0.8, abs=0.01)
    assert kept.mean() == pytest.approx(0.1, abs=0.01)
    replaced = made.inputs[scored][~hidden & ~kept]
    assert replaced.min() >= 5 and replaced.max() < 5 + 4096
    counts = np.histogram(replaced, bins=4, range=(5, 4101))[0] / len(replaced)
    assert counts == pytest.approx([0.25] * 4, abs=0.03), "every symbol is as likely as any other"


@pytest.mark.parametrize("span", [1, K])
def test_only_symbols_are_chosen_and_changed(span):
    ids = random_ids(50, 300, 0, 10)
    made = MaskedLM(0.5, vocab_size=5, span=span)(ids, rngs(50))
    assert (made.targets[ids < 5] == IGNORE).all() and (made.inputs[ids < 5] == ids[ids < 5]).all()
    assert ((made.targets == IGNORE) | (made.targets == ids)).all()
    assert (made.padding == (ids == PAD)).all()
    assert made.num_scored == (made.targets != IGNORE).sum() > 1000


@pytest.mark.parametrize("span", [1, K])
def test_a_row_ignores_its_batch_mates(span):
    ids, objective = random_ids(6, 80, 4, 9), MaskedLM(0.3, vocab_size=4, span=span)
    together, draws = objective(ids, rngs(6)), rngs(6)
    alone = objective(ids[3:4], draws[3:4])
    assert (alone.inputs == together.inputs[3]).all() and (alone.targets == together.targets[3]).all()
    other = objective(ids, rngs(6, seed=1))
    assert (other.targets != together.targets).any()


def test_the_places_chosen_do_not_depend_on_the_content():
    objective = MaskedLM(0.3, vocab_size=4)
    one, two = (objective(random_ids(4, 100, 5, 9, seed), rngs(4)) for seed in (1, 2))
    assert ((one.targets != IGNORE) == (two.targets != IGNORE)).all() and (one.inputs != two.inputs).any()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_what_is_not_scored_is_minus_100_whatever_the_type_of_the_ids(dtype):
    made = MaskedLM(0.5, vocab_size=251)(random_ids(4, 50, 5, 256, dtype=dtype), rngs(4))
    assert made.inputs.dtype == made.targets.dtype == np.int64 and made.padding.dtype == bool
    assert IGNORE == -100 and made.targets.min() == -100 and ((made.targets == -100) | (made.targets >= 5)).all()


@pytest.mark.parametrize("span", [1, K])
def test_an_evaluation_hides_all_that_training_chooses(span):
    objective, ids = MaskedLM(0.3, vocab_size=4, span=span), random_ids(20, 100, 4, 9)
    trained, evaluated = objective(ids, rngs(20)), objective.for_evaluation()(ids, rngs(20))
    assert (evaluated.targets == trained.targets).all()
    assert (evaluated.inputs[evaluated.targets != IGNORE] == MASK).all()
    assert ((evaluated.inputs == ids) | (evaluated.inputs == MASK)).all(), "nothing is replaced"


def test_an_empty_row_scores_nothing():
    made = MaskedLM(0.9, vocab_size=4)(np.array([[PAD] * 8, [CLS, SEP] + [PAD] * 6], np.uint8), rngs(2))
    assert made.num_scored == 0 and made.num_tokens == 2


def test_a_hidden_base_hides_all_tokens_that_touch_it():
    row = list(range(10, 20))
    hidden = scripted(row, {4}, ["hide"] * 10, span=K)
    assert hidden.inputs.tolist() == [[10, 11, 12, 13, MASK, MASK, MASK, 17, 18, 19]]
    assert hidden.targets.tolist() == [[IGNORE] * 4 + [14] + [IGNORE] * 5], "one token is scored for each hidden base"
    replaced = scripted(row, {4}, ["replace"] * 10, span=K)
    assert replaced.inputs.tolist() == [[10, 11, 12, 13, 68, 68, 68, 17, 18, 19]] and (replaced.targets == hidden.targets).all()
    kept = scripted(row, {4}, ["keep"] * 10, span=K)
    assert kept.inputs.tolist() == [row] and (kept.targets == hidden.targets).all()
    last = scripted(row, {9}, ["hide"] * 10, span=K)
    assert last.inputs.tolist() == [[*row[:9], MASK]]


def test_unknown_tokens_and_padding_under_a_run_stay_themselves():
    made = scripted([10, 11, UNK, 13, PAD], {1, 2, 3, 4}, ["hide"] * 5, span=K)
    assert made.inputs.tolist() == [[10, MASK, UNK, MASK, PAD]]
    assert made.targets.tolist() == [[IGNORE, 11, IGNORE, 13, IGNORE]]


@given(st.data())
def test_no_visible_token_shows_a_hidden_base(data):
    """Token t lies on bases t to t + k - 1; a run that starts there hides the last of them. Runs may overlap in any way."""
    tokens = data.draw(st.lists(st.sampled_from([UNK, 10, 11, 12]), min_size=1, max_size=14))
    starts = data.draw(st.sets(st.integers(0, len(tokens) - 1)))
    actions = data.draw(st.lists(st.sampled_from(["hide", "replace", "keep"]), min_size=len(tokens), max_size=len(tokens)))
    made = scripted(tokens, starts, actions, span=K)
    inputs = made.inputs[0].tolist()
    chosen = {start for start in starts if tokens[start] != UNK}
    hidden_bases = {start + K - 1 for start in chosen if actions[start] == "hide"}
    visible = [t for t, token in enumerate(tokens) if token != UNK and inputs[t] == token]
    assert not [t for t in visible if hidden_bases & set(range(t, t + K))]
    touched = {t for start in chosen if actions[start] != "keep" for t in range(start, start + K)}
    assert [t for t in range(len(tokens)) if t not in touched and inputs[t] != tokens[t]] == []
    assert {t for t, target in enumerate(made.targets[0].tolist()) if target != IGNORE} == chosen
    assert all(made.targets[0, t] == tokens[t] for t in chosen)


@pytest.mark.parametrize("probability, span", [(0.15, 6), (0.3, 3), (0.5, 2)])
def test_the_share_of_touched_tokens_is_the_mask_probability(probability, span):
    """A run that is kept touches tokens without changing them, so the share is measured where a scripted draw hides every run."""
    length, generator = 400_000, np.random.default_rng(0)
    ids = random_ids(1, length, 5, 9)
    draws = generator.random(length)

    class HideAll(Scripted):
        def __init__(self) -> None:
            self._draws, self._replacement = [draws, np.zeros(length)], 5

    made = MaskedLM(probability, vocab_size=4, span=span)(ids, [HideAll()])
    assert (made.inputs[0, span:] == MASK).mean() == pytest.approx(probability, rel=0.02)
    assert made.num_scored < (made.inputs == MASK).sum()


@pytest.mark.parametrize(
    "tokenization, vocab_size, span",
    [
        (TokenizationConfig(kind="char"), 4, 1),
        (TokenizationConfig(kmer_size=4), 256, 1),
        (TokenizationConfig(kmer_size=4, kmer_stride=1), 256, 4),
    ],
)
def test_the_tokenizer_decides_how_bases_are_hidden(tokenization, vocab_size, span):
    objective = build_objective(MaskedLMConfig(mask_probability=0.2), build_tokenizer("dna", tokenization))
    assert objective == MaskedLM(0.2, vocab_size, span) and not objective.causal


@pytest.mark.parametrize("span", [1, K])
def test_weights_change_no_mask_and_belong_to_the_scored_token(span):
    ids, objective = random_ids(20, 100, 4, 9), MaskedLM(0.3, vocab_size=4, span=span)
    weights = np.random.default_rng(1).choice([0, 0.5, 1], ids.shape).astype(np.float32)
    plain, made = objective(ids, rngs(20)), objective(ids, rngs(20), weights)
    assert (made.inputs == plain.inputs).all() and plain.weights is None
    assert (made.targets == np.where(weights > 0, plain.targets, IGNORE)).all()
    scored = made.targets != IGNORE
    assert scored.sum() > 100 and (made.weights[scored] == weights[scored]).all()
    assert made.total_weight == weights[scored].sum()
