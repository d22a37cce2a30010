"""Let a run go on from another run's checkpoint: weights, optimizer state and position. No Ray."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from .checkpoint import BEST, CHECKPOINTS, LATEST, read_info, step_name
from .commit import ALONE, empty_staging_folder, point, staging_folder


def adopt(run: Path, donor: Path, step: int) -> None:
    """Replace `run`'s checkpoints by the donor's of `step`, and by the donor's best one.

    Hard links where the file system has them: files of a checkpoint are never written again, so neither run sees the other's later
    saves and prunings. Raises CheckpointError where the donor's is not whole.
    """
    info = read_info(donor / CHECKPOINTS / step_name(step))
    best = info.progress.best_step
    steps = {step} | ({best} if best is not None and (donor / CHECKPOINTS / step_name(best)).exists() else set())
    for number in steps:
        staged = empty_staging_folder(run, number, ALONE)
        shutil.copytree(donor / CHECKPOINTS / step_name(number), staged, copy_function=_link, dirs_exist_ok=True)
    for old in (run / CHECKPOINTS).glob("step_*"):
        shutil.rmtree(old)
    for number in sorted(steps):
        staging_folder(run, number, ALONE).rename(run / CHECKPOINTS / step_name(number))
    point(run, LATEST, step_name(step))
    point(run, BEST, step_name(best if best in steps else step))


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)
