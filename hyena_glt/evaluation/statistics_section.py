"""Norms of gradients, weights and activations over a run, part by part; only where `logging.statistics_interval` asked for them."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from ..training.metrics import Report
from .heat_map import heat_map
from .parts import grid
from .run_folder import Run

PICTURES = {
    "grad_norm": "Norm of the gradient, before clipping",
    "weight_norm": "Norm of the weights",
    "activation_rms": "Activations, root mean square of each block's output",
    "activation_max": "Activations, largest magnitude in each block's output",
}


def statistics(run: Run) -> str | None:
    """The section; None where there are no such reports."""
    reports = [report for report in run.reports if report["kind"] == "statistics"]
    pictures = []
    for name, caption in PICTURES.items():
        if parts := _parts(name, reports):
            values = np.array([[report.get(f"{name}/{part}") for report in reports] for part in parts], float)
            pictures.append((heat_map([part.replace("_", " ") for part in parts], [report["step"] for report in reports], values), caption))
    return grid(pictures) if pictures else None


def _parts(name: str, reports: Sequence[Report]) -> list[str]:
    """Parts of the model with a figure `name`, from the input to the output."""
    found = dict.fromkeys(key.removeprefix(f"{name}/") for report in reports for key in report if key.startswith(f"{name}/"))
    return sorted(found, key=_depth)


def _depth(part: str) -> tuple[int, int]:
    """Embeddings come before the blocks, all else after them."""
    number = re.fullmatch(r"block_(\d+)", part)
    if number:
        return 1, int(number[1])
    return (0 if "embedding" in part else 2), 0
