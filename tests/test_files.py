"""A file that is written whole or not at all; a folder that does not outlive its use."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from hyena_glt.files import SCRATCH_PREFIX, SETTLED_S, atomic_write, scratch_folder, scratch_path


@pytest.mark.parametrize("content", ["a\n", b"\xff\r\n"], ids=["text", "bytes"])
def test_what_was_written_is_there_and_nothing_else(tmp_path, content):
    atomic_write(tmp_path / "latest", content)
    assert (tmp_path / "latest").read_bytes() == (content if isinstance(content, bytes) else content.encode())
    assert [item.name for item in tmp_path.iterdir()] == ["latest"]


def test_a_full_disk_leaves_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "latest"
    atomic_write(path, "old\n")

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hyena_glt.files.os.fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        atomic_write(path, "new\n")
    assert path.read_text() == "old\n" and [item.name for item in tmp_path.iterdir()] == ["latest"]


def test_a_scratch_folder_goes_with_its_block(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(ZeroDivisionError), scratch_folder() as one, scratch_folder("known") as other:
        (one / "a").write_text("a")
        assert other == scratch_path("known") and other.stat().st_mode & 0o777 == 0o700 and not list(other.iterdir())
        with pytest.raises(FileExistsError), scratch_folder("known"):
            pass
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_goes_with_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    program = "import time; from hyena_glt.files import *\nwith scratch_folder() as folder: print(folder, flush=True); time.sleep(60)"
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[1], env={**os.environ, "TMPDIR": str(tmp_path)}, text=True,
        stdout=subprocess.PIPE,
    )
    folder = Path(process.stdout.readline().strip())
    assert folder.name.startswith(SCRATCH_PREFIX)
    old = folder.stat().st_mtime - 2 * SETTLED_S
    os.utime(folder, (old, old))
    with scratch_folder():
        assert folder.exists(), "its process lives"
    process.kill()
    process.communicate()
    with scratch_folder() as other:
        assert list(tmp_path.iterdir()) == [other]
