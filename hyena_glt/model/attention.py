"""Multi-head attention by torch's scaled dot product (flash kernels where the device has them)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .positions import rotary_table, rotate


class Attention(nn.Module):
    """Multi-head attention, causal or bidirectional, with rotary positions if asked for. Padding stands at the end of a row."""

    def __init__(self, width: int, *, heads: int, rotary: bool, causal: bool) -> None:
        super().__init__()
        self.heads, self.rotary, self.causal = heads, rotary, causal
        self.in_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        """x [B, L, D], padding [B, L] (true = pad) -> [B, L, D]."""
        B, L, D = x.shape
        q, k, v = self.project(x)
        attended = F.scaled_dot_product_attention(q, k, v, self._mask(padding), is_causal=self.causal)
        return self.out_proj(attended.transpose(1, 2).reshape(B, L, D))

    def project(self, x: Tensor, start: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, L, D] at positions from `start` on -> queries, keys and values, [B, heads, L, D / heads] each."""
        B, L, D = x.shape
        q, k, v = self.in_proj(x).view(B, L, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)
        if self.rotary:
            table = rotary_table(x.detach(), L, D // self.heads // 2, start)
            q, k = rotate(q, table), rotate(k, table)
        return q, k, v

    def _mask(self, padding: Tensor | None) -> Tensor | None:
        """Which keys may be read, [B, 1, 1, L]. A causal token never reaches the padding behind it, so it needs none."""
        if padding is None or self.causal:
            return None
        readable = ~padding
        # A row that is all padding still reads one key: a softmax over nothing is NaN, also in the gradient.
        readable = readable | (readable.logical_not().all(1, keepdim=True))
        return readable[:, None, None, :]
