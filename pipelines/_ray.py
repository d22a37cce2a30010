"""Start Ray for one command, quietly, and stop only what was started. Runs on the driver."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from cluster.token import make_token, require_same_token
from hyena_glt.errors import ClusterError

CONNECT_TIMEOUT_S = 10.0
TIMED_OUT = "timed out during startup"
"""What Ray says where its own start took longer than it waits."""


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
    if address and ":" in address:
        _refuse_silence(address)
        if "://" not in address:
            require_same_token(address)
    local = {"num_cpus": num_cpus, "include_dashboard": False} if is_local(address) else {}
    if local:
        make_token()
    try:
        _init(address or "local", local)
    except ConnectionError as error:
        raise ClusterError(f"cluster.address: no Ray runs that {address!r} names ({error}); start it, or leave the address out") from error
    try:
        yield
    finally:
        ray.shutdown()


def _init(address: str, local: Mapping[str, Any]) -> None:
    """`ray.init`, a second time where a Ray of this machine's own was not up within the 30 s that Ray gives it.

    ClusterError where that is not enough either. What the first try has started ends with this process.
    """
    import ray

    for last in (False, True):
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **local)
            return
        except Exception as error:  # Ray has no class for it
            if TIMED_OUT not in str(error):
                raise
            if last:
                raise ClusterError(
                    "Ray did not start on this machine within 30 s, twice; run the same command again when the machine has less to do"
                ) from error


def is_local(address: str | None) -> bool:
    """Whether `address` (default: RAY_ADDRESS) stands for a Ray of this machine's own, which never grows."""
    return (address or os.environ.get("RAY_ADDRESS") or "local") == "local"


def _refuse_silence(address: str) -> None:
    """ClusterError if nothing listens at host:port or ray://host:port: Ray itself would end the process without an exception."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except (OSError, ValueError) as error:
        raise ClusterError(f"cluster.address: no Ray answers at {address} ({error}); start it, or leave the address out") from error
