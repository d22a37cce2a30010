"""What the driver of a run tells its workers while they train: go on, go on to the next validation, stop. Runs on the driver.

One small file in the run folder carries it, which also names the start that the folder belongs to:
`<token>`, `<token> after N` or `<token> stop`.
"""

from __future__ import annotations

import secrets
import threading
from pathlib import Path

from ..files import atomic_write

OWNER_FILE = ".owner"
STOP, AFTER = "stop", "after "


class Orders:
    """The orders for one run; its first start shall wait at the first validation behind step `after`. Any thread may call."""

    def __init__(self, run: Path, after: int | None = None) -> None:
        self._file = run / OWNER_FILE
        self._order = "" if after is None else f"{AFTER}{after}"
        self._token = ""
        self._lock = threading.Lock()

    def start(self) -> str:
        """A new start of the run takes the folder over, under the orders given so far; returns its token."""
        with self._lock:
            self._token = secrets.token_hex(8)
            self._write()
            return self._token

    def after(self, step: int) -> None:
        """Let the run go on to the first validation behind `step`, and wait there."""
        self._give(f"{AFTER}{step}")

    def stop(self) -> None:
        """Let the run save a checkpoint and end; no later order takes that back."""
        self._give(STOP)

    def _give(self, order: str) -> None:
        with self._lock:
            if self._order != STOP:
                self._order = order
            if self._token:
                self._write()

    def _write(self) -> None:
        atomic_write(self._file, f"{self._token} {self._order}".strip())


def read_order(run: Path) -> tuple[str, str]:
    """(Token of the start that the run folder belongs to, what it is told)."""
    token, _, order = (run / OWNER_FILE).read_text().strip().partition(" ")
    return token, order


def held_at(order: str, validated: int) -> bool:
    """Whether `order` holds a run whose last validation was at step `validated`."""
    return order.startswith(AFTER) and validated > int(order.removeprefix(AFTER))
