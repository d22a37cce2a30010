"""Writing a file so that neither a reader nor a crash ever sees half of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import StorageError

LEADS_OUT = r"^/|(^|/)\.\.(/|$)"
"""Names in a list of files that mean a place outside the folder of the list: absolute ones, and those with a step up."""


def atomic_write(path: Path, content: str | bytes) -> None:
    """Write under a temporary name, through to the disk, then rename: whoever reads sees the old content or the new."""
    unfinished = unfinished_name(path)
    try:
        with unfinished.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """A hidden name beside `path` to write to; it becomes `path` when the block ends well, else it goes. Errors as `naming` gives them.

    For intermediate files: a process may be killed at any moment, but a machine that loses power may lose what was written last.
    """
    unfinished = unfinished_name(path)
    try:
        with naming(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield unfinished
            unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """A StorageError for an OSError inside: which file it was, that which the system names or else `path`, and what to do."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else f"{error}: is the disk full?"
        place = error.filename or path
        raise StorageError(f"{place}: could not be read or written ({reason}); when that is cured, the same command goes on") from error


def unfinished_name(path: Path) -> Path:
    """Beside `path`, and hidden: what is written there can be renamed to `path`."""
    # The process in the name, because two may write the same file: the last rename wins, and each was whole.
    return path.with_name(f".{path.name}.{os.getpid()}")
