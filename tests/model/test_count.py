"""The planner's numbers against what torch really holds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hyena_glt.config.tree import ModelConfig
from hyena_glt.model import LanguageModel, build_model
from hyena_glt.model.count import count_parameters, estimate_memory

SIZES = {"num_parameters": 1000, "width": 8, "intermediate": 32, "layers": ("se",), "num_rows": 16, "tokens": 10}


def _saved_bytes(model: LanguageModel, ids: Tensor, precision: torch.dtype) -> int:
    """Bytes of every storage but the parameters' that autograd keeps between forward and backward."""
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    storages = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            storages[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cpu", precision):
        model(ids, None, ids)
    return sum(storage.nbytes() for storage in storages.values())


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["se", "mr", "li", "hyena", "attention"])
@pytest.mark.filterwarnings("ignore:In CPU autocast")
def test_activations_are_estimated_within_30_percent(kind: str, precision: torch.dtype) -> None:
    cfg = ModelConfig(hidden_size=64, num_layers=2, num_attention_heads=2, mixers=(kind,), max_position_embeddings=1024)
    model, ids = build_model(cfg, vocab_size=4, causal=True), torch.randint(5, 9, (4, 1024))
    sizes = {"num_parameters": 0, "width": 64, "intermediate": 256, "layers": (kind,) * 2, "num_rows": 16, "tokens": ids.numel()}
    plain = _saved_bytes(model, ids, precision)
    sizes["compute_bytes"] = 2 if precision == torch.bfloat16 else 4
    assert estimate_memory(**sizes).activations == pytest.approx(plain, rel=0.3)
    model.backbone.gradient_checkpointing = True
    recomputing = _saved_bytes(model, ids, precision) + plain // 2
    assert estimate_memory(**sizes, gradient_checkpointing=True).activations == pytest.approx(recomputing, rel=0.3)


@pytest.mark.parametrize(("stage", "shares"), [
    (0, (4000, 4000, 8000)), (1, (4000, 4000, 2000)), (2, (4000, 1000, 2000)), (3, (1000, 1000, 2000)),
])
def test_zero_divides_one_state_more_with_each_stage(stage: int, shares: tuple[int, int, int]) -> None:
    estimate = estimate_memory(**SIZES, zero_stage=stage, world_size=4)
    assert (estimate.weights, estimate.gradients, estimate.optimizer) == shares
    assert estimate.total == sum(shares) + estimate.activations


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
def test_counts_are_those_of_the_built_model(causal: bool) -> None:
    cfg = ModelConfig(hidden_size=16, num_layers=7, num_attention_heads=2, max_position_embeddings=32, tie_embeddings=False)
    built = sum(p.numel() for p in build_model(cfg, vocab_size=4, causal=causal).parameters())
    assert count_parameters(cfg, vocab_size=4, causal=causal) == built
