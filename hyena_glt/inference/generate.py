"""Continuing sequences with a causal model: a prompt is read once, and behind it each token by itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..model.decoding import Decoder
from ..tokenizers.base import CLS, NUM_SPECIAL, UNK, Tokenizer
from .load import LoadedModel


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How a token is chosen from the model's distribution; ValueError for what cannot be.

    `temperature` 0 takes the likeliest token; above, tokens are drawn from the `top_k` likeliest (default: all), and of those from the
    fewest that together have `top_p` of their probability (nucleus sampling, arXiv 1904.09751; default: all).
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if self.temperature < 0 or (self.top_k is not None and self.top_k < 1) or (self.top_p is not None and not 0 < self.top_p <= 1):
            raise ValueError(
                f"temperature must be at least 0, top_k at least 1 and top_p above 0 and at most 1, "
                f"got {self.temperature}, {self.top_k} and {self.top_p}"
            )

    def choose(self, logits: Tensor, draw: torch.Generator) -> Tensor:
        """logits [B, symbols] -> one index a row, [B, 1]."""
        if self.temperature == 0:
            return logits.argmax(-1, keepdim=True)
        # Drawn on the CPU, so that a seed gives the same sequence on every device.
        ordered, symbols = (logits.cpu() / self.temperature).sort(stable=True, dim=-1, descending=True)
        ordered = ordered[:, : self.top_k]
        shares = ordered.softmax(-1)
        if self.top_p is not None:
            shares = shares.masked_fill(shares.cumsum(-1) - shares >= self.top_p, 0)
        return symbols.gather(1, torch.multinomial(shares, 1, generator=draw)).to(logits.device)


def generate(
    loaded: LoadedModel,
    prompts: Sequence[str],
    num_tokens: int,
    *,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    prefix: str = "",
    stop: Sequence[str] = (),
    seed: int = 0,
) -> list[str]:
    """The continuation of each prompt, without the prompt: `prefix`, then at most `num_tokens` new tokens.

    It ends before the first of the `stop` sequences that begins behind `prefix`. `temperature`, `top_k` and `top_p` as in `Sampling`; each
    prompt has its own generator, from `seed` and its place in the list. Of a prompt that is no multiple of k, the first bases are left out,
    so that the last k-mer ends with the prompt; bases of `prefix` that fill no whole k-mer begin the first new token.

    A token costs the same wherever it stands (`se`, `mr`, `li`), or what `model.decoding` says. Behind the model's limit the last half of
    what it can read is read again, and the continuation goes on from there.
    Raises ValueError for a masked model, a prompt without a token, letters of a prefix that no symbol has, a setting that cannot be.
    """
    if not loaded.causal:
        raise ValueError("generate needs a causal model, and this one fills masks; train with tasks.causal_lm")
    if "" in stop:
        raise ValueError("stop: an empty sequence stops everything; leave it out")
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    return [
        _continuation(loaded, number, prompt, prefix, num_tokens, sampling, stop, torch.Generator().manual_seed(seed + number))
        for number, prompt in enumerate(prompts)
    ]


def _continuation(
    loaded: LoadedModel, number: int, prompt: str, prefix: str, num_tokens: int, sampling: Sampling, stop: Sequence[str],
    draw: torch.Generator,
) -> str:
    tokenizer = loaded.tokenizer
    step = tokenizer.bases_per_token
    whole = len(prefix) - len(prefix) % step
    ids = tokenizer.encode((prompt[len(prompt) % step :] + prefix[:whole]).encode())
    if (tokenizer.encode(prefix.encode()) == UNK).any():
        raise ValueError(f"prefix: {prefix} has letters that no symbol has")
    if not len(ids):
        raise ValueError(f"prompt {number} ({len(prompt)} letters) is shorter than one token ({tokenizer.span} letters)")
    begun = _symbols_that_begin(tokenizer, prefix[whole:]) if prefix[whole:] else None
    text, longest = prefix[:whole], max(map(len, stop), default=0)
    for new in next_ids(loaded, ids[None].astype(np.int64), num_tokens, sampling=sampling, draw=draw, first=begun):
        text += tokenizer.decode(new[0].cpu().numpy())[-step:]
        if _first(stop, text, max(len(prefix), len(text) - longest - step)) < len(text):
            break
    return text[: _first(stop, text, len(prefix))]


def _first(words: Sequence[str], text: str, start: int) -> int:
    """Where the first of some words begins, from `start` on; the text's end where none does."""
    return min((place for word in words if (place := text.find(word, start)) >= 0), default=len(text))


