"""The report's pictures, as SVG that takes its colours from the page: light and dark need no second picture."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

INK, RULE, FIRST, SECOND, MUTED, BAR, TINT = "#010101", "#020202", "#030303", "#040404", "#050505", "#060606", "#070707"
"""Placeholders that become CSS colours: text, grid, first and second series, baselines as lines and as bars, shaded bands."""
COLOURS = (FIRST, SECOND, "#080808", "#090909", "#0a0a0a", "#0b0b0b")
"""Of series that are alike, in their order."""
_CSS = {
    INK: "var(--ink)", RULE: "var(--rule)", MUTED: "var(--muted)", BAR: "var(--bar)", TINT: "var(--tint)",
} | dict(zip(COLOURS, ("var(--first)", "var(--second)", "var(--third)", "var(--fourth)", "var(--fifth)", "var(--sixth)"), strict=True))
MAX_POINTS = 800

_STYLE = {
    "svg.fonttype": "none",  # text stays text, in the page's own font
    "svg.hashsalt": "hyena-glt",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": RULE,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a picture; `dots` marks single measurements."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    color: str = FIRST
    dots: bool = False


@dataclass(frozen=True, slots=True)
class Level:
    """A horizontal line with its name on it."""

    label: str
    y: float


def curves(
    series: Sequence[Series], *, x_label: str, y_label: str, levels: Sequence[Level] = (), log_x: bool = False, from_zero: bool = False
) -> str:
    """A line picture. Where there are levels, values far above the highest one are cut off, so that the end stays readable."""

    def draw(axes: Axes) -> None:
        for line in series:
            marker = "o" if line.dots else None
            axes.plot(thinned(line.x), thinned(line.y), color=line.color, label=line.label, marker=marker, markersize=3.5)
        for level in levels:
            axes.axhline(level.y, color=MUTED, linestyle=(0, (4, 3)), linewidth=1.1, zorder=1)
            axes.annotate(
                level.label, (0.0, level.y), xycoords=("axes fraction", "data"), xytext=(3, 2.5), textcoords="offset points",
                ha="left", va="bottom", fontsize=8, color=MUTED,
            )
        axes.set(xlabel=x_label, ylabel=y_label)
        if log_x:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_formatter(FuncFormatter(short))
        axes.margins(x=0.02)
        if from_zero:
            axes.set_ylim(bottom=0)
            axes.yaxis.set_major_formatter(FuncFormatter(short))
        if levels:
            axes.set_ylim(*_readable([y for line in series for y in line.y], [level.y for level in levels]))
        if len(series) > 1:
            axes.legend(loc="best", fontsize=8)

    return svg(draw, (4.6, 2.9))


def gains(names: Sequence[str], values: Sequence[float], uniform: float, highlight: str, *, unit: str) -> str:
    """Bars of the bits saved against `uniform`, a row each, from the least to the most; the label is the bits themselves."""
    order = sorted(range(len(names)), key=lambda i: -values[i])
    labels, bits = [names[i] for i in order], [values[i] for i in order]
    saved = [uniform - b for b in bits]

    def draw(axes: Axes) -> None:
        bars = axes.barh(labels, saved, color=[FIRST if label == highlight else BAR for label in labels], height=0.62)
        axes.bar_label(bars, [f"{b:.3f}" for b in bits], padding=4, fontsize=8, color=INK)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.axvline(0, color=INK, linewidth=0.8)
        low, high = min(0.0, *saved), max(0.0, *saved)
        room = (high - low or 1.0) * 0.16
        axes.set_xlim(low - (room if low < 0 else 0), high + room)
        axes.set_xlabel(f"bits per {unit} saved against uniform")

    return svg(draw, (4.6, 0.55 + 0.27 * len(names)))


def _readable(values: Sequence[float], levels: Sequence[float]) -> tuple[float, float]:
    """Limits that show the lower half of the values, and above the highest level little more than that."""
    low, top = min(*values, *levels), max(levels)
    span = max(top - low, 0.02)
    usual = sorted(values)[len(values) // 2]
    return low - 0.06 * span, max(top + min(0.6 * span, max(0.1 * span, max(values) - top)), usual)


def thinned(values: Sequence[float]) -> Sequence[float]:
    """At most MAX_POINTS values: means of equal stretches, so that a long run's page stays small."""
    if len(values) <= MAX_POINTS:
        return values
    return [float(stretch.mean()) for stretch in np.array_split(np.asarray(values), MAX_POINTS)]


def short(value: float, _: int) -> str:
    """1500 -> 1.5k, 2000000 -> 2M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def svg(draw: Callable[[Axes], None], size: tuple[float, float]) -> str:
    """Draw on new axes of `size` inches; the SVG element alone, scaling with the page."""
    return svg_of_figure(lambda figure: draw(figure.subplots()), size)


def svg_of_figure(draw: Callable[[Figure], None], size: tuple[float, float]) -> str:
    """Draw on a new figure of `size` inches."""
    with rc_context(_STYLE):
        figure = Figure(figsize=size, dpi=150)  # without pyplot: no display, no backend, no global state
        draw(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg ") :]
    for placeholder, css in _CSS.items():
        text = text.replace(placeholder, css)
    return text
