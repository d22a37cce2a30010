"""Which outputs each mixer can move: every position is perturbed, and exactly the outputs that should move do."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hyena_glt.config.tree import ModelConfig
from hyena_glt.model import build_model

LENGTH = 150
# Taps of the long filter less one: how far it reaches to each side.
REACH = {"se": 6, "mr": 127, "li": LENGTH, "hyena": LENGTH, "attention": LENGTH}


def _mixer(kind: str, causal: bool) -> nn.Module:
    torch.manual_seed(1)
    cfg = ModelConfig(hidden_size=4, num_attention_heads=1, num_layers=1, mixers=(kind,), max_position_embeddings=LENGTH)
    mixer = build_model(cfg, vocab_size=4, causal=causal).double().backbone.blocks[0].mixer
    for projection in (mixer.in_proj, mixer.out_proj):
        nn.init.normal_(projection.weight, std=0.5)
    return mixer


def _moved(mixer: nn.Module) -> Tensor:
    """[m, n]: whether a change of input m moves output n."""
    torch.manual_seed(2)
    x = torch.randn(LENGTH, 4, dtype=torch.float64)
    perturbed = x + torch.eye(LENGTH, dtype=torch.float64)[:, :, None]
    with torch.no_grad():
        y = mixer(torch.cat([x[None], perturbed]))
    change = (y[1:] - y[:1]).abs().amax(-1) / y.abs().max()
    # Between what rounding moves and what a filter's tail moves lies a gap, so that "exactly" means something.
    assert not ((change > 1e-14) & (change < 1e-12)).any()
    return change > 1e-13


@pytest.mark.parametrize("kind", REACH)
def test_a_causal_mixer_moves_only_what_follows(kind: str) -> None:
    lag = torch.arange(LENGTH)[None, :] - torch.arange(LENGTH)[:, None]
    featurizer = 0 if kind == "attention" else 2
    assert torch.equal(_moved(_mixer(kind, causal=True)), (lag >= 0) & (lag <= REACH[kind] + featurizer))


@pytest.mark.parametrize("kind", REACH)
def test_a_bidirectional_mixer_moves_both_sides(kind: str) -> None:
    lag = torch.arange(LENGTH)[None, :] - torch.arange(LENGTH)[:, None]
    featurizer = 0 if kind == "attention" else 1
    assert torch.equal(_moved(_mixer(kind, causal=False)), lag.abs() <= REACH[kind] + featurizer)