def _symbols_that_begin(tokenizer: Tokenizer, letters: str) -> slice:
    """The k-mers that begin with these letters, fewer than k: their numbers stand together."""
    missing = tokenizer.span - len(letters)
    first = int(tokenizer.encode((letters + missing * "A").encode())[0])
    if first == UNK:
        raise ValueError(f"prefix: no symbol begins with {letters}; give the letters of bases")
    return slice(first - NUM_SPECIAL, first - NUM_SPECIAL + 4**missing)


def continue_ids(
    loaded: LoadedModel, prompts: np.ndarray, num_tokens: int, *, sampling: Sampling | None = None, draw: torch.Generator
) -> np.ndarray:
    """prompts int64 [B, L] without specials -> the next `num_tokens` ids of each, int64 [B, num_tokens]; default: the likeliest."""
    new = [*next_ids(loaded, prompts, num_tokens, sampling=sampling or Sampling(), draw=draw)]
    return torch.cat([torch.empty(len(prompts), 0, dtype=torch.int64, device=loaded.device), *new], 1).cpu().numpy()


def next_ids(
    loaded: LoadedModel, prompts: np.ndarray, num_tokens: int, *, sampling: Sampling, draw: torch.Generator, first: slice | None = None
) -> Iterator[Tensor]:
    """The ids [B, 1] that follow prompts int64 [B, L], one after the other; `first`: the symbols that the first of them may be."""
    ids, decoder, limit = [torch.from_numpy(prompts).to(loaded.device)], None, loaded.model.max_length
    start = torch.full((len(prompts), int(loaded.tokenizer.add_special_tokens)), CLS, device=loaded.device)
    for number in range(num_tokens):
        if decoder is None or decoder.is_full:
            room = limit - start.shape[1]
            window = torch.cat([start, torch.cat(ids, 1)[:, -(room if decoder is None else max(1, room // 2)) :]], 1)
            decoder = Decoder(loaded.model, min(limit, window.shape[1] + num_tokens - number - 1))
            logits = decoder.read(window)
        else:
            logits = decoder.read(ids[-1])
        # Neither specials nor the rows' padding can be drawn.
        symbols = logits[:, NUM_SPECIAL : loaded.tokenizer.num_ids].float()
        if loaded.tokenizer.overlapping:
            symbols = _keep_successors(symbols, ids[-1][:, -1], loaded.tokenizer.span)
        if first is not None and number == 0:
            symbols = _keep(symbols, first)
        ids.append(sampling.choose(symbols, draw) + NUM_SPECIAL)
        yield ids[-1]


def _keep_successors(symbols: Tensor, last: Tensor, k: int) -> Tensor:
    """Logits [B, 4^k] with -inf where a k-mer does not begin with the last k - 1 bases of `last` [B]; any may follow [UNK]."""
    prefix = torch.arange(4**k, device=symbols.device) // 4
    follows = prefix == ((last - NUM_SPECIAL) % 4 ** (k - 1))[:, None]
    return symbols.masked_fill(~follows & (last >= NUM_SPECIAL)[:, None], -torch.inf)


def _keep(symbols: Tensor, some: slice) -> Tensor:
    """Logits with -inf for all others."""
    kept = torch.full_like(symbols, -torch.inf)
    kept[:, some] = symbols[:, some]
    return kept
