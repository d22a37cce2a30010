"""Notice a worker that makes no step: its stack goes to a file of the run folder. Runs on the workers; the driver reads the files.

To a run folder in an object store the desk's thread brings it, which needs that the interpreter is free, as where others are waited for.
"""

from __future__ import annotations

import faulthandler
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..data.storage import Location, names_in, size

STACKS = "stacks"


def stack_file(rank: int) -> str:
    """Its name in the run folder."""
    return f"{STACKS}/rank_{rank}.txt"


@contextmanager
def watched(folder: Path, rank: int, limit_s: float) -> Iterator[Callable[[], None]]:
    """Gives what each step must call. Without a call for `limit_s`, all threads' stacks are written, and again after as long.

    A thread of C writes them, which runs also where another holds the interpreter. A file that stayed empty is removed in the end.
    """
    path = folder / stack_file(rank)
    path.parent.mkdir(exist_ok=True)
    with path.open("w") as file:
        try:
            yield lambda: faulthandler.dump_traceback_later(limit_s, repeat=True, file=file)
        finally:
            faulthandler.cancel_dump_traceback_later()
    if not path.stat().st_size:
        path.unlink()


def stalled_ranks(run: Location) -> list[int]:
    """The workers of this start or an earlier one that have made no step for too long."""
    folder = run / STACKS
    try:
        paths = [folder / name for name in names_in(folder) if name.startswith("rank_")]
    except FileNotFoundError:
        return []
    return sorted(int(path.stem.removeprefix("rank_")) for path in paths if size(path))
