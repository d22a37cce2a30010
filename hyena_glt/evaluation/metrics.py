"""What is measured on held-out windows: names, definitions, and where each is refused.

Every average is over scored tokens of all windows together, so a window without one never enters; each counts 1, whatever it weighed
in training. Masked models are measured with every predicted token hidden (`for_evaluation`).

    loss           nats a scored token (cross-entropy)
    perplexity     exp(loss)
    bits_per_base  loss / ln 2 / new bases a token (residues for proteins); refused where tokens overlap under a mask
    accuracy       share of scored tokens whose likeliest prediction is right
    mlm_accuracy   the same under a mask; for overlapping k-mers a share of hidden bases, summed over the k-mers that end on each
    bleu           BLEU-4 with tokens as words, 0 to 100 (`bleu`)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config.settings import suggest
from ..data.batches import Batch
from ..errors import ConfigError
from ..inference import LoadedModel
from ..inference.score import scored_logits
from ..tokenizers import Tokenizer
from ..tokenizers.base import NUM_SPECIAL
from ..training.metrics import bits_per_base, loss_metrics
from ..training.precision import autocast, choose_precision

METRICS = ("loss", "perplexity", "bits_per_base", "accuracy", "mlm_accuracy", "bleu")


@dataclass(slots=True)
class Tally:
    """Sums over the scored tokens of all windows so far."""

    nats: float = 0.0
    num_scored: int = 0
    num_correct: int = 0
    num_correct_bases: int = 0
    """Scored tokens whose last base is predicted right; only counted for overlapping k-mers."""

    @property
    def loss(self) -> float:
        """Nats a scored token."""
        return self.nats / self.num_scored

    def values(self, metrics: Iterable[str], tokenizer: Tokenizer, *, causal: bool) -> dict[str, float]:
        """The metrics asked for, all but `bleu`."""
        correct = self.num_correct_bases if tokenizer.overlapping else self.num_correct
        figures = loss_metrics(self.loss, self.num_correct / self.num_scored, tokenizer, causal=causal)
        figures["mlm_accuracy"] = correct / self.num_scored
        return {name: float(figures[name]) for name in metrics if name in figures}


def choose_metrics(asked: tuple[str, ...], tokenizer: Tokenizer, *, causal: bool) -> tuple[str, ...]:
    """The metrics asked for, or all that have a meaning but `bleu`; ConfigError for unknown and refused ones, all at once."""
    if not asked:
        return tuple(name for name in METRICS if name != "bleu" and not _refusal(name, tokenizer, causal))
    problems = [_unknown(name) if name not in METRICS else _refusal(name, tokenizer, causal) for name in asked]
    if any(problems):
        raise ConfigError(*(problem for problem in problems if problem))
    return tuple(dict.fromkeys(asked))


def _unknown(name: str) -> str:
    return f"unknown metric {name}" + (suggest(name, METRICS) or f"; there are {', '.join(METRICS)}")


def _refusal(name: str, tokenizer: Tokenizer, causal: bool) -> str | None:
    """Why `name` has no meaning here, or None."""
    if name == "mlm_accuracy" and causal:
        return "mlm_accuracy needs a masked model, and this one predicts next tokens; ask for accuracy"
    if name == "bits_per_base" and bits_per_base(0.0, tokenizer, causal=causal) is None:
        return (
            "bits_per_base has no meaning for a masked model on overlapping k-mers, whose neighbours share bases; "
            "ask for mlm_accuracy, which counts hidden bases"
        )
    return None


@torch.inference_mode()
def measure(loaded: LoadedModel, batches: Iterable[Batch]) -> Tally:
    """Run the model over `batches`, in the precision of its training; losses are taken in fp32 and summed in fp64."""
    tally = Tally()
    last_base = loaded.tokenizer.overlapping and not loaded.causal
    device = loaded.device
    precision = choose_precision(loaded.config.hardware, device.type)
    for batch in batches:
        moved = batch.to(device)
        with autocast(precision, device.type):
            hidden_BLD = loaded.model.hidden(moved.inputs, moved.padding)
            for _, targets_N, logits in scored_logits(loaded.model, hidden_BLD, moved.targets):
                tally.nats -= logits.log_softmax(-1).gather(1, targets_N[:, None]).double().sum().item()
                tally.num_scored += len(targets_N)
                tally.num_correct += int((logits.argmax(-1) == targets_N).sum())
                if last_base:
                    tally.num_correct_bases += correct_last_bases(logits, targets_N, loaded.tokenizer.num_ids)
    return tally


def correct_last_bases(logits: Tensor, targets_N: Tensor, num_ids: int) -> int:
    """k-mer logits [N, rows] -> how many hidden bases are right: the base a k-mer ends on, summed over its first k - 1.

    k-mers stand in alphabetical order, so the last base is the id's remainder by 4.
    """
    by_last_base = logits[:, NUM_SPECIAL:num_ids].unflatten(1, (-1, 4)).logsumexp(1)
    return int((by_last_base.argmax(-1) == (targets_N - NUM_SPECIAL) % 4).sum())
