"""Embeddings: shapes, pooling, and independence of batches and windows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hyena_glt.inference import embed
from tests.tiny_run import random_bases, random_model


@pytest.mark.parametrize("specials", [False, True])
def test_tokens_are_the_hidden_states(tmp_path, specials):
    loaded = random_model(tmp_path, causal=False, tokenization={"kind": "char", "add_special_tokens": specials})
    sequence = random_bases(30)
    ids = loaded.tokenizer.encode(sequence.encode()).astype(np.int64)
    row = np.concatenate([[2], ids, [3]]) if specials else ids
    with torch.no_grad():
        hidden = loaded.model.hidden(torch.from_numpy(row)[None])[0].numpy()
    (tokens,) = embed(loaded, [sequence], pool=None)
    np.testing.assert_allclose(tokens, hidden[1:-1] if specials else hidden, rtol=1e-5, atol=1e-6)


def test_mean_is_over_all_tokens_of_all_windows(tmp_path):
    loaded = random_model(tmp_path, causal=True)
    sequences = [random_bases(n, seed=n) for n in (20, 300, 129)]
    means, tokens = embed(loaded, sequences), embed(loaded, sequences, pool=None)
    assert [t.shape for t in tokens] == [(20, 32), (300, 32), (129, 32)]
    for mean, states in zip(means, tokens, strict=True):
        assert mean.dtype == np.float32
        np.testing.assert_allclose(mean, states.mean(0), rtol=1e-4, atol=1e-5)


def test_batch_mates_and_padding_change_nothing(tmp_path):
    loaded = random_model(tmp_path, causal=False, mixers=("hyena", "se", "mr", "li", "attention"))
    sequences = [random_bases(n, seed=n) for n in (5, 128, 31)]
    for together, sequence in zip(embed(loaded, sequences, batch_size=3), sequences, strict=True):
        np.testing.assert_allclose(together, embed(loaded, [sequence])[0], rtol=1e-4, atol=2e-5)


def test_windows_are_exact_where_the_receptive_field_fits(tmp_path):
    settings = {"mr_taps": 9, "max_position_embeddings": 64}
    loaded = random_model(tmp_path, causal=False, mixers=("se", "mr"), model=settings)
    sequence = random_bases(400)
    (cut,) = embed(loaded, [sequence], pool=None, overlap=36)  # 18 tokens of context on either side
    (shared_too_little,) = embed(loaded, [sequence], pool=None, overlap=4)
    loaded.model.max_length = 4096
    (whole,) = embed(loaded, [sequence], pool=None)
    np.testing.assert_allclose(cut, whole, rtol=1e-4, atol=1e-5)
    assert np.abs(shared_too_little - whole).max() > 1e-2


def test_sequence_without_a_token(tmp_path):
    loaded = random_model(tmp_path, causal=True, tokenization={"kind": "kmer", "kmer_size": 3})
    with pytest.raises(ValueError, match=r"sequence 1 \(2 letters\) is shorter than one token \(3 letters\)"):
        embed(loaded, ["ACGT", "AC"])
