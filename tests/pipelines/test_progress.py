"""Progress on stderr: a bar on a terminal, a line a stage elsewhere."""

from __future__ import annotations

import io
import sys

from pipelines._progress import ProgressBar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def run_two_stages() -> None:
    progress = ProgressBar("bases")
    for stage in ("reading", "tokenizing"):
        for done in (0, 500, 1000):
            progress(stage, done, 1000)
    progress.close()


def test_lines_where_there_is_no_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    run_two_stages()
    assert sys.stderr.getvalue() == "reading: 1,000 of 1,000 bases, 0 s, 0 s left\ntokenizing: 1,000 of 1,000 bases, 0 s, 0 s left\n"


def test_lines_come_now_and_then_in_a_long_stage(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    clock = iter([0.0, 40.0, 50.0, 80.0])
    monkeypatch.setattr("pipelines._progress.time.monotonic", lambda: next(clock))
    progress = ProgressBar("bases")
    for done in (0, 250, 300, 500):
        progress("reading", done, 1000)
    assert sys.stderr.getvalue() == (
        "reading: 250 of 1,000 bases, 40 s, 6 bases/s, 120 s left\nreading: 500 of 1,000 bases, 80 s, 6 bases/s, 80 s left\n"
    )


def test_a_bar_on_a_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    run_two_stages()
    shown = sys.stderr.getvalue()
    assert "reading: 100%" in shown and "tokenizing: 100%" in shown and "1.00k/1.00k" in shown
