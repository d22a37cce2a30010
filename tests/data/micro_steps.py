"""Training batches by the number of the micro-step, for runs whose global batches are all alike."""

from __future__ import annotations

from dataclasses import dataclass

from torch.utils.data import Dataset

from hyena_glt.data.batches import PLAIN, Batch, Serving, Slice, TrainingBatches


@dataclass(slots=True)
class MicroSteps(Dataset):
    """Micro-step -> Batch."""

    batches: TrainingBatches
    part: Slice
    serving: Serving = PLAIN

    def __getitem__(self, micro_step: int) -> Batch:
        return self.batches[self.part.request(micro_step, self.serving)]
