"""Objectives: from rows of token ids to inputs, targets and weights; NumPy only."""

from __future__ import annotations

from ..config.tree import CausalLMConfig, MaskedLMConfig
from ..tokenizers import Tokenizer
from .base import IGNORE, Example, Objective
from .causal import CausalLM
from .masked import MaskedLM

__all__ = ["IGNORE", "CausalLM", "Example", "MaskedLM", "Objective", "build_objective"]


def build_objective(task: MaskedLMConfig | CausalLMConfig, tokenizer: Tokenizer) -> Objective:
    """The objective that `task` declares, for ids of `tokenizer`."""
    if isinstance(task, CausalLMConfig):
        return CausalLM(span=tokenizer.span if tokenizer.overlapping else 1)
    return MaskedLM(
        mask_probability=task.mask_probability,
        vocab_size=tokenizer.vocab_size,
        span=tokenizer.span if tokenizer.overlapping else 1,
    )
