"""Metrics against their definitions, by hand; names that are unknown or have no meaning."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hyena_glt.config import config_from_dict
from hyena_glt.data.batches import Batch
from hyena_glt.errors import ConfigError
from hyena_glt.evaluation.metrics import METRICS, Tally, choose_metrics, correct_last_bases, measure
from hyena_glt.objectives import IGNORE, CausalLM, MaskedLM
from hyena_glt.tokenizers import Tokenizer, build_tokenizer
from hyena_glt.tokenizers.base import MASK, PAD
from tests.tiny_run import random_bases, random_model


def tokenizer(**tokenization: object) -> Tokenizer:
    return build_tokenizer("dna", config_from_dict({"tokenization": tokenization}).tokenization)


CHAR, DISJOINT, OVERLAPPING = tokenizer(kind="char"), tokenizer(kmer_size=3), tokenizer(kmer_size=3, kmer_stride=1)


@pytest.mark.parametrize(
    ("tokens", "causal", "bits"),
    [(CHAR, True, 3.0), (CHAR, False, 3.0), (DISJOINT, True, 1.0), (DISJOINT, False, 1.0), (OVERLAPPING, True, 3.0)],
)
def test_values_follow_from_the_sums(tokens, causal, bits):
    tally = Tally(nats=30 * math.log(2), num_scored=10, num_correct=4, num_correct_bases=6)
    values = tally.values(METRICS, tokens, causal=causal)
    assert values == pytest.approx({
        "loss": 3 * math.log(2), "perplexity": 8.0, "bits_per_base": bits, "accuracy": 0.4,
        "mlm_accuracy": 0.6 if tokens is OVERLAPPING else 0.4,
    })
    assert list(tally.values(("accuracy", "loss"), tokens, causal=causal)) == ["accuracy", "loss"]


def test_measure_is_the_mean_over_scored_tokens(tmp_path):
    loaded = random_model(tmp_path, causal=True)
    ids = np.stack([np.frombuffer(random_bases(40, seed=n).encode(), np.uint8) for n in range(3)])
    rows = np.stack([loaded.tokenizer.encode(row) for row in ids]).astype(np.int64)
    rows[1, 25:] = PAD
    with torch.no_grad():
        alone = [loaded.model(torch.from_numpy(row[None, :n]))[0].log_softmax(-1) for row, n in zip(rows, (40, 25, 40), strict=True)]
    chosen = torch.cat([table[range(n - 1), row[1:n]] for table, row, n in zip(alone, rows, (40, 25, 40), strict=True)])
    hits = sum((table[: n - 1].argmax(-1).numpy() == row[1:n]).sum() for table, row, n in zip(alone, rows, (40, 25, 40), strict=True))
    tally = measure(loaded, [Batch.of(CausalLM()(rows, []))])
    assert (tally.num_scored, tally.num_correct) == (39 + 24 + 39, hits)
    assert tally.loss == pytest.approx(-chosen.mean().item(), rel=1e-5)


@pytest.mark.parametrize("content", [PAD, 4])
def test_windows_without_a_scored_token_never_enter(tmp_path, content):
    loaded = random_model(tmp_path, causal=True)
    rows = loaded.tokenizer.encode(random_bases(30).encode()).astype(np.int64)[None]
    with_empty = np.concatenate([np.full_like(rows, content), rows, np.full_like(rows, content)])
    one, three = (measure(loaded, [Batch.of(CausalLM()(r, []))]) for r in (rows, with_empty))
    assert three.num_scored == one.num_scored == 29
    assert three.loss == pytest.approx(one.loss, rel=1e-6)


def test_last_bases_are_summed_over_what_precedes_them():
    """Of 2-mers, *C has the most probability in all, though AA alone is the likeliest."""
    probability = np.full(4**2, 1e-9)
    for kmer, p in {"AA": 0.4, "AC": 0.2, "CC": 0.2, "GC": 0.2}.items():
        probability["ACGT".index(kmer[0]) * 4 + "ACGT".index(kmer[1])] = p
    logits = torch.log(torch.from_numpy(np.concatenate([np.full(5, 0.9), probability, np.full(3, 0.9)])))[None]
    tokens = tokenizer(kmer_size=2, kmer_stride=1)
    for kmer, right in (("TC", 1), ("AA", 0), ("AC", 1), ("CG", 0)):
        target = torch.from_numpy(tokens.encode(kmer.encode()).astype(np.int64))
        assert correct_last_bases(logits, target, tokens.num_ids) == right


@pytest.mark.parametrize("span", [1, 3])
def test_evaluation_leaves_nothing_in_sight(span):
    masked = MaskedLM(mask_probability=0.15, vocab_size=64, span=span)
    ids = np.random.default_rng(0).integers(5, 69, (20, 200)).astype(np.uint8)
    ids[:, 150:] = PAD
    rngs = lambda: [np.random.default_rng(n) for n in range(20)]  # noqa: E731
    trained, evaluated = masked(ids, rngs()), masked.for_evaluation()(ids, rngs())
    np.testing.assert_array_equal(evaluated.targets, trained.targets)
    rows, places = np.nonzero(evaluated.targets != IGNORE)
    assert (trained.inputs[rows, places] != MASK).any(), "otherwise the test could not tell them apart"
    for offset in range(span):
        inside = places + offset < 150
        assert (evaluated.inputs[rows[inside], places[inside] + offset] == MASK).all()
    changed = evaluated.inputs != ids
    assert (evaluated.inputs[changed] == MASK).all()
    assert (trained.inputs[~changed] == ids[~changed]).all()
    assert CausalLM().for_evaluation() == CausalLM()


@pytest.mark.parametrize(
    ("tokens", "causal", "expected"),
    [
        (CHAR, True, ("loss", "perplexity", "bits_per_base", "accuracy")),
        (DISJOINT, False, ("loss", "perplexity", "bits_per_base", "accuracy", "mlm_accuracy")),
        (OVERLAPPING, False, ("loss", "perplexity", "accuracy", "mlm_accuracy")),
    ],
)
def test_default_is_all_that_has_a_meaning(tokens, causal, expected):
    assert choose_metrics((), tokens, causal=causal) == expected


def test_every_unfit_metric_is_named_at_once():
    with pytest.raises(ConfigError) as caught:
        choose_metrics(("perplexty", "f1", "mlm_accuracy", "loss"), CHAR, causal=True)
    assert caught.value.problems == (
        "unknown metric perplexty; did you mean perplexity?",
        "unknown metric f1; there are loss, perplexity, bits_per_base, accuracy, mlm_accuracy, bleu",
        "mlm_accuracy needs a masked model, and this one predicts next tokens; ask for accuracy",
    )
    with pytest.raises(ConfigError, match="bits_per_base has no meaning for a masked model on overlapping k-mers.*ask for mlm_accuracy"):
        choose_metrics(("bits_per_base",), OVERLAPPING, causal=False)
    assert choose_metrics(("bleu", "loss", "bleu"), CHAR, causal=True) == ("bleu", "loss")
