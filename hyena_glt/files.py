"""Writing a file so that neither a reader nor a crash ever sees half of it; folders of this machine that do not outlive their use."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from tempfile import gettempdir
from typing import TypeVar

from .errors import StorageError

T = TypeVar("T")

log = logging.getLogger(__name__)

LEADS_OUT = r"^/|(^|/)\.\.(/|$)"
"""Names in a list of files that mean a place outside the folder of the list: absolute ones, and those with a step up."""
SCRATCH_PREFIX = "hyena-glt-scratch-"
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
"""Between two attempts at what a storage refuses; each pause is twice the one before."""
SETTLED_S = 60.0
"""After so long a scratch folder that is not locked is nobody's."""


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


def sync(path: Path) -> None:
    """Write what the system still holds of a file through to the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


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
def naming(path: object) -> Iterator[None]:
    """A StorageError for an OSError inside: which file it was, that which the system names or else `path`, and what to do."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else f"{error}: is the disk full?"
        place = error.filename or path
        raise StorageError(f"{place}: could not be read or written ({reason}); when that is cured, the same command goes on") from error


def insist(
    act: Callable[[], T], *, retry_s: float, warn: Callable[[str], None] = log.warning, wait: Callable[[float], None] = time.sleep
) -> T:
    """Do it, again and again while the storage refuses and time is left, with one warning; the StorageError of the last attempt."""
    deadline, pause = time.monotonic() + retry_s, FIRST_PAUSE_S
    while True:
        try:
            return act()
        except StorageError as error:
            if time.monotonic() + pause > deadline:
                raise
            if pause == FIRST_PAUSE_S:
                warn(f"{error}; trying again for {retry_s:g} s")
            wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)


def unfinished_name(path: Path) -> Path:
    """Beside `path`, and hidden: what is written there can be renamed to `path`."""
    # The process in the name, because two may write the same file: the last rename wins, and each was whole.
    return path.with_name(f".{path.name}.{os.getpid()}")


@contextmanager
def scratch_folder(name: str | None = None) -> Iterator[Path]:
    """An empty folder on this machine's disk (TMPDIR), which goes when the block ends.

    Its owner holds a lock on it, so that those of processes that were killed are known, and go now.
    """
    for old in Path(gettempdir()).glob(f"{SCRATCH_PREFIX}*"):
        with suppress(OSError):  # another user's, or gone meanwhile
            _remove_unowned(old)
    folder = scratch_path(name or token_hex(8))
    folder.mkdir(mode=0o700)
    owned = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(owned, fcntl.LOCK_EX)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(owned)


def scratch_path(name: str) -> Path:
    """Where the scratch folder of that name lies; nobody who does not know the name can have made it before."""
    return Path(gettempdir()) / f"{SCRATCH_PREFIX}{name}"


def _remove_unowned(folder: Path) -> None:
    """OSError where a living process holds it."""
    owner = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if time.time() - folder.stat().st_mtime > SETTLED_S:
            shutil.rmtree(folder)
    finally:
        os.close(owner)
