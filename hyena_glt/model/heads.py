"""What stands on the backbone: the language model with its loss, and a sequence classifier."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .backbone import Backbone, Vocabulary

LOGITS_PER_CHUNK = 2**26
COMPILED_FORMS = 128


def cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor | None, num_ids: int) -> tuple[Tensor, Tensor]:
    """Logits [N, rows], of which the first `num_ids` count, targets [N] (-100 = not scored), weights [N] or None (all count 1)
    -> (weighted sum in nats, fp32; right ones, whatever they weigh).
    """
    logits = logits[:, :num_ids].float()
    correct = (logits.argmax(-1) == targets).sum()
    if weights is None:
        return F.cross_entropy(logits, targets, reduction="sum"), correct
    return (weights * F.cross_entropy(logits, targets, reduction="none")).sum(), correct


def _split(x: Tensor | None, parts: int) -> tuple[Tensor | None, ...]:
    """`tensor_split`, whose gradient would be a sum of `parts` tensors as large as x; this one's is a concatenation."""
    if x is None:
        return (None,) * parts
    return x.split([end - start for start, end in pairwise(len(x) * i // parts for i in range(parts + 1))])


class LanguageModel(nn.Module):
    """Predicts ids: hidden states times the token table (the embedding's own unless `head` is given)."""

    def __init__(self, backbone: Backbone, head: Vocabulary | None, *, vocab_size: int, causal: bool, max_length: int) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head
        self.vocab_size, self.causal, self.max_length = vocab_size, causal, max_length
        self.num_rows, self.num_ids = backbone.embedding.num_rows, backbone.embedding.num_ids
        self._cross_entropy = cross_entropy

    def compile_parts(self, backend: str | Callable[..., object] = "inductor") -> None:
        """torch.compile each block, anew for each shape, and the loss, whose shape varies where only some positions are scored.

        The blocks share one forward, so its compiled forms are as many as kinds of mixer times shapes, in training and in evaluation; torch
        would give up compiling after 8 of them.
        """
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, COMPILED_FORMS)
        for block in self.backbone.blocks:
            block.compile(dynamic=False, backend=backend)
        self._cross_entropy = torch.compile(cross_entropy, backend=backend)

    def hidden(self, ids: Tensor, padding: Tensor | None = None) -> Tensor:
        """ids [B, L], padding [B, L] (true = pad) -> hidden states [B, L, D] after the final norm. ValueError if L > max_length."""
        if ids.shape[1] > self.max_length:
            raise ValueError(
                f"a sequence of {ids.shape[1]:,} tokens is longer than this model's limit of {self.max_length:,} "
                f"(model.max_position_embeddings); cut it into windows"
            )
        return self.backbone(ids, padding)

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden [..., D] -> logits [..., rows]; rows that only pad the table get the lowest number there is."""
        logits = self._table()(hidden, unembed=True)
        padding_rows = torch.arange(self.num_rows, device=hidden.device) >= self.num_ids
        return logits.masked_fill(padding_rows, torch.finfo(logits.dtype).min)

    def _table(self) -> Vocabulary:
        return self.backbone.embedding if self.head is None else self.head

    def forward(
        self, ids: Tensor, padding: Tensor | None = None, targets: Tensor | None = None, weights: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """ids [B, L] int64, padding [B, L] bool (true = pad, at the end of a row).

        Without targets: logits [B, L, rows]. With targets [B, L] (-100 = not scored): the sum of the cross-entropies in nats (fp32), each
        times its weight [B, L] where there are weights, and the number of scored positions whose best logit is the target.
        """
        hidden = self.hidden(ids, padding)
        return self.logits(hidden) if targets is None else self._score(hidden, targets, weights)

    def _score(self, hidden: Tensor, targets: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
        # The number of chunks follows from shapes alone, so that all ranks gather a sharded table equally often.
        num_chunks = -(-targets.numel() * self.num_rows // LOGITS_PER_CHUNK)
        hidden, targets, weights = hidden.flatten(0, 1), targets.flatten(), None if weights is None else weights.flatten()
        if not self.causal:  # a causal objective scores nearly every position, a masked one few
            scored = (targets != -100).nonzero().squeeze(1)
            hidden, targets, weights = hidden.index_select(0, scored), targets[scored], None if weights is None else weights[scored]
        loss, correct = hidden.new_zeros((), dtype=torch.float32), targets.new_zeros(())
        for chunk in zip(*(_split(x, num_chunks) for x in (hidden, targets, weights)), strict=True):
            # A single chunk is small enough to keep; more are computed again in the backward pass.
            chunk_loss, chunk_correct = self._score_chunk(*chunk) if num_chunks == 1 else checkpoint(
                self._score_chunk, *chunk, use_reentrant=False, preserve_rng_state=False)
            loss, correct = loss + chunk_loss, correct + chunk_correct
        return loss, correct

    def _score_chunk(self, hidden: Tensor, targets: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
        return self._cross_entropy(self._table()(hidden, unembed=True), targets, weights, self.num_ids)


class SequenceClassifier(nn.Module):
    """Classes of whole sequences, from the mean hidden state over what is not padding."""

    def __init__(self, backbone: Backbone, width: int, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.output = nn.Linear(width, num_classes)

    def forward(self, ids: Tensor, padding: Tensor | None = None) -> Tensor:
        """ids [B, L], padding [B, L] (true = pad) -> logits [B, classes]."""
        hidden = self.backbone(ids, padding)
        if padding is None:
            return self.output(hidden.mean(1))
        kept = (~padding).unsqueeze(-1)
        return self.output((hidden * kept).sum(1) / kept.sum(1).clamp(min=1))
