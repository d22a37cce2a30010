"""Start Ray for one command, quietly, and stop only what was started. Runs on the driver."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from hyena_glt.errors import ClusterError


@contextmanager
def start_ray(address: str | None, num_cpus: int | None) -> Iterator[None]:
    """A running Ray inside the block: the one that stands already, else the cluster at `address` (default: RAY_ADDRESS), else a local one.

    `num_cpus` counts for a local one. ClusterError when the cluster cannot be reached.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # otherwise Ray announces a change of its own on every start
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS")
    local = {"num_cpus": num_cpus, "include_dashboard": False} if address in (None, "local") else {}
    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **local)
    except (ConnectionError, RuntimeError) as error:
        raise ClusterError(f"cluster.address: no Ray answers at {address} ({error}); start it, or leave the address out") from error
    try:
        yield
    finally:
        ray.shutdown()
