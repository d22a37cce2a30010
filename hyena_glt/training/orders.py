"""What the driver tells the workers of a run: go on, to the next validation only, leave for more workers, stop. Known to both.

One small file in the run folder carries it, which also names the start that the folder belongs to:
`<token>`, `<token> after N`, `<token> grow` or `<token> stop`.
"""

from __future__ import annotations

import platform
import secrets
import threading
import time
from contextlib import suppress
from pathlib import Path

from ..data.storage import Location, read_bytes, write_bytes
from ..errors import ClusterError, StorageError
from ..files import insist, naming

OWNER_FILE = ".owner"
STOP, GROW, AFTER = "stop", "grow", "after "
STORE_POLL_S = 2.0
"""Between two looks into a store, which would make each step longer."""


class Orders:
    """The orders for one run; its first start shall wait at the first validation behind step `after`. Any thread may call.

    The first start takes the folder over. Later ones, and orders, raise ClusterError where another driver's start has done so since: what
    was cut off from the network for a while must not take a run back.
    """

    def __init__(self, run: Location, after: int | None = None) -> None:
        self._run = run
        self._order = "" if after is None else f"{AFTER}{after}"
        self._token = ""
        self._lock = threading.Lock()

    def start(self, *, retry_s: float = 0.0) -> str:
        """A new start of the run takes the folder over, under the orders given so far; returns its token.

        What the storage refuses is tried again for `retry_s`.
        """
        token = secrets.token_hex(8)
        insist(lambda: self._take_over(token), retry_s=retry_s)
        return token

    def after(self, step: int) -> None:
        """Let the run go on to the first validation behind `step`, and wait there."""
        self._give(f"{AFTER}{step}")

    def stop(self) -> None:
        """Let the run save a checkpoint and end; no later order takes that back."""
        self._give(STOP)

    def grow(self) -> None:
        """Let this start save and end, for one with more workers; a run that is held or shall stop does that."""
        with self._lock:
            if self._token and not self._order:
                self._write(self._token, GROW)

    def _give(self, order: str) -> None:
        with self._lock:
            if self._order != STOP:
                self._order = order
            if self._token:
                self._write(self._token, self._order)

    def owned(self) -> bool:
        """Whether the folder still belongs to the last start."""
        return read_order(self._run)[0] == self._token

    def _take_over(self, token: str) -> None:
        with self._lock, naming(self._run / OWNER_FILE):
            self._write(token, self._order)

    def _write(self, token: str, order: str) -> None:
        if self._token:
            require_owner(self._run, self._token, token)  # what seemed to fail may have been written
        write_bytes(self._run / OWNER_FILE, f"{token} {order}".strip().encode())
        self._token = token


def read_order(run: Location) -> tuple[str, str]:
    """(Token of the start that the run folder belongs to, what it is told)."""
    token, _, order = read_bytes(run / OWNER_FILE).decode().strip().partition(" ")
    return token, order


def require_owner(run: Location, *tokens: str) -> None:
    """ClusterError where the run folder belongs to another start; what a moment later takes it over is not seen, as nothing is locked."""
    with suppress(FileNotFoundError):
        if read_order(run)[0] not in tokens:
            raise taken_over(run)


def require_visible(run: Location) -> None:
    """StorageError where a worker does not find the folder that its driver has written to."""
    try:
        read_order(run)
    except FileNotFoundError:
        raise StorageError(
            f"{run}: not to be seen on the node {platform.node()}, whose storage is away, or is not the driver's; mount it on every node, "
            f"and run the same command again"
        ) from None


def taken_over(run: Location) -> ClusterError:
    """What ends the start that has lost its folder."""
    return ClusterError(f"{run} was taken over by a later start of this run")


class LastOrder:
    """The order as far as a worker knows it: of a folder as it stands, of a store as it stood seconds ago, read beside the training.

    While the storage is away it is the last that was read; a save notices where that lasts.
    """

    def __init__(self, run: Location, token: str) -> None:
        self._run, self._last, self._next_look = run, (token, ""), 0.0
        self._reader: threading.Thread | None = None

    def get(self) -> tuple[str, str]:
        """As `read_order`."""
        if isinstance(self._run, Path):
            self._read()
        elif time.monotonic() >= self._next_look and not (self._reader and self._reader.is_alive()):
            self._next_look = time.monotonic() + STORE_POLL_S
            self._reader = threading.Thread(target=self._read, name="orders", daemon=True)
            self._reader.start()
        return self._last

    def _read(self) -> None:
        with suppress(OSError, StorageError):
            self._last = read_order(self._run)


def held_at(order: str, validated: int) -> bool:
    """Whether `order` holds a run whose last validation was at step `validated`."""
    return order.startswith(AFTER) and validated > int(order.removeprefix(AFTER))
