"""Generation: greedy and drawn continuations, only symbols, consistent k-mers, windows that slide."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hyena_glt.inference import generate
from hyena_glt.inference.generate import continue_ids
from tests.tiny_run import random_bases, random_model


def test_greedy_takes_the_likeliest_symbol(tmp_path):
    loaded = random_model(tmp_path, causal=True)
    with torch.no_grad():
        loaded.model.backbone.embedding.weight[:5] *= 50  # specials that would win if they were allowed to
    text = prompt = random_bases(20)
    for _ in range(8):
        ids = torch.from_numpy(loaded.tokenizer.encode(text.encode()).astype(np.int64))
        with torch.no_grad():
            text += "ACGT"[int(loaded.model(ids[None])[0, -1, 5:9].argmax())]
    assert generate(loaded, [prompt], 8) == [text[20:]]


def test_draws_follow_seed_and_place(tmp_path):
    loaded = random_model(tmp_path, causal=True)
    prompts = [random_bases(20)] * 3
    first = generate(loaded, prompts, 10, temperature=1.0, seed=1)
    assert first == generate(loaded, prompts, 10, temperature=1.0, seed=1)
    assert len(set(first)) == 3
    assert generate(loaded, prompts, 10, temperature=1.0, seed=2)[0] == first[1]
    assert generate(loaded, prompts[:1], 10, temperature=1.0, top_k=1) == generate(loaded, prompts[:1], 10)


def test_draws_have_the_models_frequencies(tmp_path):
    loaded = random_model(tmp_path, causal=True)
    ids = loaded.tokenizer.encode(random_bases(20).encode()).astype(np.int64)
    with torch.no_grad():
        wanted = (loaded.model(torch.from_numpy(ids)[None])[0, -1, 5:9] / 2.0).softmax(-1).numpy()
    drawn = continue_ids(loaded, np.tile(ids, (2000, 1)), 1, temperature=2.0, draw=torch.Generator().manual_seed(0))
    np.testing.assert_allclose([(drawn == base).mean() for base in range(5, 9)], wanted, atol=0.05)


@pytest.mark.parametrize("stride", [1, 3])
def test_kmers_give_whole_new_bases(tmp_path, stride):
    loaded = random_model(tmp_path, causal=True, tokenization={"kind": "kmer", "kmer_size": 3, "kmer_stride": stride})
    prompt = random_bases(31)
    (continuation,) = generate(loaded, [prompt], 40, temperature=1.0)
    assert len(continuation) == 40 * stride
    assert set(continuation) <= set("ACGT")


def test_overlapping_kmers_agree_on_the_bases_they_share(tmp_path):
    loaded = random_model(tmp_path, causal=True, tokenization={"kind": "kmer", "kmer_size": 3, "kmer_stride": 1})
    prompt = loaded.tokenizer.encode(random_bases(31).encode()).astype(np.int64)
    drawn = continue_ids(loaded, prompt[None], 40, temperature=1.0, draw=torch.Generator().manual_seed(0))[0]
    together = np.concatenate([prompt, drawn])
    np.testing.assert_array_equal(loaded.tokenizer.encode(loaded.tokenizer.decode(together).encode()), together)


def test_beyond_the_limit_the_window_slides(tmp_path):
    loaded = random_model(tmp_path, causal=True, mixers=("se", "hyena"))
    assert len(generate(loaded, [random_bases(125)], 10)[0]) == 10


def test_refusals(tmp_path):
    masked = random_model(tmp_path / "m", causal=False)
    with pytest.raises(ValueError, match="generate needs a causal model, and this one fills masks"):
        generate(masked, ["ACGT"], 1)
    causal = random_model(tmp_path / "c", causal=True)
    with pytest.raises(ValueError, match=r"prompt 0 \(0 letters\) is shorter than one token"):
        generate(causal, [""], 1)
    with pytest.raises(ValueError, match="temperature must be at least 0 and top_k at least 1, got -1 and None"):
        generate(causal, ["ACGT"], 1, temperature=-1)
