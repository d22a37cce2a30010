"""The stack: embedding, positions, blocks, final norm."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .block import Norm
from .filters import full_precision


class Vocabulary(nn.Module):
    """The table of token vectors, read in both directions: ids to vectors, and vectors to logits.

    Both ways go through `forward`, so that a tied table is whole wherever it is read when its rows are sharded (ZeRO 3).
    Rows from `num_ids` on pad the table to a multiple of 8; whoever reads logits leaves them out.
    """

    def __init__(self, num_ids: int, width: int) -> None:
        super().__init__()
        self.num_ids, self.num_rows = num_ids, -(-num_ids // 8) * 8
        self.weight = nn.Parameter(torch.empty(self.num_rows, width))

    def forward(self, x: Tensor, *, unembed: bool = False) -> Tensor:
        """Ids [...] -> vectors [..., D]; with `unembed`, vectors [..., D] -> logits [..., rows]."""
        return F.linear(x, self.weight) if unembed else F.embedding(x, self.weight)


class Backbone(nn.Module):
    """Ids to hidden states; with `gradient_checkpointing`, each block is computed again in the backward pass."""

    def __init__(
        self, embedding: Vocabulary, positions: nn.Module | None, blocks: Sequence[nn.Module], *, width: int, dropout: float, eps: float,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.gradient_checkpointing = gradient_checkpointing
        self.observer: Callable[[int, Tensor], None] | None = None
        """Shown each block's number and output, [B, L, D]."""
        self.embedding, self.positions = embedding, positions
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(blocks)
        self.norm = Norm(width, eps=eps)

    def forward(self, ids: Tensor, padding: Tensor | None = None) -> Tensor:
        """ids [B, L] int64, padding [B, L] (true = pad, at the end of a row) -> hidden states [B, L, D] after the final norm."""
        x = full_precision(self.embedding(ids))
        if self.positions is not None:
            x = self.positions(x)
        x = self.dropout(x)
        for number, block in enumerate(self.blocks):
            recompute = self.gradient_checkpointing and torch.is_grad_enabled()
            x = checkpoint(block, x, padding, use_reentrant=False) if recompute else block(x, padding)
            if self.observer is not None:
                self.observer(number, x)
        return self.norm(x)
