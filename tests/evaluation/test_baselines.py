"""Baselines are scored on the bases that the model is scored on, and compared by name."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hyena_glt.config import config_from_dict
from hyena_glt.data.batches import EvaluationBatches
from hyena_glt.data.dataset import open_rows
from hyena_glt.evaluation import markov
from hyena_glt.evaluation.baselines import baselines, beaten, spread_to_bases
from hyena_glt.objectives import CausalLM, MaskedLM
from hyena_glt.tokenizers import build_tokenizer
from tests.tiny_run import lambda_letters, write_data, write_lambda_data


@pytest.mark.parametrize(
    ("tokenization", "expected"),
    [
        ({"kind": "char"}, [0, 1, 1, 0]),
        ({"kmer_size": 2}, [0, 0, 1, 1, 1, 1, 0, 0]),
        ({"kmer_size": 3, "kmer_stride": 1}, [0, 0, 0, 1, 1, 0]),
    ],
)
def test_tokens_to_the_bases_they_end_on(tokenization, expected):
    tokenizer = build_tokenizer("dna", config_from_dict({"tokenization": tokenization}).tokenization)
    assert spread_to_bases(np.array([False, True, True, False]), tokenizer).astype(int).tolist() == expected
    assert len(spread_to_bases(np.zeros(0, bool), tokenizer)) == 0


@pytest.mark.parametrize(
    "tokenization",
    [{"kind": "char"}, {"kind": "char", "add_special_tokens": True}, {"kmer_size": 3}, {"kmer_size": 3, "kmer_stride": 1}],
)
@pytest.mark.parametrize("causal", [True, False])
def test_as_many_bases_as_the_model_is_scored_on(tmp_path, monkeypatch, tokenization, causal):
    monkeypatch.setattr("hyena_glt.evaluation.baselines.HIGHEST_FLANKS", 2)  # 6 needs tables of 4^13
    data = write_lambda_data(tmp_path / "data", tokenization)
    heldout = open_rows(str(data), "test")
    tokenizer = heldout.tokenizer
    span = tokenizer.span if tokenizer.overlapping else 1
    objective = CausalLM(span) if causal else MaskedLM(mask_probability=0.15, vocab_size=tokenizer.vocab_size, span=span)
    batches = EvaluationBatches(heldout, objective, 7)
    wanted = sum(batches[i].num_scored for i in range(len(batches))) * tokenizer.bases_per_token
    seen = []
    monkeypatch.setattr(markov, "markov_bits", lambda *a, _real=markov.markov_bits, **k: seen.append(_real(*a, **k)) or seen[-1])
    found = baselines([open_rows(str(data), "train")], heldout, objective)
    assert {result.scored for result in seen[0]} == {wanted}
    names = ["uniform", *(f"markov_{k}" for k in range(9)), *(() if causal else (f"flanks_{k}" for k in range(1, 3)))]
    assert list(found.bits_per_base) == names
    assert found.bits_per_base["uniform"] == 2.0
    assert found.train_bases == heldout.manifest.splits["train"].bases


def test_order_0_is_the_entropy_of_both_strands(tmp_path):
    data = write_lambda_data(tmp_path / "data", {"kind": "char"})
    found = baselines([open_rows(str(data), "train")], open_rows(str(data), "test"), CausalLM())
    letters = lambda_letters()
    train, test = letters[: int(len(letters) * 0.8)], letters[int(len(letters) * 0.9) :]
    gc = (train.count(b"G") + train.count(b"C")) / len(train)
    test_gc = (test.count(b"G") + test.count(b"C")) / len(test)
    expected = -test_gc * math.log2(gc / 2) - (1 - test_gc) * math.log2((1 - gc) / 2)
    assert found.bits_per_base["markov_0"] == pytest.approx(expected, abs=1e-3)  # the first base of a window is not scored


def test_proteins_go_as_far_as_the_table_fits(tmp_path):
    tokenizer = build_tokenizer("protein", config_from_dict({"tokenization": {"kind": "amino_acid"}}).tokenization)
    residues = bytes(np.random.default_rng(0).choice(list(b"ACDEFGHIKLMNPQRSTVWY"), 600).tolist())
    data = write_data(tmp_path / "data", tokenizer, {"train": residues[:400], "test": residues[400:]}, max_length=50)
    found = baselines([open_rows(str(data), "train")], open_rows(str(data), "test"), CausalLM())
    assert list(found.bits_per_base) == ["uniform", "markov_0", "markov_1", "markov_2", "markov_3", "markov_4"]
    assert found.bits_per_base["uniform"] == pytest.approx(math.log2(22))


def test_beaten_names_orders_by_number():
    by_name = {"uniform": 2.0, "markov_0": 1.99, "markov_1": 1.95, "markov_2": 1.9, "flanks_1": 1.96}
    assert beaten(1.94, by_name) == ["uniform", 0, 1, "flanks_1"]
    assert beaten(1.95, by_name) == ["uniform", 0, "flanks_1"]
    assert beaten(2.1, by_name) == []


def test_overlapping_windows_count_each_base_once(tmp_path):
    """The smoothing looks at what recurs, so bases that are counted twice would make high orders overconfident."""
    plain = write_lambda_data(tmp_path / "plain", {"kind": "char"})
    overlapping = write_lambda_data(tmp_path / "overlapping", {"kind": "char"}, stride=32)
    heldout = open_rows(str(plain), "test")
    once, twice = (baselines([open_rows(str(data), "train")], heldout, CausalLM()).bits_per_base for data in (plain, overlapping))
    assert twice == pytest.approx(once, abs=3e-3)
