"""Next-token prediction against a definition in plain Python, one position at a time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyena_glt.config import CausalLMConfig, TokenizationConfig
from hyena_glt.objectives import IGNORE, CausalLM, build_objective
from hyena_glt.tokenizers import build_tokenizer

PAD, MASK, CLS, SEP, UNK = range(5)


def example(rows: list[list[int]], span: int = 1, dtype: type = np.uint8):
    return CausalLM(span)(np.array(rows, dtype), [np.random.default_rng(0) for _ in rows])


def expected_targets(row: list[int], span: int) -> list[int]:
    targets = []
    for place in range(len(row)):
        following = row[place + 1] if place + 1 < len(row) else PAD
        known = row[place] >= 5 or span == 1
        targets.append(following if following >= 5 and known else IGNORE)
    return targets


@given(rows=st.lists(st.lists(st.integers(0, 9), min_size=6, max_size=6), min_size=1, max_size=4), span=st.sampled_from([1, 3]))
def test_targets_are_those_of_the_definition(rows, span):
    made = example(rows, span)
    assert made.inputs.tolist() == rows
    assert made.targets.tolist() == [expected_targets(row, span) for row in rows]
    assert made.padding.tolist() == [[token == PAD for token in row] for row in rows]
    assert made.num_scored == sum(target >= 5 for row in made.targets.tolist() for target in row)
    assert made.num_tokens == sum(token != PAD for row in rows for token in row)


def test_targets_shift_by_one_and_unknown_tokens_and_padding_are_not_scored():
    made = example([[CLS, 5, 6, UNK, 7, 8, SEP, PAD]])
    assert made.targets.tolist() == [[5, 6, IGNORE, 7, 8, IGNORE, IGNORE, IGNORE]]


def test_an_overlapping_kmer_behind_an_unknown_one_brings_more_than_one_base():
    made = example([[CLS, 5, 6, UNK, 7, 8, SEP, PAD]], span=3)
    assert made.targets.tolist() == [[IGNORE, 6, IGNORE, IGNORE, 8, IGNORE, IGNORE, IGNORE]]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_what_is_not_scored_is_minus_100_whatever_the_type_of_the_ids(dtype):
    made = example([[5, UNK, 255, PAD]], dtype=dtype)
    assert made.inputs.dtype == made.targets.dtype == np.int64 and made.padding.dtype == bool
    assert IGNORE == -100 and made.targets.tolist() == [[-100, 255, -100, -100]]


def test_a_prediction_weighs_what_the_predicted_token_weighs():
    ids, weights = np.array([[5, 6, 7, 8, UNK, 6]], np.uint8), np.array([[9, 0.5, 0, 0.25, 1, 2]], np.float32)
    made = CausalLM()(ids, [np.random.default_rng(0)], weights)
    assert made.targets.tolist() == [[6, IGNORE, 8, IGNORE, 6, IGNORE]], "what weighs nothing is not scored"
    assert made.weights[made.targets != IGNORE].tolist() == [0.5, 0.25, 2] and made.weights.dtype == np.float32
    assert (made.num_scored, made.total_weight) == (3, 2.75)


def test_without_weights_there_are_none():
    made = example([[5, 6, 7]])
    assert made.weights is None and made.total_weight == made.num_scored == 2


def test_a_batch_without_weight_scores_nothing():
    made = CausalLM()(np.full((2, 4), 5, np.uint8), [np.random.default_rng(0)] * 2, np.zeros((2, 4), np.float32))
    assert made.num_scored == made.total_weight == 0


def test_an_empty_row_scores_nothing():
    made = example([[PAD] * 4, [CLS, SEP, PAD, PAD]])
    assert made.num_scored == 0 and made.num_tokens == 2


@pytest.mark.parametrize(
    "tokenization, span",
    [
        (TokenizationConfig(kind="char"), 1),
        (TokenizationConfig(kmer_size=4), 1),
        (TokenizationConfig(kmer_size=4, kmer_stride=1), 4),
        (TokenizationConfig(kmer_size=1, kmer_stride=1), 1),
    ],
)
def test_only_overlapping_kmers_need_a_known_neighbour(tokenization, span):
    objective = build_objective(CausalLMConfig(), build_tokenizer("dna", tokenization))
    assert objective == CausalLM(span) == objective.for_evaluation() and objective.causal
