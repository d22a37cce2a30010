"""A copy of a rank's training state on the host, which can be written while the training goes on. Runs on the workers."""

from __future__ import annotations

import copy
from collections import OrderedDict
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from ..errors import ClusterError
from .checkpoint import WEIGHTS_FILE


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What one rank writes of one checkpoint; nothing in it changes until the next one is taken."""

    states: dict[str, Any]
    """File name below the step folder -> what DeepSpeed stores in it."""
    weights: dict[str, torch.Tensor]
    """The whole float32 state dict, on rank 0."""

    def write(self, folder: Path) -> list[str]:
        """Write the files and return their names. ClusterError where the weights are not finite: such a checkpoint helps nobody."""
        if not all(torch.isfinite(tensor).all() for tensor in self.weights.values()):
            raise ClusterError(
                "the weights are no longer finite; nothing of it was saved. Lower training.learning_rate or "
                "training.max_grad_norm, and run the same command to go on from the last checkpoint"
            )
        for name, state in self.states.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            torch.save(state, folder / name)
        if not self.weights:
            return list(self.states)
        try:
            safetensors.torch.save_file(self.weights, folder / WEIGHTS_FILE)
        except SafetensorError as error:  # it has no error of the system's kind
            raise OSError(str(error)) from error
        return [*self.states, WEIGHTS_FILE]


@dataclass(slots=True)
class HostMemory:
    """Copies of a rank's tensors on the host, those of a GPU in page-locked memory, which is kept from one snapshot to the next.

    A GPU fills such memory at the speed of its bus, but locking it takes the host many times as long as that. So the n-th tensor of a
    snapshot gets the place of the n-th tensor of the snapshot before, which must have been written by then. torch rounds each place up to
    a power of two.
    """

    _places: list[torch.Tensor] = field(default_factory=list)
    _taken: int = 0

    def reuse(self) -> None:
        """Begin a snapshot; nobody needs the one before."""
        self._taken = 0

    def copy(self, value: Any) -> Any:
        """A copy that shares nothing with `value`, its tensors on the CPU, each with no more storage than it shows.

        Those of a GPU are filled when `wait` returns.
        """
        if isinstance(value, torch.Tensor):
            return self._copy_tensor(value.detach())
        if isinstance(value, dict):
            copied = {key: self.copy(item) for key, item in value.items()}
            return OrderedDict(copied) if isinstance(value, OrderedDict) else copied
        if isinstance(value, list | tuple):
            return type(value)([self.copy(item) for item in value])
        if isinstance(value, Enum):  # Python 3.11.2 stores it as a call of getattr, which loading weights-only refuses
            return value.value
        return copy.deepcopy(value)

    def wait(self) -> None:
        """Until all that was asked for is copied; the tensors may change from then on, and their memory may go."""
        if self._taken:
            torch.cuda.current_stream().synchronize()

    def _copy_tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.device.type == "cpu":
            return tensor.clone()
        return self._place_for(tensor).copy_(tensor, non_blocking=True)

    def _place_for(self, tensor: torch.Tensor) -> torch.Tensor:
        number = self._taken
        self._taken += 1
        if number < len(self._places) and _alike(self._places[number], tensor):
            return self._places[number]
        place = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        self._places[number : number + 1] = [place]
        return place


def _alike(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype
