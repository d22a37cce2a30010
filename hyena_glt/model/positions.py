"""Position encodings: learned and sinusoidal ones are added to the embeddings, rotary ones turn queries and keys in attention."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class LearnedPositions(nn.Module):
    """A trained vector for each position; ValueError beyond `max_length`."""

    def __init__(self, max_length: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(max_length, width))

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        """x [B, L, D] -> x plus the vectors of positions start .. start + L-1."""
        end = start + x.shape[1]
        if end > len(self.weight):
            raise ValueError(f"a sequence of {end} tokens is longer than the learned positions ({len(self.weight)}); "
                             "set model.max_position_embeddings, or another model.position_encoding")
        return x + self.weight[start:end]


class SinusoidalPositions(nn.Module):
    """Sines and cosines of the position at geometrically spaced frequencies, 1 to 1/10000."""

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        """x [B, L, D] -> x plus the encoding of positions start .. start + L-1, as large as an embedding at the start of training."""
        _, L, D = x.shape
        angles = _angles(start, L, -(-D // 2), x.device)
        return x + 0.02 * torch.stack([angles.sin(), angles.cos()], -1).flatten(1)[:, :D].to(x.dtype)


def _angles(start: int, length: int, frequencies: int, device: torch.device) -> Tensor:
    """position * frequency [length, frequencies] in fp32, from position `start` on."""
    exponent = torch.arange(frequencies, device=device, dtype=torch.float32) / frequencies
    positions = torch.arange(start, start + length, device=device, dtype=torch.float32)
    return positions[:, None] * torch.exp(-math.log(10_000) * exponent)


# An operator of its own, so that a compiled block reads the table instead of computing it again for each head, row and pass.
@torch.library.custom_op("hyena_glt::rotary_table", mutates_args=())
def rotary_table(like: Tensor, length: int, frequencies: int, start: int = 0) -> Tensor:
    """Cosine and sine of position * frequency from position `start` on, fp32 [2, length, frequencies], on the device of `like`."""
    angles = _angles(start, length, frequencies, like.device)
    return torch.stack([angles.cos(), angles.sin()])


@rotary_table.register_fake
def _(like: Tensor, length: int, frequencies: int, start: int = 0) -> Tensor:
    return like.new_empty((2, length, frequencies), dtype=torch.float32)


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotary positions: turn each pair of features of x [B, heads, L, features] by position * frequency (`rotary_table`), in fp32."""
    half = x.shape[-1] // 2
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    cos, sin = table
    return torch.cat([first * cos - second * sin, first * sin + second * cos, rest], -1).to(x.dtype)
