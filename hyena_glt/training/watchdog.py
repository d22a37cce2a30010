"""Notice a worker that makes no step: its stacks go to a file of the run folder. Runs on the workers; the driver reads the files.

A thread of Python's watches, which sees nothing while the interpreter is held; a wait for other workers, the usual reason, does not hold
it. `faulthandler` would see that too, but reads the stacks of running threads unguarded, and a worker that is only slow may die of it.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..data.storage import Location, names_in, size

STACKS = "stacks"
LOOKS = 10
"""In the time after which a worker stands still."""


def stack_file(rank: int) -> str:
    """Its name in the run folder."""
    return f"{STACKS}/rank_{rank}.txt"


@contextmanager
def watched(folder: Path, rank: int, limit_s: float) -> Iterator[Callable[[], None]]:
    """Gives what each step must call. Without a call for `limit_s`, all threads' stacks are written, and again after as long.

    What an earlier start wrote is removed.
    """
    path, done, seen = folder / stack_file(rank), threading.Event(), [time.monotonic()]
    path.unlink(missing_ok=True)

    def watch() -> None:
        while not done.wait(limit_s / LOOKS):
            if time.monotonic() - seen[0] > limit_s:
                with suppress(OSError):  # the storage may be away too
                    path.parent.mkdir(exist_ok=True)
                    with path.open("a") as file:
                        file.write(_stacks())
                seen[0] = time.monotonic()

    def step() -> None:
        seen[0] = time.monotonic()

    threading.Thread(target=watch, name="watchdog", daemon=True).start()
    try:
        yield step
    finally:
        done.set()


def _stacks() -> str:
    """Of every thread, the latest call last."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    frames = sys._current_frames()
    return "\n".join(
        f"Thread {names.get(number, number)}:\n{''.join(traceback.format_stack(frame))}" for number, frame in frames.items()
    )


def stalled_ranks(run: Location) -> list[int]:
    """The workers of this start or an earlier one that have made no step for too long."""
    folder = run / STACKS
    try:
        paths = [folder / name for name in names_in(folder) if name.startswith("rank_")]
    except FileNotFoundError:
        return []
    return sorted(int(path.stem.removeprefix("rank_")) for path in paths if size(path))
