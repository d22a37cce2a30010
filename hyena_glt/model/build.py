"""From the `model` section to the network; everything below takes plain keywords."""

from __future__ import annotations

from torch import nn

from ..config.tree import MixerKind, ModelConfig
from ..tokenizers.base import NUM_SPECIAL
from .attention import Attention
from .backbone import Backbone, Vocabulary
from .block import Block
from .filters import ExplicitConv, ImplicitConv, ModalConv
from .heads import LanguageModel
from .init import init_weights, mark_parameters
from .mixers import HyenaMixer
from .positions import LearnedPositions, SinusoidalPositions


def build_model(cfg: ModelConfig, *, vocab_size: int, causal: bool) -> LanguageModel:
    """The language model, with initial weights from torch's global generator.

    vocab_size: symbols without specials (the data's; `cfg.vocab_size` was compared with it before). causal: each position sees only
    the past. The table has vocab_size + 5 rows, padded to a multiple of 8.
    """
    width, num_ids = cfg.hidden_size, vocab_size + NUM_SPECIAL
    blocks = [
        Block(width, _mixer(cfg.mixers[i % len(cfg.mixers)], cfg, causal), intermediate=cfg.intermediate_size or 4 * width,
              dropout=cfg.dropout, eps=cfg.layer_norm_eps)
        for i in range(cfg.num_layers)
    ]
    backbone = Backbone(Vocabulary(num_ids, width), _positions(cfg), blocks, width=width, dropout=cfg.dropout, eps=cfg.layer_norm_eps)
    head = None if cfg.tie_embeddings else Vocabulary(num_ids, width)
    model = LanguageModel(backbone, head, vocab_size=vocab_size, causal=causal, max_length=cfg.max_position_embeddings)
    init_weights(model, num_layers=cfg.num_layers)
    mark_parameters(model)
    return model


def _mixer(kind: MixerKind, cfg: ModelConfig, causal: bool) -> nn.Module:
    width = cfg.hidden_size
    if kind == "attention":
        return Attention(width, heads=cfg.num_attention_heads, rotary=cfg.position_encoding in (None, "rotary"), causal=causal)
    order = cfg.hyena_order if kind == "hyena" else 2
    return HyenaMixer(width, _convolution(kind, cfg, causal), order=order, featurizer_taps=cfg.featurizer_taps, causal=causal)


def _convolution(kind: MixerKind, cfg: ModelConfig, causal: bool) -> nn.Module:
    width = cfg.hidden_size
    match kind:
        case "se":
            return ExplicitConv(width, taps=cfg.se_taps, causal=causal, decay=False)
        case "mr":
            return ExplicitConv(width, taps=cfg.mr_taps, causal=causal, decay=True)
        case "li":
            return ModalConv(width, poles=cfg.li_poles, causal=causal)
    return ImplicitConv(width, steps=cfg.hyena_order - 1, max_length=cfg.max_position_embeddings, width=cfg.hyena_filter_order,
                        shift=cfg.hyena_filter_shift, causal=causal)


def _positions(cfg: ModelConfig) -> nn.Module | None:
    """What is added to the embeddings; rotary positions, the default of patterns with attention, act inside attention."""
    if cfg.position_encoding == "learned":
        return LearnedPositions(cfg.max_position_embeddings, cfg.hidden_size)
    return SinusoidalPositions() if cfg.position_encoding == "sinusoidal" else None
