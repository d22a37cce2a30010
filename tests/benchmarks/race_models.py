"""The race's models, all called alike: (ids, padding, targets) -> (sum of the loss in nats, right ones); and their optimizer."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from race_recipes import Recipe
from torch import Tensor, nn

from hyena_glt.config.tree import ModelConfig, TrainingConfig
from hyena_glt.model import build_model
from hyena_glt.model.heads import cross_entropy
from hyena_glt.training import optim

VOCAB_SIZE, NUM_IDS, ROWS = 4, 9, 16
"""Bases; with the specials; rows of the table."""


def build(recipe: Recipe, *, length: int, hyenadna: Path | None) -> nn.Module:
    """The model with initial weights from torch's global generator, its parts compiled if asked for."""
    if recipe.family == "hyenadna":
        if hyenadna is None:
            raise SystemExit("--hyenadna: give the path of HyenaDNA's standalone_hyenadna.py")
        return HyenaDNA(recipe, load_file(hyenadna), max(int(length) for _, length in recipe.lengths))
    cfg = ModelConfig(
        hidden_size=recipe.hidden_size, num_layers=recipe.num_layers, num_attention_heads=recipe.num_attention_heads,
        intermediate_size=recipe.intermediate_size or None, max_position_embeddings=length, mixers=recipe.mixers,
        dropout=recipe.dropout_at(0.0),
    )
    model = build_model(cfg, vocab_size=VOCAB_SIZE, causal=True)
    if recipe.compile_model:
        model.compile_parts()
    return model


class HyenaDNA(nn.Module):
    """HyenaDNA's published model with a head tied to its embedding, as in its pretraining, and our loss."""

    def __init__(self, recipe: Recipe, published: ModuleType, length: int) -> None:
        super().__init__()
        layer = {"emb_dim": 5, "filter_order": 64, "l_max": length + 2, "modulate": True, "w": 10, "lr_pos_emb": 0.0}
        self.model = published.HyenaDNAModel(
            d_model=recipe.hidden_size, n_layer=recipe.num_layers, d_inner=recipe.intermediate_size or 4 * recipe.hidden_size,
            vocab_size=ROWS, layer=layer, embed_dropout=recipe.dropout_at(0.0), residual_in_fp32=True,
        )
        self._loss: Any = cross_entropy
        if recipe.compile_model:
            self.model.compile()
            self._loss = torch.compile(cross_entropy)
        self._mark_no_weight_decay()

    def _mark_no_weight_decay(self) -> None:
        """Its rule: norms, biases, the embedding, and what carries a decay of its own (the filters, 0)."""
        for module in self.modules():
            for name, parameter in module.named_parameters(recurse=False):
                own = getattr(parameter, "_optim", {}).get("weight_decay") == 0
                parameter._no_weight_decay = own or "bias" in name or isinstance(module, (nn.LayerNorm, nn.Embedding))

    def forward(self, ids: Tensor, padding: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.model(ids)
        logits = F.linear(hidden.flatten(0, 1), self.model.backbone.embeddings.word_embeddings.weight)
        return self._loss(logits, targets.flatten(), None, NUM_IDS)


def load_file(path: Path) -> ModuleType:
    """The published file as a module. Its tokenizer, which is not used here, needs classes that newer transformers have moved."""
    try:
        import transformers.tokenization_utils  # noqa: F401
    except ImportError:
        stand_in: Any = ModuleType("transformers.tokenization_utils")
        stand_in.AddedToken = stand_in.PreTrainedTokenizer = object
        sys.modules.setdefault("transformers", ModuleType("transformers"))
        sys.modules["transformers.tokenization_utils"] = stand_in
    spec = importlib.util.spec_from_file_location("standalone_hyenadna", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"--hyenadna: {path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build_optimizer(model: nn.Module, recipe: Recipe) -> tuple[torch.optim.Optimizer, list[float]]:
    """The optimizer that `hyena-glt pretrain` would take, and the rate factors of its groups."""
    own = {"muon_learning_rate": recipe.muon_learning_rate} if recipe.optimizer == "muon" else {}
    cfg = TrainingConfig(
        max_steps=1, optimizer=recipe.optimizer, learning_rate=recipe.learning_rate, weight_decay=recipe.weight_decay,
        adam_beta2=recipe.adam_beta2, **own,
    )
    groups = optim.parameter_groups(model, cfg)
    return optim.build_optimizer(groups, cfg, sharded=False), [group.rate_factor for group in groups]
