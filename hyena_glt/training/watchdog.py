"""Notice a worker that makes no step: its stack goes to a file of the run folder. Runs on the workers; the driver reads the files."""

from __future__ import annotations

import faulthandler
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

STACKS = "stacks"


@contextmanager
def watched(run: Path, rank: int, limit_s: float) -> Iterator[Callable[[], None]]:
    """Gives what each step must call. Without a call for `limit_s`, all threads' stacks are written, and again after as long.

    A thread of C writes them, which runs also where another holds the interpreter. A file that stayed empty is removed in the end.
    """
    path = run / STACKS / f"rank_{rank}.txt"
    path.parent.mkdir(exist_ok=True)
    with path.open("w") as file:
        try:
            yield lambda: faulthandler.dump_traceback_later(limit_s, repeat=True, file=file)
        finally:
            faulthandler.cancel_dump_traceback_later()
    if not path.stat().st_size:
        path.unlink()


def stalled_ranks(run: Path) -> list[int]:
    """The workers of this start or an earlier one that have made no step for too long."""
    return sorted(int(path.stem.removeprefix("rank_")) for path in (run / STACKS).glob("rank_*.txt") if path.stat().st_size)
