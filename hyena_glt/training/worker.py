"""The door to the cluster: a worker's rank, device and the few collective acts that the loop needs. Runs on the workers.

`ray_worker` is the only place where the training process asks Ray anything.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from ..data.storage import Location, location
from .metrics import Report
from .orders import GROW, STOP, LastOrder, held_at, taken_over

if TYPE_CHECKING:
    from .gauges import Gauges

LOOK_S = 1.0
"""Between two questions whether a node is being withdrawn; each makes all workers wait for each other."""
INTERRUPTED, GROWING, WITHDRAWN = "interrupted", "growing", "withdrawn"
"""Why a start ends before the run's last step: the driver asked for it, has found room for more workers, or a node is taken away."""


@dataclass(slots=True)
class Worker:
    """One training process; torch.distributed is initialised."""

    rank: int
    world_size: int
    device: torch.device
    run: Location
    """The run folder, on storage that every worker sees, or in an object store."""
    token: str
    """The start that this worker belongs to."""
    gauges: Gauges | None = None
    reports_to_ray: bool = False
    _next_look: float = 0.0
    _orders: LastOrder | None = None

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which writes logs and commits checkpoints."""
        return self.rank == 0

    @property
    def leads_disk(self) -> bool:
        """Whether this rank writes what others read from the same disk: rank 0, and of a run in a store the first rank of each node."""
        return self.leads if isinstance(self.run, Path) else os.environ["LOCAL_RANK"] == "0"

    def sum(self, *values: float) -> torch.Tensor:
        """Element-wise sum over all workers, float64 [len(values)] on the CPU (gloo), so that no GPU is waited for."""
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total)
        return total

    def barrier(self) -> None:
        """Wait for all workers."""
        dist.barrier()

    def stop_requested(self) -> bool:
        """Whether the driver wants the run to stop; only rank 0 looks. ClusterError as of `require_owner`."""
        return self.leads and self._order() == STOP

    def growth_requested(self) -> bool:
        """Whether the driver wants to start the run again with more workers; only rank 0 looks. ClusterError likewise."""
        return self.leads and self._order() == GROW

    def is_held(self, validated: int) -> bool:
        """Whether the driver wants the run to wait at its validation of that step; only rank 0 looks. ClusterError likewise."""
        return self.leads and held_at(self._order(), validated)

    def require_owner(self) -> None:
        """ClusterError where the folder was taken over by a later start, as far as is known; rank 0 asks.

        Workers can outlive a killed driver for some seconds, and be cut off from the network for long, and must not write into what
        another start goes on with.
        """
        self._order()

    def _order(self) -> str:
        self._orders = self._orders or LastOrder(self.run, self.token)
        owner, order = self._orders.get()
        if owner != self.token:
            raise taken_over(self.run)
        return order

    def wants_to_look(self) -> bool:
        """Whether all ranks shall ask now if a node is being withdrawn; rank 0 says so."""
        if not (self.leads and self.reports_to_ray) or time.monotonic() < self._next_look:
            return False
        self._next_look = time.monotonic() + LOOK_S
        return True

    def is_withdrawn(self) -> bool:
        """Whether the cluster has announced that it takes away a node of this run. A barrier: every rank must call it."""
        import ray.train

        return ray.train.get_preemption_info() is not None

    def report(self, report: Report) -> None:
        """Hand plain numbers to Ray Train, for its dashboard and for Tune. A barrier: every rank must call it."""
        if self.reports_to_ray:
            import ray.train

            ray.train.report({key: value for key, value in report.items() if value is not None})

    def show(self, report: Report) -> None:
        """Put this worker's own figures on its node's metrics endpoint."""
        if self.gauges:
            self.gauges.show(report)


def ray_worker(run: str, token: str) -> Worker:
    """This process as Ray Train started it."""
    import ray.train
    import ray.train.torch

    from .gauges import Gauges

    context = ray.train.get_context()
    device = ray.train.torch.get_device()
    rank = context.get_world_rank()
    folder = location(run)
    return Worker(rank, context.get_world_size(), device, folder, token, Gauges(folder.name, rank), reports_to_ray=True)
