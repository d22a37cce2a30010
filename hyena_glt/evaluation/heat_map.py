"""A heat map: a row for each part of a model, a column for each step that was looked at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import LogNorm, Normalize
from matplotlib.ticker import FuncFormatter

from .figures import short, svg

MAX_COLUMNS = 400
MAX_NAMES = 14
"""More rows than this are not all named."""
COLOURS = "viridis"
"""Reads on light and dark alike; its colours cannot come from the page, because the cells are one image."""
NUM_TICKS = 5
"""On the scale of colours."""
LOG_RANGE = 10.0
"""Values that differ by more than this factor are shown by their logarithm."""


def heat_map(names: Sequence[str], steps: Sequence[float], values: np.ndarray) -> str:
    """`values` [names, steps], the first name at the bottom; what is not finite stays empty."""
    edges, cells = _thinned(np.asarray(steps, float), np.where(np.isfinite(values), values, np.nan))

    def draw(axes: Axes) -> None:
        mesh = axes.pcolormesh(edges, np.arange(len(names) + 1), cells, cmap=COLOURS, norm=_norm(cells), rasterized=True)
        axes.grid(visible=False)
        every = -(-len(names) // MAX_NAMES)
        axes.set_yticks(np.arange(len(names))[::every] + 0.5, list(names)[::every], fontsize=8)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("optimizer steps")
        axes.xaxis.set_major_formatter(FuncFormatter(short))
        _draw_scale(axes, mesh)

    return svg(draw, (4.6, max(2.2, min(4.4, 0.9 + 0.2 * len(names)))))


def _draw_scale(axes: Axes, mesh: QuadMesh) -> None:
    bar = axes.figure.colorbar(mesh, ax=axes, pad=0.02, aspect=26)
    bar.solids.set_rasterized(True)
    bar.outline.set_visible(False)
    bar.minorticks_off()
    spaced = np.geomspace if isinstance(mesh.norm, LogNorm) else np.linspace
    ticks = spaced(mesh.norm.vmin, mesh.norm.vmax, NUM_TICKS)
    bar.set_ticks(ticks, labels=[f"{float(f'{tick:.2g}'):g}" for tick in ticks])
    bar.ax.tick_params(labelsize=8, length=0)


def _norm(cells: np.ndarray) -> Normalize:
    known = cells[np.isfinite(cells)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    return LogNorm(low, high) if low > 0 and high / low > LOG_RANGE else Normalize(low, high)


def _thinned(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Edges and at most `MAX_COLUMNS` columns; of those that fall together the last counts.

    A column stands for the steps since the one before it.
    """
    chosen = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), MAX_COLUMNS)).astype(int))
    steps, values = steps[chosen], values[:, chosen]
    width = steps[1] - steps[0] if len(steps) > 1 else 1.0
    return np.append(max(0.0, steps[0] - width), steps), values
