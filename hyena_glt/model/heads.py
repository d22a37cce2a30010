"""What stands on the backbone: the language model with its loss, and a sequence classifier."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .backbone import Backbone, Vocabulary

LOGITS_PER_CHUNK = 2**24


class LanguageModel(nn.Module):
    """Predicts ids: hidden states times the token table (the embedding's own unless `head` is given)."""

    def __init__(self, backbone: Backbone, head: Vocabulary | None, *, vocab_size: int, causal: bool, max_length: int) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head
        self.vocab_size, self.causal, self.max_length = vocab_size, causal, max_length
        self.num_rows = backbone.embedding.num_rows

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
        table = self.backbone.embedding if self.head is None else self.head
        return table(hidden, unembed=True)

    def forward(self, ids: Tensor, padding: Tensor | None = None, targets: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """ids [B, L] int64, padding [B, L] bool (true = pad, at the end of a row).

        Without targets: logits [B, L, rows]. With targets [B, L] (-100 = not scored): the sum of the cross-entropies in nats (fp32)
        and the number of scored positions whose best logit is the target.
        """
        hidden = self.hidden(ids, padding)
        return self.logits(hidden) if targets is None else self._score(hidden, targets)

    def _score(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        scored = (targets.flatten() != -100).nonzero().squeeze(1)
        hidden, targets_N = hidden.flatten(0, 1).index_select(0, scored), targets.flatten()[scored]
        # The number of chunks follows from shapes alone, so that all ranks gather a sharded table equally often.
        num_chunks = -(-targets.numel() * self.num_rows // LOGITS_PER_CHUNK)
        loss, correct = hidden.new_zeros((), dtype=torch.float32), targets.new_zeros(())
        for h, t in zip(hidden.tensor_split(num_chunks), targets_N.tensor_split(num_chunks), strict=True):
            # A single chunk is small enough to keep; more are computed again in the backward pass.
            chunk_loss, chunk_correct = self._score_chunk(h, t) if num_chunks == 1 else checkpoint(
                self._score_chunk, h, t, use_reentrant=False, preserve_rng_state=False)
            loss, correct = loss + chunk_loss, correct + chunk_correct
        return loss, correct

    def _score_chunk(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.logits(hidden).float()
        return F.cross_entropy(logits, targets, reduction="sum"), (logits.argmax(-1) == targets).sum()


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
