"""Story of a report: read a run folder, write report.html. No model is loaded, and no Ray."""

from __future__ import annotations

import os
from pathlib import Path

from hyena_glt.evaluation.report import render, verdict
from hyena_glt.evaluation.run_folder import read_run


def report(checkpoint_dir: str, *, output_dir: str) -> dict[str, object]:
    """Write `output_dir`/report.html for the run that `checkpoint_dir` is or lies in; returns its path and its verdict.

    The page needs nothing beside it. CheckpointError where there is no run, or one without a report yet.
    """
    run = read_run(checkpoint_dir)
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "report.html"
    link = Path(os.path.relpath(run.folder, folder)).as_posix() if isinstance(run.folder, Path) else None
    page.write_text(render(run, link=link), encoding="utf-8")
    return {"report": str(page), "run": str(run.folder), "verdict": verdict(run, run.evaluation)}
