"""A progress bar for a run, read from its metrics.jsonl; runs on the driver, which sees the run folder but not the workers."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from .metrics import METRICS_FILE

POLL_S = 0.5


@contextmanager
def progress_bar(run: Path, *, total_steps: int) -> Iterator[None]:
    """Show step, loss, tokens/s and time left on stderr while the block runs; lines for evaluations and warnings above it."""
    path = run / METRICS_FILE
    offset = path.stat().st_size if path.exists() else 0
    done = threading.Event()
    thread = threading.Thread(target=_follow, args=(path, offset, total_steps, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _follow(path: Path, offset: int, total_steps: int, done: threading.Event) -> None:
    interactive = sys.stderr.isatty()
    with tqdm(total=total_steps, unit="step", disable=not interactive, dynamic_ncols=True, file=sys.stderr, desc="training") as bar:
        ended = False
        while not ended:
            ended = done.wait(POLL_S)  # one more look after the end, for the last lines
            for line, offset in _new_lines(path, offset):
                _show(bar, line, interactive)


def _new_lines(path: Path, offset: int) -> Iterator[tuple[dict[str, object], int]]:
    """Whole lines behind `offset`, each with the offset behind it."""
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(offset)
        for raw in file:
            if not raw.endswith(b"\n"):
                return
            offset += len(raw)
            yield json.loads(raw), offset


def _show(bar: tqdm, line: dict[str, object], interactive: bool) -> None:
    kind, step, total = line["kind"], line.get("step"), line.get("total_steps")
    figures = "bits/base {bits_per_base:.4f}".format(**line) if "bits_per_base" in line else f"loss {line.get('loss', float('nan')):.4f}"
    if kind == "start" or kind == "train":
        bar.n = int(step)  # type: ignore[arg-type]
    if kind == "train":
        speed = f"{line['tokens_per_s']:,.0f} tokens/s"
        bar.set_postfix_str(f"{figures}, {speed}")
        if not interactive:
            left = _time_left(line)
            print(f"step {step}/{total}: {figures}, {speed}, {left} left", file=sys.stderr)
    elif kind == "eval":
        bar.write(f"step {step}: validation {figures}", file=sys.stderr)
    elif kind == "warning":
        bar.write(f"warning: {line['message']}", file=sys.stderr)
    bar.refresh()


def _time_left(line: dict[str, object]) -> str:
    """Minutes and seconds, from the mean time a step so far."""
    step, total, elapsed = (float(line[k]) for k in ("step", "total_steps", "elapsed_s"))  # type: ignore[arg-type]
    seconds = round((total - step) * elapsed / max(step, 1.0))
    return f"{seconds // 60}:{seconds % 60:02d}"
