"""Continuing sequences with a causal model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..tokenizers.base import CLS, NUM_SPECIAL
from .load import LoadedModel


def generate(
    loaded: LoadedModel,
    prompts: Sequence[str],
    num_tokens: int,
    *,
    temperature: float = 0.0,
    top_k: int | None = None,
    seed: int = 0,
) -> list[str]:
    """The continuation of each prompt by `num_tokens` tokens, without the prompt.

    `temperature` 0 takes the likeliest token; above, tokens are drawn from the `top_k` likeliest (default: all), each prompt
    with its own generator from `seed` and its place in the list. Of a prompt that is no multiple of k, the first bases are
    left out, so that the last k-mer ends with the prompt.

    The cost: no state is kept, every token reads its whole window again, so n tokens behind a prompt of p read about
    n * (p + n / 2) positions. Beyond the model's limit the window slides.
    Raises ValueError for a masked model, a prompt without a token, a negative temperature, a `top_k` below 1.
    """
    if not loaded.causal:
        raise ValueError("generate needs a causal model, and this one fills masks; train with tasks.causal_lm")
    if temperature < 0 or (top_k is not None and top_k < 1):
        raise ValueError(f"temperature must be at least 0 and top_k at least 1, got {temperature} and {top_k}")
    tokenizer = loaded.tokenizer
    continuations = []
    for number, prompt in enumerate(prompts):
        ids = tokenizer.encode(prompt[len(prompt) % tokenizer.bases_per_token :].encode())
        if not len(ids):
            raise ValueError(f"prompt {number} ({len(prompt)} letters) is shorter than one token ({tokenizer.span} letters)")
        draw = torch.Generator().manual_seed(seed + number)
        new = continue_ids(loaded, ids[None].astype(np.int64), num_tokens, temperature=temperature, top_k=top_k, draw=draw)[0]
        continuations.append(tokenizer.decode(new)[-num_tokens * tokenizer.bases_per_token :])
    return continuations


@torch.inference_mode()
def continue_ids(
    loaded: LoadedModel, prompts: np.ndarray, num_tokens: int, *, temperature: float = 0.0, top_k: int | None = None, draw: torch.Generator
) -> np.ndarray:
    """prompts int64 [B, L] without specials -> the next `num_tokens` ids of each, int64 [B, num_tokens]."""
    rows = torch.from_numpy(prompts).to(loaded.device)
    start = torch.full((len(rows), int(loaded.tokenizer.add_special_tokens)), CLS, device=loaded.device)
    room = loaded.model.max_length - start.shape[1]
    for _ in range(num_tokens):
        window = torch.cat([start, rows[:, -room:]], 1)
        logits = loaded.model.logits(loaded.model.hidden(window)[:, -1]).float()
        symbols = logits[:, NUM_SPECIAL : loaded.tokenizer.num_ids]  # neither specials nor the rows' padding can be drawn
        if loaded.tokenizer.overlapping:
            symbols = _keep_successors(symbols, rows[:, -1], loaded.tokenizer.span)
        rows = torch.cat([rows, _choose(symbols, temperature, top_k, draw) + NUM_SPECIAL], 1)
    return rows[:, prompts.shape[1] :].cpu().numpy()


def _keep_successors(symbols: Tensor, last: Tensor, k: int) -> Tensor:
    """Logits [B, 4^k] with -inf where a k-mer does not begin with the last k - 1 bases of `last` [B]; any may follow [UNK]."""
    prefix = torch.arange(4**k, device=symbols.device) // 4
    follows = prefix == ((last - NUM_SPECIAL) % 4 ** (k - 1))[:, None]
    return symbols.masked_fill(~follows & (last >= NUM_SPECIAL)[:, None], -torch.inf)


def _choose(logits: Tensor, temperature: float, top_k: int | None, draw: torch.Generator) -> Tensor:
    """One index a row, [B, 1]."""
    if temperature == 0:
        return logits.argmax(-1, keepdim=True)
    if top_k is not None and top_k < logits.shape[1]:
        smallest = logits.topk(top_k).values[:, -1:]
        logits = logits.masked_fill(logits < smallest, -torch.inf)
    # Drawn on the CPU, so that a seed gives the same sequence on every device.
    return torch.multinomial((logits / temperature).softmax(-1).cpu(), 1, generator=draw).to(logits.device)
