"""A file that is written whole or not at all."""

from __future__ import annotations

import pytest

from hyena_glt.files import atomic_write


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
