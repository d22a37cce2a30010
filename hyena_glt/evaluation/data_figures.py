"""The pictures of a data report: one colour a split, shares instead of counts, so that splits of any size compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, PercentFormatter

from .figures import FIRST, SECOND, short, svg

COLOURS = {"train": FIRST, "val": SECOND, "test": "#3f9c6a"}
"""The last is no placeholder of the page: it reads well on light and dark."""
MAX_BINS = 51
HALF, WHOLE = (4.6, 2.9), (9.6, 3.1)
"""Sizes in inches: half the page's width, and all of it."""


def histogram(counts: Mapping[str, np.ndarray], *, x_label: str, y_label: str, first: int = 0, log: bool = False) -> str:
    """Share of each split's counts in `bins`; counts [split][n] are of the values first, first + 1, ..."""
    size = len(next(iter(counts.values())))
    edges = bins(size)

    def draw(axes: Axes) -> None:
        for name, values in counts.items():
            shares = np.add.reduceat(values, edges[:-1]) / max(values.sum(), 1)
            axes.stairs(shares, edges + first - 0.5, color=COLOURS[name], label=name, linewidth=1.5)
            axes.stairs(shares, edges + first - 0.5, color=COLOURS[name], fill=True, alpha=0.1)
        axes.set(xlabel=x_label, ylabel=y_label)
        axes.xaxis.set_major_formatter(FuncFormatter(short))
        _share_axis(axes, log=log)
        axes.margins(x=0.02)
        _legend(axes, counts)

    return svg(draw, HALF)


def bins(size: int) -> np.ndarray:
    """Edges, int64, of at most `MAX_BINS` bins of `size` whole numbers: all hold equally many, but for the last."""
    return np.append(np.arange(0, size, -(-size // MAX_BINS)), size)


def grouped_bars(
    names: Sequence[str], shares: Mapping[str, Sequence[float]], *, x_label: str, y_label: str, log: bool = False, wide: bool = False
) -> str:
    """A group of bars for each name, one bar a split."""
    width = 0.8 / max(len(shares), 1)

    def draw(axes: Axes) -> None:
        for number, (split, values) in enumerate(shares.items()):
            at = np.arange(len(names)) + (number - (len(shares) - 1) / 2) * width
            axes.bar(at, values, width * 0.92, color=COLOURS[split], label=split)
        axes.set_xticks(np.arange(len(names)), names)
        axes.tick_params(axis="x", length=0)
        axes.grid(visible=False, axis="x")
        axes.set(xlabel=x_label, ylabel=y_label)
        axes.margins(x=0.01)
        _share_axis(axes, log=log)
        _legend(axes, shares)

    return svg(draw, WHOLE if wide else HALF)


def spectrum(shares: Mapping[str, Mapping[str, float]], *, x_label: str, y_label: str) -> str:
    """A dot for each word and split, words from the most to the least frequent in the first split; every fourth is named."""
    first = next(iter(shares.values()))
    words = sorted(first, key=lambda word: -first[word])

    def draw(axes: Axes) -> None:
        for number, (split, of_word) in enumerate(shares.items()):
            values, marker = [of_word[word] for word in words], "oDs"[number]
            axes.plot(values, marker, color=COLOURS[split], label=split, markersize=4.2 - 0.4 * number, alpha=0.85, markeredgewidth=0)
        axes.set_xticks(range(0, len(words), 4), words[::4], rotation=90, fontsize=7, family="monospace")
        axes.grid(visible=False, axis="x")
        axes.set(xlabel=x_label, ylabel=y_label)
        axes.margins(x=0.01)
        _share_axis(axes, log=False)
        _legend(axes, shares)

    return svg(draw, WHOLE)


def _share_axis(axes: Axes, *, log: bool) -> None:
    if log:
        axes.set_yscale("log")
        axes.set_ylim(min(axes.get_ylim()[0], 1e-3), 1.5)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
        axes.minorticks_off()
    else:
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))


def _legend(axes: Axes, splits: Mapping[str, object]) -> None:
    """Above the picture, where it covers nothing."""
    if len(splits) > 1:
        axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=len(splits), fontsize=8, borderaxespad=0.1, handlelength=1.2)
