"""Wait until the cluster has room for all workers of a command at once; runs on the driver.

A run asks for all of its workers or for none. A placement group of the same shape, which an autoscaler takes for a demand, waits here, so
that the user reads what is missing and waiting has an end; Ray Train's own group is then placed at once. Preprocessing waits the same way
for a first worker; the others are Ray Data's to ask for.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import ray
from ray.util import placement_group, remove_placement_group

from ..errors import ClusterError

SAY_S = 30.0
"""Between two lines on what is missing."""
SILENT_S = 3.0
"""Before the first of them."""
PLACED_S = 5
"""In which a group is placed where there is room for it."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Gang:
    """So many workers, each with these resources."""

    workers: int
    resources: Mapping[str, float]
    """Of one worker, such as `{"CPU": 8, "GPU": 1}`."""
    settings: str = ""
    """Those by which one asks for less, where that is possible."""

    def __str__(self) -> str:
        return f"{self.workers} workers of {_spoken(self.resources)}" if self.workers > 1 else f"a worker of {_spoken(self.resources)}"

    def fits(self, node: Mapping[str, float]) -> bool:
        """Whether a node with these resources, all of them free, can hold a worker."""
        return all(node.get(name, 0.0) >= amount for name, amount in self.resources.items())


def await_gang(gang: Gang, *, timeout_s: float) -> None:
    """Return once all workers fit, with a line every half minute on what is missing; ClusterError when that takes longer than allowed."""
    group = placement_group([dict(gang.resources)] * gang.workers, strategy="PACK")
    began = time.monotonic()
    said = began - SAY_S + SILENT_S
    try:
        while not group.wait(timeout_seconds=1):
            now = time.monotonic()
            if now - began > timeout_s:
                less = f"Ask for less ({gang.settings}), or see" if gang.settings else "See"
                raise ClusterError(
                    f"{gang} found no room within {timeout_s:g} s (cluster.start_timeout_s): {_state(gang)}. {less} by `ray status` on the "
                    f"cluster's head why the cluster does not grow"
                )
            if now - said >= SAY_S:
                said, left = now, _clock(timeout_s - (now - began))
                log.warning("waiting for room for %s: %s; gives up in %s (cluster.start_timeout_s)", gang, _state(gang), left)
    finally:
        remove_placement_group(group)


@contextmanager
def asked_for(gang: Gang) -> Iterator[Callable[[], bool]]:
    """Ask for room for all workers while the block runs, which makes an autoscaler start nodes; the function says whether it is there."""
    group = placement_group([dict(gang.resources)] * gang.workers, strategy="PACK")
    try:
        yield lambda: group.wait(timeout_seconds=PLACED_S)
    finally:
        remove_placement_group(group)


def largest_with_room(sizes: Sequence[int], resources: Mapping[str, float], has: Mapping[str, float]) -> int:
    """The first of some numbers of workers, largest first, that all fit now; the last where none does.

    What is more than the cluster `has` (all of it, or what is free) is not asked for: an autoscaler would take that for a demand.
    Not Ray Train's own choice out of a range: after a node was lost that waited for minutes for what the lost start had reserved.
    """
    for size in sizes[:-1]:
        if any(size * amount > has.get(name, 0.0) for name, amount in resources.items()):
            continue
        group = placement_group([dict(resources)] * size, strategy="PACK")
        try:
            if group.wait(timeout_seconds=PLACED_S):
                return size
        finally:
            remove_placement_group(group)
    return sizes[-1]


def _state(gang: Gang) -> str:
    has, free = ray.cluster_resources(), ray.available_resources()
    there = {name: has.get(name, 0.0) for name in gang.resources}
    fitting = sum(gang.fits(node["Resources"]) for node in ray.nodes() if node["Alive"])
    return (
        f"the cluster has {_spoken(there)}, of which {_spoken({name: free.get(name, 0.0) for name in there})} are free, and "
        f"{fitting or 'no'} node{'s' if fitting > 1 else ''} large enough for a worker"
    )


def _spoken(resources: Mapping[str, float]) -> str:
    return " and ".join(f"{amount:g} {name}{'' if amount == 1 else 's'}" for name, amount in resources.items())


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
