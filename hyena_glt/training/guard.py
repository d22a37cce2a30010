"""Bad steps and plateaus: what a loss means for the run. Pure functions of the progress, so that a resumed run decides alike."""

from __future__ import annotations

import math
from dataclasses import replace

from ..config.recipe import Curriculum
from ..config.tree import TrainingConfig
from .checkpoint import Progress

MEAN_DECAY = 0.98
"""Share of the running mean of the losses that a step leaves as it was."""
MAX_BAD_STEPS = 5
"""After so many bad steps in a row something else is wrong."""


def is_guarded(cfg: TrainingConfig) -> bool:
    """Whether each step's loss must be known before the weights move, which makes the device wait."""
    return cfg.on_bad_step != "stop" or cfg.spike_factor is not None


def fault(loss: float, progress: Progress, spike_factor: float | None) -> str | None:
    """What is wrong with the mean loss of a step, or None."""
    if not math.isfinite(loss):
        return f"the training loss is {loss}"
    mean = progress.recent_loss
    if spike_factor is not None and mean is not None and loss > spike_factor * mean:
        return f"the training loss, {loss:.4f}, is {loss / mean:.2f} times its running mean ({mean:.4f})"
    return None


def after_good_step(loss: float, progress: Progress) -> Progress:
    """The running mean with one more loss; nothing is bad any more."""
    mean = loss if progress.recent_loss is None else MEAN_DECAY * progress.recent_loss + (1 - MEAN_DECAY) * loss
    return replace(progress, recent_loss=mean, bad_steps=0)


def after_evaluation(loss: float, progress: Progress, curricula: dict[str, Curriculum]) -> Progress:
    """The best loss, and how long each of the things that wait for a plateau has waited."""
    if progress.best_loss is None or loss < progress.best_loss:
        waited = dict.fromkeys(progress.plateau, 0)
        return replace(progress, best_loss=loss, best_step=progress.step, evaluations_without_gain=0, plateau=waited)
    waited = {name: progress.plateau.get(name, 0) + 1 for name, curriculum in curricula.items() if curriculum.by == "plateau"}
    progress = replace(progress, evaluations_without_gain=progress.evaluations_without_gain + 1, plateau=waited)
    for name in waited:
        progress = _moved(name, curricula[name], progress)
    return progress


def _moved(name: str, curriculum: Curriculum, progress: Progress) -> Progress:
    """A curriculum takes its next value where it has waited long enough."""
    done = progress.moves.get(name, [])
    if len(done) == len(curriculum.at) or progress.plateau[name] < curriculum.at[len(done)]:
        return progress
    return replace(
        progress, moves=dict(progress.moves) | {name: [*done, progress.step]}, plateau=dict(progress.plateau) | {name: 0},
    )


def is_impatient(progress: Progress, patience: int | None) -> bool:
    """Whether so many evaluations have passed without a lower loss that the stage ends."""
    return patience is not None and progress.evaluations_without_gain >= patience


def stage_ended(progress: Progress) -> Progress:
    """The same progress where a plateau ends the stage and the next one begins."""
    ended = [*progress.moves.get("stage", []), progress.step]
    return replace(progress, moves=dict(progress.moves) | {"stage": ended}, evaluations_without_gain=0)
