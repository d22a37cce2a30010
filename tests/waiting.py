"""Waiting for what other processes and threads do."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable

HANG_S = 600.0
"""So long nothing takes that has not hung, however busy the machine is."""


def wait_until(
    moment: Callable[[], object], *, process: subprocess.Popen | None = None, said: Callable[[], str] = str, within_s: float = HANG_S
) -> None:
    """Until it is time; AssertionError, with the end of what was said, where it never is or the process ends before."""
    deadline = time.monotonic() + within_s
    while not moment():
        assert process is None or process.poll() is None, f"it ended before: {said()[-2000:]}"
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {said()[-2000:]}"
        time.sleep(0.02)
