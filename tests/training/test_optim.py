"""Every parameter in the group where it belongs, and what each optimizer does to it."""

from __future__ import annotations

import re

import pytest
import torch

from hyena_glt.config import ModelConfig, TrainingConfig
from hyena_glt.model import LanguageModel, build_model
from hyena_glt.training.optim import Group, build_optimizer, parameter_groups, set_rate


def groups_of(model: torch.nn.Module, **training: object) -> list[Group]:
    return parameter_groups(model, TrainingConfig(**{"max_steps": 1} | training))


def model_of(mixers: tuple[str, ...], **settings: object) -> LanguageModel:
    torch.set_num_threads(1)
    fields = {"hidden_size": 8, "num_layers": len(mixers), "num_attention_heads": 2, "mixers": mixers, "max_position_embeddings": 32}
    return build_model(ModelConfig(**fields | settings), vocab_size=4, causal=False)


@pytest.mark.parametrize("settings", [{}, {"tie_embeddings": False}, {"position_encoding": "learned"}])
def test_every_parameter_is_in_one_group(settings):
    model = model_of(("se", "mr", "li", "hyena", "attention"), **settings)
    decayed, others = groups_of(model)
    assert (decayed.weight_decay, others.weight_decay) == (0.1, 0.0)
    assert decayed.rate_factor == others.rate_factor == 1.0
    grouped = [id(parameter) for group in (decayed, others) for parameter in group.parameters]
    assert len(grouped) == len(set(grouped)) and set(grouped) == {id(parameter) for parameter in model.parameters()}
    assert all(parameter._no_weight_decay for parameter in others.parameters)
    assert not any(getattr(parameter, "_no_weight_decay", False) for parameter in decayed.parameters)
    assert all(parameter.ndim == 2 for parameter in decayed.parameters), "norms, biases and filter taps do not decay"
    vocabulary = {id(parameter) for name, parameter in model.named_parameters() if parameter.shape[0] == model.num_rows}
    assert vocabulary and not vocabulary & {id(parameter) for parameter in decayed.parameters}, "embeddings do not decay"


@pytest.mark.parametrize("own", [{"optimizer": "adamw"}, {"optimizer": "muon", "muon_learning_rate": 5e-3}])
def test_lower_blocks_filters_and_matrices_have_rates_of_their_own(own):
    """Half the rate for each block above, the embeddings below the lowest; ten times it in filters; for Muon five times in matrices."""
    cfg = TrainingConfig(max_steps=1, learning_rate=1e-3, layer_rate_decay=0.5, filter_learning_rate=1e-2, **own)
    model = model_of(("se", "hyena", "attention"), position_encoding="learned", tie_embeddings=False)
    groups = parameter_groups(model, cfg)
    built = build_optimizer(groups, cfg, sharded=False)
    set_rate(built, 2e-3, [group.rate_factor for group in groups])
    rates = {id(parameter): group["lr"] for group in built.param_groups for parameter in group["params"]}
    above = {"backbone.embedding": 3, "backbone.positions": 3, "backbone.blocks.0": 2, "backbone.blocks.1": 1}
    for name, parameter in model.named_parameters():
        wanted = 2e-3 * 0.5 ** next((number for start, number in above.items() if name.startswith(start)), 0)
        if ".mixer.conv." in name:
            wanted *= 10
        elif cfg.optimizer == "muon" and re.search(r"(in_proj|out_proj|fc1|fc2)\.weight", name):
            wanted *= 5
        assert rates[id(parameter)] == pytest.approx(wanted), name


def test_frozen_parameters_and_empty_groups_are_left_out():
    layer = torch.nn.Linear(3, 3)
    layer.bias.requires_grad_(False)
    (only,) = groups_of(layer, weight_decay=0.3)
    assert only.weight_decay == 0.3 and [id(parameter) for parameter in only.parameters] == [id(layer.weight)]


def test_only_marked_parameters_escape_the_decay():
    layer = torch.nn.Linear(3, 2)
    layer.bias._no_weight_decay = True
    before = [parameter.detach().clone() for parameter in layer.parameters()]
    groups = groups_of(layer, learning_rate=1.0, weight_decay=0.1)
    optimizer = build_optimizer(groups, TrainingConfig(max_steps=1, learning_rate=1.0, weight_decay=0.1), sharded=False)
    set_rate(optimizer, 0.5, [group.rate_factor for group in groups])
    for parameter in layer.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(layer.weight.detach(), before[0] * (1 - 0.5 * 0.1))
    torch.testing.assert_close(layer.bias.detach(), before[1])


def test_muon_moves_matrices_together_as_deepspeed_does_one_by_one():
    """Over some steps, with its state saved and loaded between them; what has no gradient stays."""
    torch.manual_seed(0)
    cfg = TrainingConfig(max_steps=1, optimizer="muon", learning_rate=1e-2, muon_learning_rate=5e-2, weight_decay=0.1)
    together, alone = (model_of(("se", "attention", "li")) for _ in range(2))
    alone.load_state_dict(together.state_dict())
    optimizers = [
        build_optimizer(parameter_groups(model, cfg), cfg, sharded=sharded) for model, sharded in ((together, False), (alone, True))
    ]
    before = together.state_dict()["backbone.blocks.0.mlp.fc1.weight"].clone()
    for _ in range(4):
        for one, other in zip(together.parameters(), alone.parameters(), strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
        optimizers[0].load_state_dict(optimizers[0].state_dict())
    assert not torch.allclose(before, together.state_dict()["backbone.blocks.0.mlp.fc1.weight"], atol=1e-2)
    torch.testing.assert_close(together.state_dict(), alone.state_dict(), rtol=1e-4, atol=1e-5)
    optimizers[0].zero_grad()
    optimizers[0].step()
    torch.testing.assert_close(together.state_dict(), alone.state_dict(), rtol=1e-4, atol=1e-5)
