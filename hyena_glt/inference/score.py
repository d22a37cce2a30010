"""Log-likelihood of sequences under a model, beyond its context through overlapping windows.

Causal models score next tokens: log P(token t | tokens before t); the first token of a sequence has no context and no score,
unless the model was trained with [CLS]. Masked models give a pseudo-log-likelihood: in `mask_every` passes every
`mask_every`-th token is hidden and predicted from both sides, so each token is scored once while 1 / mask_every of its
surroundings are hidden, as in training. [UNK] is context and never a target. Overlapping k-mers under a masked model
have no likelihood (a hidden token can be read off its neighbours) and are refused.

Suffixes: B windows in a batch, L tokens of the longest, N scored tokens, D width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..dna import reverse_complement
from ..model import LanguageModel
from ..objectives import IGNORE, CausalLM
from ..objectives.base import scorable
from ..tokenizers.base import MASK
from .load import LoadedModel
from .windows import Context, batched, pad_rows, plan_context

LOGITS_IN_MEMORY = 1 << 24
"""Logits that are computed at a time."""


@dataclass(frozen=True, slots=True)
class Scores:
    """What the model says of each sequence: float64 [sequences] each, NaN bits where no token was scored."""

    log_likelihood: np.ndarray
    """Sum over the scored tokens, in nats; the mean of both strands where that was asked for."""
    num_scored: np.ndarray
    """Scored tokens (of both strands, averaged)."""
    bits_per_base: np.ndarray
    """-log2 P a base (a residue for proteins)."""


@dataclass(frozen=True, slots=True)
class _Item:
    """One forward pass of one window: inputs and targets int64 [L], IGNORE where the window does not speak."""

    sequence: int
    inputs: np.ndarray
    targets: np.ndarray


def score(
    loaded: LoadedModel,
    sequences: Sequence[str],
    *,
    batch_size: int = 8,
    overlap: int | None = None,
    mask_every: int | None = None,
    both_strands: bool = False,
) -> Scores:
    """Log-likelihood of each sequence; neither batch-mates nor padding change it.

    `overlap` is in tokens (default: half the context); `mask_every` is for masked models (default: 1 / mask_probability of
    the training, rounded). `both_strands` averages a DNA sequence with its reverse complement.
    Raises ValueError for proteins with `both_strands` and for masked models on overlapping k-mers.
    """
    tokenizer = loaded.tokenizer
    if tokenizer.overlapping and not loaded.causal:
        raise ValueError(
            "a masked model on overlapping k-mers has no likelihood, because a hidden token can be read off its neighbours; "
            "train with tasks.causal_lm, or with disjoint k-mers (tokenization.kmer_stride equal to kmer_size)"
        )
    if both_strands and tokenizer.sequence_type == "protein":
        raise ValueError("both_strands needs nucleotides, and the model reads protein")
    mask_every = mask_every or loaded.mask_every
    letters = [sequence.encode() for sequence in sequences]
    log_likelihood, num_scored = _sum_scores(loaded, letters, batch_size, overlap, mask_every)
    if both_strands:
        opposite = _sum_scores(loaded, [reverse_complement(s) for s in letters], batch_size, overlap, mask_every)
        log_likelihood, num_scored = (log_likelihood + opposite[0]) / 2, (num_scored + opposite[1]) / 2
    with np.errstate(invalid="ignore"):
        bits = -log_likelihood / math.log(2) / (num_scored * tokenizer.bases_per_token)
    return Scores(log_likelihood, num_scored, bits)


def _sum_scores(
    loaded: LoadedModel, letters: list[bytes], batch_size: int, overlap: int | None, mask_every: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sum of log P and count of scored tokens, float64 [sequences] each."""
    context = plan_context(loaded.model.max_length, loaded.tokenizer, causal=loaded.causal, overlap=overlap)
    log_likelihood, num_scored = np.zeros(len(letters)), np.zeros(len(letters))
    for batch in batched(_items(loaded, letters, context, mask_every), batch_size):
        sums = _batch_log_likelihood(loaded.model, batch)
        # Several windows of one sequence may share a batch, so plain `+=` through an index would lose all but one.
        owners = [item.sequence for item in batch]
        np.add.at(log_likelihood, owners, sums)
        np.add.at(num_scored, owners, [(item.targets != IGNORE).sum() for item in batch])
    return log_likelihood, num_scored


def _items(loaded: LoadedModel, letters: list[bytes], context: Context, mask_every: int) -> Iterator[_Item]:
    """All passes over all windows, sequence by sequence, so that a long one is never in memory as windows."""
    span = loaded.tokenizer.span if loaded.tokenizer.overlapping else 1
    for number, sequence in enumerate(letters):
        ids = loaded.tokenizer.encode(sequence)
        passes = causal_passes(ids, context, span) if loaded.causal else masked_passes(ids, context, mask_every)
        yield from (_Item(number, inputs, targets) for inputs, targets in passes)


def causal_passes(ids: np.ndarray, context: Context, span: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Inputs and targets [L] of each window for next-token scoring; ids [tokens] of one sequence."""
    objective = CausalLM(span)
    for window in context.windows(len(ids)):
        row = context.lay_out(ids, window)
        targets = objective(row[None], []).targets[0]
        # The target of position i is token i + 1; kept are the targets whose own place lies in the window's stretch.
        place = np.arange(1, len(row) + 1) - context.offset + window.start
        yield row, np.where((place >= window.keep_start) & (place < window.keep_end), targets, IGNORE)


def masked_passes(ids: np.ndarray, context: Context, mask_every: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Inputs and targets [L] of each window and pass; a token's pass follows from its place in the sequence."""
    for window in context.windows(len(ids)):
        row = context.lay_out(ids, window)
        place = np.arange(len(row)) - context.offset + window.start
        kept = (place >= window.keep_start) & (place < window.keep_end)
        for turn in range(mask_every):
            hidden = (place % mask_every == turn) & scorable(row)
            if (hidden & kept).any():
                yield np.where(hidden, MASK, row), np.where(hidden & kept, row, IGNORE)


@torch.inference_mode()
def _batch_log_likelihood(model: LanguageModel, batch: list[_Item]) -> np.ndarray:
    """Sum of log P over each item's targets, float64 [B]."""
    device = next(model.parameters()).device
    targets_BL = torch.from_numpy(pad_rows([item.targets for item in batch], IGNORE)).to(device)
    lengths = torch.tensor([len(item.inputs) for item in batch], device=device)
    padding_BL = torch.arange(targets_BL.shape[1], device=device) >= lengths[:, None]
    inputs_BL = torch.from_numpy(pad_rows([item.inputs for item in batch])).to(device)
    hidden_BLD = model.hidden(inputs_BL, padding_BL)
    sums_B = torch.zeros(len(batch), dtype=torch.float64, device=device)
    for rows_N, targets_N, logits in scored_logits(model, hidden_BLD, targets_BL):
        chosen = logits.log_softmax(-1).gather(1, targets_N[:, None])[:, 0]
        sums_B.index_add_(0, rows_N, chosen.double())
    return sums_B.cpu().numpy()


def scored_logits(model: LanguageModel, hidden_BLD: Tensor, targets_BL: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Rows [N], targets [N] and fp32 logits [N, vocabulary] of the scored positions, in chunks, row by row from the left."""
    rows, places = (targets_BL != IGNORE).nonzero(as_tuple=True)
    most = max(1, LOGITS_IN_MEMORY // model.num_rows)
    for rows_N, places_N in zip(rows.split(most), places.split(most), strict=True):
        yield rows_N, targets_BL[rows_N, places_N], model.logits(hidden_BLD[rows_N, places_N]).float()
