"""Token by token a model says what it says when it reads the whole sequence, whatever it is made of."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hyena_glt.config.tree import ModelConfig
from hyena_glt.model.build import build_model
from hyena_glt.model.decoding import CHUNK, DIRECT, Decoder
from hyena_glt.model.heads import LanguageModel

KINDS = ("se", "mr", "li", "hyena", "attention")


def model_of(*mixers: str, **more: object) -> LanguageModel:
    given = {"hidden_size": 24, "num_layers": len(mixers), "max_position_embeddings": 300, **more}
    torch.manual_seed(0)
    return build_model(ModelConfig(mixers=mixers, **given), vocab_size=4, causal=True).double().eval()


MODELS = {kind: model_of(kind) for kind in KINDS} | {
    "all": model_of(*KINDS), "order 3": model_of("hyena", hyena_order=3), "untied": model_of("li", "attention", tie_embeddings=False),
    "learned": model_of("se", "attention", position_encoding="learned"),
    "sinusoidal": model_of("attention", position_encoding="sinusoidal"),
}


@torch.inference_mode()
def largest_difference(model: LanguageModel, length: int, prompt: int, rows: int = 2) -> float:
    """Between the logits behind each token, from the prompt's last on, and those of the whole sequence, over their size."""
    ids = torch.randint(5, 9, (rows, length))
    whole = model(ids)[..., : model.num_ids]
    decoder = Decoder(model, length)
    steps = [decoder.read(ids[:, :prompt]), *(decoder.read(ids[:, place : place + 1]) for place in range(prompt, length))]
    found = torch.stack(steps, 1)[..., : model.num_ids]
    return ((found - whole[:, prompt - 1 :]).abs().max() / whole.abs().max()).item()


@pytest.mark.parametrize("kind", MODELS)
@given(lengths=st.tuples(st.integers(1, 150), st.integers(0, 140)))
@settings(max_examples=12, deadline=None)
def test_the_logits_are_those_of_the_whole_sequence(kind: str, lengths: tuple[int, int]) -> None:
    prompt, new = lengths
    assert largest_difference(MODELS[kind], prompt + new, prompt) < 1e-9


@pytest.mark.parametrize("kind", KINDS)
def test_single_precision_is_as_close_as_promised(kind: str) -> None:
    assert largest_difference(model_of(kind).float(), 300, 40) < 1e-4


@pytest.mark.parametrize(("prompt", "new"), [(CHUNK, 3), (3 * CHUNK + 1, 3), (1, 4 * DIRECT + 3), (2 * DIRECT, 8 * DIRECT)])
def test_long_prompts_and_long_continuations(prompt: int, new: int) -> None:
    model = model_of(*KINDS, max_position_embeddings=prompt + new)
    assert largest_difference(model, prompt + new, prompt, rows=1) < 1e-9


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="^301 tokens are more than this model's limit of 300 "):
        Decoder(MODELS["se"], 301)
    decoder = Decoder(MODELS["se"], 8)
    decoder.read(torch.randint(5, 9, (1, 8)))
    with pytest.raises(ValueError, match="^9 tokens are more than the 8 that there is room for$"):
        decoder.read(torch.randint(5, 9, (1, 1)))
    masked = build_model(ModelConfig(mixers=("se",), hidden_size=24, num_layers=1), vocab_size=4, causal=False)
    with pytest.raises(ValueError, match="^a bidirectional model reads whole sequences"):
        Decoder(masked, 8)
