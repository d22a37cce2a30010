"""HyenaDNA's own code and ours: the same weights give the same outputs, gradients and logits; the sizes match to the parameter."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hyena_glt.config.tree import ModelConfig, TokenizationConfig
from hyena_glt.errors import CheckpointError
from hyena_glt.model import build_model
from hyena_glt.model.count import count_parameters
from hyena_glt.model.hyenadna import ROWS, convert_state_dict
from hyena_glt.tokenizers import build_tokenizer

FIXTURE = Path(__file__).with_name("hyenadna.safetensors")
TINY = ModelConfig(hidden_size=16, num_layers=2, mixers=("hyena",), max_position_embeddings=64, hyena_filter_shift=0.05)


def _part(prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in load_file(FIXTURE).items() if name.startswith(prefix)}


def test_same_weights_same_outputs_and_gradients() -> None:
    published = load_file(FIXTURE)
    # The fixture's table has 16 rows, all of them real: none is masked as padding.
    model = build_model(TINY, vocab_size=11, causal=True)
    model.load_state_dict(convert_state_dict(_part("weight/")))
    outputs = model.hidden(torch.tensor(ROWS).argsort()[published["ids"]])
    torch.testing.assert_close(outputs, published["outputs"], rtol=1e-5, atol=1e-5)
    (outputs * published["direction"]).sum().backward()
    gradients = convert_state_dict(_part("gradient/"))
    assert set(gradients) == set(dict(model.named_parameters()))
    for name, parameter in model.named_parameters():
        error = (parameter.grad - gradients[name]).norm() / gradients[name].norm()
        assert error < 1e-4, f"{name}: {error}"


def test_our_tokens_give_the_published_logits() -> None:
    published = load_file(FIXTURE)
    tokenizer = build_tokenizer("dna", TokenizationConfig(kind="char"))
    model = build_model(TINY, vocab_size=tokenizer.vocab_size, causal=True)
    model.load_state_dict(convert_state_dict(_part("weight/")))
    letters = bytes(published["letters"].tolist())
    assert set(letters) == set(b"ACGTN")
    logits = model(torch.from_numpy(tokenizer.encode(letters)).long()[None])
    # [PAD] [MASK] [CLS] [SEP], N for our [UNK], A C G T: their ids in the order of ours.
    torch.testing.assert_close(logits[..., :9], published["logits"][..., [4, 3, 0, 1, 11, 7, 8, 9, 10]], rtol=1e-5, atol=1e-5)


def test_every_row_is_kept_once() -> None:
    assert sorted(ROWS) == list(range(16))


def test_a_table_of_other_tokens_is_refused() -> None:
    weights = {"backbone.embeddings.word_embeddings.weight": torch.zeros(4096, 16)}
    with pytest.raises(CheckpointError, match=r"backbone\.embedding\.weight has 4096 rows, and HyenaDNA's have 16: these weights read"):
        convert_state_dict(weights)


@pytest.mark.parametrize("rename", [
    lambda name: "model." + name,
    lambda name: "hyena." + name,
    lambda name: name.replace(".mixer.", ".mixer.layer.").replace(".mlp.", ".mlp.layer."),
], ids=["Lightning", "Hugging Face", "checkpointed"])
def test_the_names_of_every_release_are_read(rename) -> None:
    plain = _part("weight/")
    converted = convert_state_dict({rename(name): value for name, value in plain.items()})
    wanted = convert_state_dict(plain)
    assert converted.keys() == wanted.keys() and all(converted[name].equal(wanted[name]) for name in wanted)


def test_a_head_of_its_own_needs_an_untied_model() -> None:
    weights = _part("weight/")
    table = weights["backbone.embeddings.word_embeddings.weight"]
    assert "head.weight" not in convert_state_dict(weights | {"lm_head.weight": table})
    with pytest.raises(CheckpointError, match=r"two values for backbone\.embedding\.weight.*set model\.tie_embeddings to false"):
        convert_state_dict(weights | {"lm_head.weight": table + 1})
    assert convert_state_dict(weights | {"lm_head.weight": table + 1}, tie_embeddings=False)["head.weight"].equal(table[list(ROWS)] + 1)


def test_a_foreign_name_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"head\.output_transform\.weight is not a parameter of HyenaDNA's language model"):
        convert_state_dict({"head.output_transform.weight": torch.zeros(1)})


@pytest.mark.parametrize(("layers", "width", "parameters"), [
    (2, 128, 436_096), (2, 256, 1_641_088), (4, 256, 3_277_568), (8, 256, 6_550_528),
])
def test_published_backbones_have_exactly_their_parameters(layers: int, width: int, parameters: int) -> None:
    cfg = ModelConfig(hidden_size=width, num_layers=layers, mixers=("hyena",))
    assert count_parameters(cfg, vocab_size=11, causal=True) == parameters
