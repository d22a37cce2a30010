"""What a growing metrics.jsonl shows on stderr: lines in a log, a bar on a terminal."""

from __future__ import annotations

import io
import json
import re
import sys
import time
from pathlib import Path

import pytest

from hyena_glt.config import LoggingConfig
from hyena_glt.training import progress
from hyena_glt.training.metrics import RunLog
from hyena_glt.training.progress import progress_bar
from tests.waiting import wait_until

TRAIN = {"kind": "train", "total_steps": 40, "tokens_per_s": 12345.6, "loss": 1.5, "elapsed_s": 30.0}
LINE = "step 10/40: 1.9000 bits/base, 12,346 tokens/s, 1:30 left\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def often(monkeypatch) -> None:
    monkeypatch.setattr(progress, "POLL_S", 0.005)


def start(step: int = 0) -> dict:
    return {"kind": "start", "step": step, "total_steps": 40}


def train(step: int, **figures: float) -> dict:
    return TRAIN | {"step": step} | figures


def append(run: Path, *reports: dict) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(report) + "\n" for report in reports)


def test_a_line_a_report(tmp_path, capsys):
    with progress_bar(tmp_path, total_steps=40):
        append(tmp_path, start(), train(10, bits_per_base=1.9))
        append(tmp_path, {"kind": "eval", "step": 10, "loss": 1.25, "bits_per_base": 1.8})
        append(tmp_path, train(20), {"kind": "warning", "step": 20, "message": "passed over a damaged checkpoint: x"})
        append(tmp_path, {"kind": "end", "step": 40, "total_steps": 40, "reason": "finished"})
    assert capsys.readouterr().err == (
        LINE + "step 10: validation 1.8000 bits/base\n"
        "step 20/40: loss 1.5000, 12,346 tokens/s, 0:30 left\n"
        "warning: passed over a damaged checkpoint: x\n"
    )


def test_nothing_to_show(tmp_path, capsys):
    with progress_bar(tmp_path, total_steps=40):
        pass
    assert capsys.readouterr().err == ""


def test_reports_of_earlier_starts_are_not_shown_again(tmp_path, capsys):
    append(tmp_path, start(), train(5))
    with progress_bar(tmp_path, total_steps=40):
        append(tmp_path, start(5), train(10, bits_per_base=1.9))
    assert capsys.readouterr().err == LINE


def test_a_line_is_shown_once_it_is_whole(tmp_path, capsys):
    text, shown = json.dumps(train(10, bits_per_base=1.9)) + "\n", []
    with progress_bar(tmp_path, total_steps=40), (tmp_path / "metrics.jsonl").open("w") as file:
        for part in (text[:30], text[30:60], text[60:]):
            assert shown == []
            file.write(part)
            file.flush()
            time.sleep(0.05)  # ten looks at the file
            shown += capsys.readouterr().err.splitlines(keepends=True)
        wait_until(lambda: shown or shown.extend(capsys.readouterr().err.splitlines(keepends=True)), within_s=10)
        file.write(text[:50])
    assert shown == [LINE] and capsys.readouterr().err == ""


def test_a_line_that_a_crash_cut_short_does_not_spoil_the_next_start(tmp_path, capsys):
    append(tmp_path, start(), train(5))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "step": 6, "loss')
    with progress_bar(tmp_path, total_steps=40):
        log = RunLog(tmp_path, LoggingConfig(use_tensorboard=False), settings={})
        for report in (start(5), train(10, bits_per_base=1.9)):
            log.write(report)
        log.close()
    assert capsys.readouterr().err == LINE


def test_the_block_s_error_passes_through_after_the_last_reports(tmp_path, capsys):
    with pytest.raises(RuntimeError, match="a worker died"), progress_bar(tmp_path, total_steps=40):
        append(tmp_path, train(10, bits_per_base=1.9))
        raise RuntimeError("a worker died")
    assert capsys.readouterr().err == LINE


def test_a_bar_on_a_terminal(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress_bar(tmp_path, total_steps=40):
        append(tmp_path, start(), train(10, bits_per_base=1.9), {"kind": "eval", "step": 10, "loss": 1.25})
        wait_until(lambda: "10/40" in sys.stderr.getvalue(), within_s=10)
        append(tmp_path, train(40))
    shown = sys.stderr.getvalue()
    assert "training:" in shown and "1.9000 bits/base, 12,346 tokens/s" in shown and "step 10: validation loss 1.2500" in shown
    assert re.search(r"100%.*40/40 .*loss 1.5000", shown) and "step 10/40:" not in shown


def test_the_time_left_of_a_resumed_run_counts_its_own_steps(monkeypatch):
    """A thousand steps of an earlier start took no time of this one; ten steps in 10 s leave 90 s for the other 90."""
    clock = [0.0]
    monkeypatch.setattr("tqdm.std.time", lambda: clock[0])
    with progress.tqdm(total=1100, file=Terminal()) as bar:
        clock[0] = 500.0  # Ray and the model took their time
        progress._show(bar, start(1000), True)
        clock[0] = 510.0
        progress._show(bar, train(1010), True)
        assert (bar.format_dict["n"], bar.format_dict["elapsed"]) == (1010, 10.0)
        assert "[00:10<01:30" in str(bar)
