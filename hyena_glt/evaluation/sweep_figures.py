"""The pictures of a sweep: its curves, parallel coordinates and importances, as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from ..config.dump import spoken
from .figures import BAR, FIRST, INK, MUTED, RULE, SECOND, svg
from .sweep_folder import Row, Sweep

COLORS = {"finished": FIRST, "stopped": BAR, "failed": MUTED, "unfinished": BAR}
MAX_LABELS = 12


def trial_curves(sweep: Sweep) -> str:
    """The metric over tokens, a line a trial; the best one stands out."""
    best = sweep.best()

    def draw(axes: Axes) -> None:
        labelled: set[str] = set()
        for row in sorted(sweep.rows, key=lambda row: row is best):
            if not row.curve:
                continue
            color, name = (SECOND, f"best, {row.id}") if row is best else (COLORS[row.status], row.status)
            axes.plot(
                [tokens for _, tokens, _ in row.curve], [value for *_, value in row.curve], color=color,
                label=None if name in labelled else name, linewidth=2.2 if row is best else 1.1, marker="o", markersize=2.5,
            )
            labelled.add(name)
        axes.set(xlabel="tokens", ylabel=sweep.metric, xscale="log")
        axes.set_ylim(*_window([value for row in sweep.rows for *_, value in row.curve], maximize=sweep.maximizes))
        axes.legend(loc="best", fontsize=8)

    return svg(draw, (4.6, 3.1))


def _window(values: Sequence[float], *, maximize: bool) -> tuple[float, float]:
    """Limits that leave out the few values far on the bad side."""
    low, high = float(np.min(values)), float(np.max(values))
    if maximize:
        low = max(low, float(np.percentile(values, 5)) - 0.1 * (high - low))
    else:
        high = min(high, float(np.percentile(values, 95)) + 0.1 * (high - low))
    room = 0.04 * (high - low) or 0.02
    return low - room, high + room


def parallel_coordinates(sweep: Sweep) -> str:
    """An upright axis a setting and one for the result, a line a trial: the better, the stronger; the best in the second colour."""
    rows = [row for row in sweep.rows if row.best_value is not None]
    best = sweep.best()
    ranked = sorted(rows, key=lambda row: row.best_value or 0.0, reverse=not sweep.maximizes)
    columns = [_Column(path, kind, values) for path, (kind, *values) in sweep.domains.items()]
    result = _Column(f"best {sweep.metric}", "uniform", list(_window([row.best_value or 0.0 for row in rows], maximize=sweep.maximizes)))

    def draw(axes: Axes) -> None:
        for rank, row in enumerate(ranked):
            heights = [column.height(row.settings[column.name]) for column in columns] + [result.height(row.best_value)]
            share = (rank + 1) / len(ranked)
            style: dict[str, Any] = {"color": SECOND, "linewidth": 2.4, "zorder": 4} if row is best else {
                "color": FIRST, "linewidth": 1.0, "alpha": 0.08 + 0.8 * share**2
            }
            axes.plot(range(len(heights)), heights, **style)
        for place, column in enumerate([*columns, result]):
            column.draw(axes, place)
        axes.set_xlim(-0.25, len(columns) + 0.35)
        axes.set_ylim(-0.08, 1.2)
        axes.axis("off")

    return svg(draw, (9.6, 3.3))


class _Column:
    """One upright axis."""

    def __init__(self, name: str, kind: str, values: list[Any]) -> None:
        self.name, self._values = name, values
        self._log = kind.startswith("log")
        self._is_list = kind in ("choice", "grid")

    def height(self, value: Any) -> float:
        """Where a value lies, 0 to 1."""
        if self._is_list:
            return (self._values.index(value) + 0.5) / len(self._values)
        low, high, at = (math.log(v) if self._log else v for v in (*self._values, value))
        return min(1.0, max(0.0, (at - low) / (high - low)))

    def draw(self, axes: Axes, place: int) -> None:
        """The line, its name above and values beside it."""
        axes.plot([place, place], [0, 1], color=RULE, linewidth=1.2, zorder=3)
        axes.annotate(self.name.rpartition(".")[2], (place, 1.13), ha="center", va="bottom", fontsize=9, color=INK, annotation_clip=False)
        for height, label in self._labels():
            axes.annotate(
                label, (place, height), xytext=(4, 4), textcoords="offset points", ha="left", va="bottom", fontsize=7.5, color=INK,
                zorder=5,
            )

    def _labels(self) -> list[tuple[float, str]]:
        if self._is_list:
            shown = self._values[:MAX_LABELS]
            return [(self.height(value), spoken(value)) for value in shown]
        low, high = self._values
        middle = math.sqrt(low * high) if self._log else (low + high) / 2
        return [(self.height(value), f"{value:.3g}") for value in (low, middle, high)]


def importances(found: dict[str, float]) -> str:
    """Bars from the most important setting down."""
    names = [path.rpartition(".")[2] for path in found]

    def draw(axes: Axes) -> None:
        bars = axes.barh(names, list(found.values()), color=FIRST, height=0.6)
        axes.bar_label(bars, [f"{value:.0%}" for value in found.values()], padding=4, fontsize=8, color=INK)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.set_xlim(0, max(1e-9, *found.values()) * 1.18)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")

    return svg(draw, (4.6, 0.8 + 0.34 * len(names)))


def measured(sweep: Sweep) -> list[Row]:
    """The trials with at least one validation."""
    return [row for row in sweep.rows if row.curve]
