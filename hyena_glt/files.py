"""Writing a file so that neither a reader nor a crash ever sees half of it."""

from __future__ import annotations

import os
from pathlib import Path


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


def unfinished_name(path: Path) -> Path:
    """Beside `path`, and hidden: what is written there can be renamed to `path`."""
    # The process in the name, because two may write the same file: the last rename wins, and each was whole.
    return path.with_name(f".{path.name}.{os.getpid()}")
