"""BLEU (sacrebleu) with tokens as words: a continuation or a filled mask against the genome.

Generation reads its whole window again for every token, so BLEU is taken on a few windows, spread evenly over the split; the
result says how many windows and tokens.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import sacrebleu
import torch

from ..data.batches import EVAL_SEED
from ..data.dataset import Rows
from ..inference import LoadedModel
from ..inference.generate import continue_ids
from ..inference.score import scored_logits
from ..objectives import IGNORE, Example
from ..tokenizers.base import CLS, PAD, SEP

CAUSAL_WINDOWS, CAUSAL_TOKENS = 8, 64
"""Windows that are continued, and tokens at most that each is continued by."""
MASKED_WINDOWS = 64


@dataclass(frozen=True, slots=True)
class Bleu:
    """The score, 0 to 100, and what it was taken on."""

    score: float
    num_windows: int
    num_tokens: int


def bleu(loaded: LoadedModel, rows: Rows, *, batch_size: int) -> Bleu:
    """Causal: greedy continuation of the first half of each window, at most 64 tokens, against what follows there.
    Masked: each window with its masked tokens filled in, against the window itself.
    """
    if loaded.causal:
        return _corpus_bleu(*_continuations(loaded, rows))
    return _corpus_bleu(*_fillings(loaded, rows, batch_size))


def spread(num_rows: int, most: int) -> np.ndarray:
    """At most `most` row numbers, evenly over all rows."""
    return np.unique(np.linspace(0, num_rows - 1, min(most, num_rows)).round().astype(np.int64))


def _continuations(loaded: LoadedModel, rows: Rows) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Hypotheses and references, a pair a window; windows of equal length are continued together."""
    by_length: dict[int, list[np.ndarray]] = defaultdict(list)
    for ids in rows.read(spread(rows.num_rows, CAUSAL_WINDOWS)).astype(np.int64):
        tokens = ids[~np.isin(ids, (PAD, CLS, SEP))]
        if len(tokens) >= 2:
            by_length[len(tokens)].append(tokens)
    hypotheses, references = [], []
    for length, windows in by_length.items():
        prompts = np.stack(windows)[:, : length // 2]
        following = np.stack(windows)[:, length // 2 : length // 2 + CAUSAL_TOKENS]
        hypotheses += [*continue_ids(loaded, prompts, following.shape[1], draw=torch.Generator())]
        references += [*following]
    return hypotheses, references


@torch.inference_mode()
def _fillings(loaded: LoadedModel, rows: Rows, batch_size: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Windows in which what was hidden is filled by the likeliest token, and the windows; without padding."""
    objective = loaded.objective.for_evaluation()
    hypotheses, references = [], []
    numbers = spread(rows.num_rows, MASKED_WINDOWS)
    for first in range(0, len(numbers), batch_size):
        some = numbers[first : first + batch_size]
        ids = rows.read(some).astype(np.int64)
        example = objective(ids, [np.random.default_rng([EVAL_SEED, int(row)]) for row in some])
        hidden = example.inputs != ids
        filled = ids.copy()
        filled[hidden] = _likeliest(loaded, example, np.where(hidden, ids, IGNORE))
        hypotheses += [row[~padding] for row, padding in zip(filled, example.padding, strict=True) if not padding.all()]
        references += [row[~padding] for row, padding in zip(ids, example.padding, strict=True) if not padding.all()]
    return hypotheses, references


def _likeliest(loaded: LoadedModel, example: Example, targets_BL: np.ndarray) -> np.ndarray:
    """The likeliest id [N] at each position with a target, row by row."""
    inputs, padding, targets = (torch.from_numpy(a).to(loaded.device) for a in (example.inputs, example.padding, targets_BL))
    states = loaded.model.hidden(inputs, padding)
    predicted = [logits.argmax(-1) for _, _, logits in scored_logits(loaded.model, states, targets)]
    return torch.cat([targets.new_empty(0), *predicted]).cpu().numpy()


def _corpus_bleu(hypotheses: list[np.ndarray], references: list[np.ndarray]) -> Bleu:
    """`tokenize="none"`: the words are the tokens, and sacrebleu must not cut them again."""
    hypothesis_lines, reference_lines = ([" ".join(map(str, ids)) for ids in side] for side in (hypotheses, references))
    result = sacrebleu.corpus_bleu(hypothesis_lines, [reference_lines], tokenize="none", force=True)
    return Bleu(result.score, len(references), sum(map(len, references)))
