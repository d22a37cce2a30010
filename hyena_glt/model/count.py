"""Sizes before anything is built: parameters of a configuration, and the memory that training it takes on one worker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..config.tree import MixerKind, ModelConfig
from .build import build_model
from .heads import LOGITS_PER_CHUNK


def count_parameters(cfg: ModelConfig, *, vocab_size: int, causal: bool) -> int:
    """Parameters of `build_model` with the same arguments; a tied table counts once. No memory is taken."""
    with torch.device("meta"):
        model = build_model(cfg, vocab_size=vocab_size, causal=causal)
    return sum(parameter.numel() for parameter in model.parameters())


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryEstimate:
    """Bytes on one worker at the peak of a training step; what libraries and allocators take is not in it."""

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations


def layer_bytes_per_token(mixer: MixerKind, *, width: int, intermediate: int, compute_bytes: int) -> int:
    """What one block keeps of a token for the backward pass.

    fp32 stream: the two norms' inputs, 2 D. In the compute precision: their outputs, 2 D; the MLP's two sides, 2 I; and in the mixer
    3 D before and 3 D after the featurizer and 3 D around the long convolution (its input, its output, the gated output), or for
    attention 3 D of projections, 2 D of turned queries and keys, and the output twice, 2 D.
    """
    mixer_elements = 7 * width if mixer == "attention" else 9 * width
    return 4 * 2 * width + compute_bytes * (2 * width + 2 * intermediate + mixer_elements)


def estimate_memory(
    *, num_parameters: int, width: int, intermediate: int, layers: Sequence[MixerKind], num_rows: int, tokens: int,
    zero_stage: int = 0, world_size: int = 1, compute_bytes: int = 4, gradient_checkpointing: bool = False,
) -> MemoryEstimate:
    """Bytes for AdamW training with `tokens` tokens a worker and micro-step.

    layers: the mixer of each layer. compute_bytes: 2 under autocast, else 4. Weights, gradients and AdamW's two moments are fp32; ZeRO 1
    divides the moments by `world_size`, 2 the gradients too, 3 the weights too.

    activations = tokens * (sum of `layer_bytes_per_token` + final norm) + one chunk of logits and its gradient in fp32. With
    checkpointing a layer keeps its fp32 input, 4 D a token, and the largest layer is held in full while it is computed again.
    """
    shares = [world_size if zero_stage >= stage else 1 for stage in (1, 2, 3)]
    per_layer = [layer_bytes_per_token(m, width=width, intermediate=intermediate, compute_bytes=compute_bytes) for m in layers]
    per_token = len(layers) * 4 * width + max(per_layer) if gradient_checkpointing else sum(per_layer)
    logits = 2 * 4 * min(tokens * num_rows, LOGITS_PER_CHUNK)
    return MemoryEstimate(
        weights=num_parameters * 4 // shares[2],
        gradients=num_parameters * 4 // shares[1],
        optimizer=num_parameters * 8 // shares[0],
        activations=tokens * (per_token + 3 * 4 * width) + logits,
    )
