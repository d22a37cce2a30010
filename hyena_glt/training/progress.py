"""A progress bar for a run, read from its metrics.jsonl; runs on the driver, which sees the run folder but not the workers."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from tqdm import tqdm

from ..data.storage import Location, open_binary, size
from ..errors import StorageError
from .metrics import METRICS_FILE, Report, whole_size
from .watchdog import STACKS, stalled_ranks

POLL_S, STORE_POLL_S = 0.5, 3.0
LOOK_FOR_STACKS = 20
"""Polls between two looks for workers that make no step."""


@contextmanager
def progress_bar(run: Location, *, total_steps: int) -> Iterator[None]:
    """Show step, loss, tokens/s and time left on stderr while the block runs; lines for evaluations and warnings above it."""
    path = run / METRICS_FILE
    offset = whole_size(path)
    done = threading.Event()
    thread = threading.Thread(target=_follow, args=(path, offset, total_steps, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _follow(path: Location, offset: int, total_steps: int, done: threading.Event) -> None:
    interactive = sys.stderr.isatty()
    with tqdm(total=total_steps, unit="step", disable=not interactive, dynamic_ncols=True, file=sys.stderr, desc="training") as bar:
        ended, stalled = False, list[int]()
        with suppress(OSError, StorageError):
            stalled = stalled_ranks(path.parent)
        for poll in count():
            if ended:
                return
            # One more look after the end, for the last lines.
            ended = done.wait(POLL_S if isinstance(path, Path) else STORE_POLL_S)
            lines: list[bytes] = []
            with suppress(OSError, StorageError):  # a storage that is away shows again, or ends the run
                if ended or poll % LOOK_FOR_STACKS == 0:
                    stalled = _tell_stalled(bar, path.parent, known=stalled)
                lines = _whole_lines(path, offset)
            offset += sum(map(len, lines))
            for line in lines:
                _show(bar, json.loads(line), interactive)


def _tell_stalled(bar: tqdm, run: Location, *, known: list[int]) -> list[int]:
    """A line about the workers that stand still since the last look; all that do now."""
    stalled = stalled_ranks(run)
    if new := [rank for rank in stalled if rank not in known]:
        who = "worker" if len(new) == 1 else "workers"
        bar.write(
            f"warning: no step from {who} {', '.join(map(str, new))} for cluster.stall_timeout_s; stacks in {run / STACKS}", file=sys.stderr
        )
    return stalled


def _whole_lines(path: Location, offset: int) -> list[bytes]:
    """The lines behind `offset` that are written to their end."""
    if (size(path) or 0) <= offset:
        return []
    with open_binary(path) as file:
        file.seek(offset)
        return [line for line in file.read().splitlines(keepends=True) if line.endswith(b"\n")]


def _show(bar: tqdm, report: Report, interactive: bool) -> None:
    kind, step = report["kind"], report["step"]
    if kind == "start":
        bar.reset()  # so that the rate is that of this start, without the time before its first step
        bar.initial = bar.n = step
    elif kind == "train":
        bar.n = step
        state = f"{_figure(report)}, {report['tokens_per_s']:,.0f} tokens/s"
        bar.set_postfix_str(state)
        if not interactive:
            print(f"step {step}/{report['total_steps']}: {state}, {_time_left(report)} left", file=sys.stderr)
    elif kind == "eval":
        bar.write(f"step {step}: validation {_figure(report)}", file=sys.stderr)
    elif kind == "warning":
        bar.write(f"warning: {report['message']}", file=sys.stderr)
    bar.refresh()


def _figure(report: Report) -> str:
    """Bits per base where the tokens allow it, else the loss."""
    return f"{report['bits_per_base']:.4f} bits/base" if "bits_per_base" in report else f"loss {report['loss']:.4f}"


def _time_left(report: Report) -> str:
    """Minutes and seconds, from the mean time a step so far."""
    step = max(1, report["step"])
    seconds = round((report["total_steps"] - step) * report["elapsed_s"] / step)
    return f"{seconds // 60}:{seconds % 60:02d}"
