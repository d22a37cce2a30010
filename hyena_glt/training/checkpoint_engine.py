"""What DeepSpeed writes and reads its checkpoints with. Runs on the workers.

Importing this imports DeepSpeed, which must have been told its accelerator before: see `engine.import_deepspeed`.
"""

from __future__ import annotations

from typing import Any

import torch
from deepspeed.runtime.checkpoint_engine.checkpoint_engine import CheckpointEngine

from .snapshot import HostMemory


class Snapshots(CheckpointEngine):
    """Keeps a copy of each state that DeepSpeed would write, for somebody else to write later."""

    def __init__(self, host: HostMemory) -> None:
        super().__init__()
        self.host = host
        self.states: dict[str, Any] = {}
        """Path -> state, since the last `create`."""

    def create(self, info: Any) -> None:
        """A checkpoint begins."""
        self.states = {}

    def save(self, state_dict: Any, path: str) -> None:
        """Keep a copy of one file's state."""
        self.states[path] = self.host.copy(state_dict)
        self.host.wait()

    def load(self, path: str, map_location: Any = None) -> Any:
        """Read one file; only plain data, and the types that are allowed by name."""
        return torch.load(path, map_location=map_location, weights_only=True)

    def commit(self, info: Any) -> bool:
        """A checkpoint ends."""
        return True

    def preserves_storage_sharing(self) -> bool:
        """`HostMemory` gives each tensor a storage of its own, so DeepSpeed need not."""
        return False
