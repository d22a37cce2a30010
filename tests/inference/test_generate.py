"""Generation: greedy and drawn continuations, only symbols, consistent k-mers, windows that slide."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hyena_glt.inference import generate
from hyena_glt.inference.generate import Sampling, continue_ids
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
    drawn = continue_ids(loaded, np.tile(ids, (2000, 1)), 1, sampling=Sampling(temperature=2.0), draw=torch.Generator().manual_seed(0))
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
    drawn = continue_ids(loaded, prompt[None], 40, sampling=Sampling(temperature=1.0), draw=torch.Generator().manual_seed(0))[0]
    together = np.concatenate([prompt, drawn])
    np.testing.assert_array_equal(loaded.tokenizer.encode(loaded.tokenizer.decode(together).encode()), together)


def test_beyond_the_limit_the_last_half_is_read_again(tmp_path):
    loaded = random_model(tmp_path, causal=True, mixers=("se", "hyena"))
    prompt = random_bases(125)
    (whole,) = generate(loaded, [prompt], 100)
    assert len(whole) == 100
    assert whole[:4] == generate(loaded, [prompt], 4)[0]  # at 128 tokens, the limit, it reads 64 of them again
    assert whole[4:68] == generate(loaded, [(prompt + whole[:4])[-64:]], 64)[0]


def test_the_nucleus_is_drawn_from_by_its_shares():
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log().expand(4000, 4)
    drawn = Sampling(temperature=1.0, top_p=0.6).choose(logits, torch.Generator().manual_seed(0))
    shares = np.bincount(drawn[:, 0], minlength=4) / 4000
    np.testing.assert_allclose(shares, [4 / 7, 3 / 7, 0, 0], atol=0.03)
    least = Sampling(temperature=1.0, top_p=0.01).choose(logits, torch.Generator().manual_seed(0))
    assert (least == 0).all(), "the likeliest always stays"
    both = Sampling(temperature=1.0, top_k=3, top_p=0.9).choose(logits, torch.Generator().manual_seed(0))
    assert np.unique(both).tolist() == [0, 1, 2]


@pytest.mark.parametrize("tokenization", [{"kind": "char"}, {"kind": "kmer", "kmer_size": 3, "kmer_stride": 3},
                                          {"kind": "kmer", "kmer_size": 3, "kmer_stride": 1}], ids=["char", "disjoint", "overlapping"])
@pytest.mark.parametrize("prefix", ["A", "CG", "TTT", "GATTA"])
def test_a_continuation_begins_with_its_prefix_and_goes_on_as_behind_it(tmp_path, tokenization, prefix):
    loaded = random_model(tmp_path, causal=True, tokenization=tokenization)
    prompt = random_bases(31)
    (continuation,) = generate(loaded, [prompt], 6, prefix=prefix)
    assert continuation.startswith(prefix)
    step = loaded.tokenizer.bases_per_token
    whole = len(prefix) - len(prefix) % step
    assert len(continuation) == whole + 6 * step
    if whole == len(prefix):
        assert continuation[whole:] == generate(loaded, [prompt + prefix], 6)[0]


def test_it_ends_before_a_stop(tmp_path):
    loaded = random_model(tmp_path, causal=True, tokenization={"kind": "kmer", "kmer_size": 3, "kmer_stride": 3})
    (whole,) = generate(loaded, [random_bases(30)], 40, temperature=1.0)
    stops = [whole[50:57], whole[70:74]]
    ends = min(whole.find(word) for word in stops)
    assert generate(loaded, [random_bases(30)], 40, temperature=1.0, stop=stops) == [whole[:ends]]
    assert generate(loaded, [random_bases(30)], 40, temperature=1.0, stop=["ACGT" * 9]) == [whole]


def test_a_stop_counts_behind_the_prefix_alone(tmp_path):
    loaded = random_model(tmp_path, causal=True)
    (whole,) = generate(loaded, [random_bases(30)], 20, prefix="ATG")
    assert generate(loaded, [random_bases(30)], 20, prefix="ATG", stop=["TG" + whole[3], "AT"])[0].startswith(whole[:4])
    assert generate(loaded, [random_bases(30)], 20, prefix="ATG", stop=[whole[3:6]]) == ["ATG"]


def test_refusals(tmp_path):
    masked = random_model(tmp_path / "m", causal=False)
    with pytest.raises(ValueError, match="generate needs a causal model, and this one fills masks"):
        generate(masked, ["ACGT"], 1)
    causal = random_model(tmp_path / "c", causal=True)
    with pytest.raises(ValueError, match=r"prompt 0 \(0 letters\) is shorter than one token"):
        generate(causal, [""], 1)
    with pytest.raises(ValueError, match="top_k at least 1 and top_p above 0 and at most 1, got -1, None and None"):
        generate(causal, ["ACGT"], 1, temperature=-1)
    kmers = random_model(tmp_path / "k", causal=True, tokenization={"kind": "kmer", "kmer_size": 3, "kmer_stride": 3})
    with pytest.raises(ValueError, match="^prefix: no symbol begins with N; give the letters of bases$"):
        generate(kmers, ["ACGT"], 1, prefix="N")
    with pytest.raises(ValueError, match="^prefix: NN has letters that no symbol has$"):
        generate(causal, ["ACGT"], 1, prefix="NN")
    with pytest.raises(ValueError, match="^stop: an empty sequence stops everything; leave it out$"):
        generate(causal, ["ACGT"], 1, stop=[""])
