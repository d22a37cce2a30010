"""A copy of a rank's training state on the host, which can be written while the training goes on. Runs on the workers."""

from __future__ import annotations

import copy
from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from ..errors import ClusterError
from .checkpoint import WEIGHTS_FILE


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What one rank writes of one checkpoint; nothing in it changes when training goes on."""

    states: dict[str, Any]
    """File name below the step folder -> what DeepSpeed stores in it."""
    weights: dict[str, torch.Tensor]
    """The whole float32 state dict, on rank 0."""

    def write(self, folder: Path) -> list[str]:
        """Write the files and return their names. ClusterError where the weights are not finite: such a checkpoint helps nobody."""
        if not all(torch.isfinite(tensor).all() for tensor in self.weights.values()):
            raise ClusterError(
                "the weights are no longer finite; this checkpoint was not saved. Lower training.learning_rate or "
                "training.max_grad_norm, and run the same command to go on from the last checkpoint"
            )
        for name, state in self.states.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            torch.save(state, folder / name)
        if not self.weights:
            return list(self.states)
        safetensors.torch.save_file(self.weights, folder / WEIGHTS_FILE)
        return [*self.states, WEIGHTS_FILE]


def on_host(value: Any) -> Any:
    """A copy that shares nothing with `value`, its tensors on the CPU, each with no more storage than it shows."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        copied = {key: on_host(item) for key, item in value.items()}
        return OrderedDict(copied) if isinstance(value, OrderedDict) else copied
    if isinstance(value, list | tuple):
        return type(value)([on_host(item) for item in value])
    if isinstance(value, Enum):  # Python 3.11.2 stores it as a call of getattr, which loading weights-only refuses
        return value.value
    return copy.deepcopy(value)
