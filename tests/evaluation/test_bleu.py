"""BLEU: 100 for a model that knows the text, definition by hand for one that does not, and what it was taken on."""

from __future__ import annotations

import numpy as np
import pytest
import sacrebleu
import torch

from hyena_glt.data.dataset import open_rows
from hyena_glt.evaluation.bleu import _corpus_bleu, bleu, spread
from hyena_glt.inference import generate
from tests.tiny_run import random_model, write_data, write_lambda_data


def test_spread_is_even_and_complete():
    assert spread(100, 5).tolist() == [0, 25, 50, 74, 99]
    assert spread(3, 8).tolist() == [0, 1, 2]


def test_words_are_tokens():
    same = _corpus_bleu([np.array([5, 6, 7, 8, 6])], [np.array([5, 6, 7, 8, 6])])
    assert (same.score, same.num_windows, same.num_tokens) == (pytest.approx(100.0), 1, 5)
    assert _corpus_bleu([np.array([5, 5, 5, 5])], [np.array([6, 6, 6, 6])]).score < 20


def test_causal_continues_the_first_half(tmp_path):
    data = write_lambda_data(tmp_path / "data", {"kind": "char"}, max_length=40)
    loaded, rows = random_model(tmp_path / "run", causal=True), open_rows(str(data), "test")
    windows = [loaded.tokenizer.decode(ids) for ids in rows.read(spread(rows.num_rows, 8))]
    continued = generate(loaded, [w[: len(w) // 2] for w in windows], 20)
    hypotheses = [" ".join(c[: len(w) - len(w) // 2]) for c, w in zip(continued, windows, strict=True)]
    expected = sacrebleu.corpus_bleu(hypotheses, [[" ".join(w[len(w) // 2 :]) for w in windows]], tokenize="none", force=True)
    taken = bleu(loaded, rows, batch_size=4)
    assert taken.score == pytest.approx(expected.score)
    assert taken.num_windows == 8 and taken.num_tokens == sum(len(w) - len(w) // 2 for w in windows)


@pytest.mark.parametrize("tokenization", [{"kind": "char"}, {"kmer_size": 3, "kmer_stride": 1}])
def test_masked_fills_what_is_hidden(tmp_path, tokenization):
    """On a genome of one letter, a model that always says that letter fills every mask right; any other letter lowers the score."""
    loaded = random_model(tmp_path / "run", causal=False, tokenization=tokenization)
    data = write_data(tmp_path / "data", loaded.tokenizer, {"test": b"A" * 500}, max_length=60)
    rows = open_rows(str(data), "test")
    weight = loaded.model.backbone.embedding.weight
    scores = {}
    for says in (5, 6):
        with torch.no_grad():
            loaded.model.backbone.norm.weight.zero_()
            loaded.model.backbone.norm.bias.fill_(1.0)
            weight[5:] = -1.0
            weight[says] = 1.0
        taken = bleu(loaded, rows, batch_size=4)
        scores[says] = taken.score
        assert taken.num_windows == rows.num_rows and taken.num_tokens == rows.num_tokens
    assert scores[5] == pytest.approx(100.0)
    assert scores[6] < 95
