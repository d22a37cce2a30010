"""A file system that is as full as a test wants it; needs root."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def disk(place: Path) -> Iterator[Callable[[int], None]]:
    """A file system of its own at `place`; the function gives it so many KiB in all."""
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(place)], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield lambda kib: subprocess.run(["mount", "-o", f"remount,size={kib}k", str(place)], check=True)
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)  # Ray's idle workers still map files of it
