"""The picture of a recipe: small panels above each other over the same steps, the stages behind them, and what happened on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from .figures import FIRST, INK, SECOND, TINT, Series, short, svg_of_figure

WIDTH = 9.6
"""Inches, as wide as the page."""
INCHES_PER_CHARACTER = 0.078
"""Of a band's name; the page's font may be wider than the one that is measured here."""
INCHES_PER_LANE = 0.19
MAX_NAME = 16
"""Characters of a line's name, which stands beside its panel."""


@dataclass(frozen=True, slots=True)
class Panel:
    """Lines over steps under one name; `stairs` for values that hold until the next point."""

    label: str
    lines: Sequence[Series]
    stairs: bool = True


@dataclass(frozen=True, slots=True)
class Band:
    """A named stretch of steps."""

    name: str
    first_step: int
    end_step: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Events:
    """Steps at which something happened."""

    plateaus: Sequence[int] = ()
    """The validation loss moved the recipe on."""
    skipped: Sequence[int] = ()
    """A step was left out."""
    rolled_back: Sequence[tuple[int, int]] = ()
    """(From, back to): the run went back to a checkpoint."""
    now: int | None = None
    """Where an unfinished run stands."""


def panels(parts: Sequence[Panel], bands: Sequence[Band], events: Events, *, end_step: int) -> str:
    """The panels up to `end_step`, bands behind all of them with their names on top, events in the uppermost one."""
    lanes = band_lanes(bands, end_step)

    def draw(figure: Figure) -> None:
        all_axes = figure.subplots(len(parts), 1, sharex=True, squeeze=False)[:, 0]
        for axes, part in zip(all_axes, parts, strict=True):
            _draw_panel(axes, part)
            _draw_bands(axes, bands)
            for step in events.plateaus:
                axes.axvline(step, color=FIRST, linewidth=1.1, linestyle=(0, (1.5, 2)))
            if events.now is not None:
                axes.axvline(events.now, color=INK, linewidth=1.0)
        all_axes[0].set_xlim(0, end_step)
        _name_bands(all_axes[0], bands, lanes)
        _draw_faults(all_axes[0], events)
        all_axes[-1].set_xlabel("optimizer steps")
        all_axes[-1].xaxis.set_major_formatter(FuncFormatter(short))
        figure.align_ylabels()
        if legend := _legend(events):
            figure.legend(handles=legend, loc="outside lower right", ncols=len(legend), fontsize=8)

    height = 0.75 + 1.05 * len(parts) + INCHES_PER_LANE * (max(lanes, default=-1) + 1)
    return svg_of_figure(draw, (WIDTH, height))


def _draw_panel(axes: Axes, part: Panel) -> None:
    for line in part.lines:
        label = line.label if len(line.label) <= MAX_NAME else line.label[: MAX_NAME - 1] + "…"
        axes.plot(line.x, line.y, color=line.color, label=label, drawstyle="steps-post" if part.stairs else None)
    axes.set_ylabel(part.label.replace(" ", "\n", 1), rotation=0, ha="right", va="center", fontsize=8, labelpad=9)
    axes.yaxis.set_major_formatter(FuncFormatter(short_rate))
    axes.yaxis.set_major_locator(MaxNLocator(3))
    top = max(value for line in part.lines for value in line.y)
    top = top or 1.0
    axes.set_ylim(-0.05 * top, 1.18 * top)  # so that a line at 0 shows
    axes.tick_params(axis="x", length=0)
    if len(part.lines) > 1:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)


def short_rate(value: float, position: int) -> str:
    """0.0005 -> 5e-4, 1500 -> 1.5k."""
    if 0 < abs(value) < 0.01:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return short(value, position)


def _draw_bands(axes: Axes, bands: Sequence[Band]) -> None:
    """Every other one shaded, so that each border shows."""
    for band in bands[::2] if len(bands) > 1 else ():
        axes.axvspan(band.first_step, band.end_step, color=TINT, linewidth=0, zorder=0)


def band_lanes(bands: Sequence[Band], end_step: int) -> list[int]:
    """A lane for each band's name, the lowest in which it does not run into the one before it."""
    taken: list[float] = []
    lanes = []
    for band in bands:
        first, end = _extent(band, end_step)
        lane = next((n for n, until in enumerate(taken) if until <= first), len(taken))
        taken[lane : lane + 1] = [end]
        lanes.append(lane)
    return lanes


def _extent(band: Band, end_step: int) -> tuple[float, float]:
    """Steps that a band's name covers, from the band's start, or further left where it would run over the end."""
    width = (len(band.name) + 2) * INCHES_PER_CHARACTER / (WIDTH - 1.2) * end_step
    first = min(band.first_step, max(0.0, end_step - width))
    return first, first + width


def _name_bands(axes: Axes, bands: Sequence[Band], lanes: Sequence[int]) -> None:
    for band, lane in zip(bands, lanes, strict=True):
        axes.annotate(
            band.name, (_extent(band, axes.get_xlim()[1])[0], 1.0), xycoords=("data", "axes fraction"),
            xytext=(2, 4 + 72 * INCHES_PER_LANE * lane), textcoords="offset points", fontsize=8, color=INK, va="bottom",
        )


def _draw_faults(axes: Axes, events: Events) -> None:
    """Left-out steps as crosses, roll-backs as the way back; on the upper edge, where no line runs."""
    height = axes.get_xaxis_transform()
    for step, back_to in events.rolled_back:
        axes.plot([step, back_to], [0.93, 0.93], transform=height, color=SECOND, linewidth=1.4, solid_capstyle="butt")
        axes.plot([back_to], [0.93], transform=height, color=SECOND, marker="<", markersize=5)
    crosses = {"color": SECOND, "marker": "x", "markersize": 5, "linestyle": ""}
    axes.plot(list(events.skipped), [0.93] * len(events.skipped), transform=height, **crosses)


def _legend(events: Events) -> list[Line2D]:
    """An entry for each sort of event that is there."""
    entries = [
        (events.plateaus, Line2D([], [], color=FIRST, linewidth=1.1, linestyle=(0, (1.5, 2)), label="validation stopped falling")),
        (events.rolled_back, Line2D([], [], color=SECOND, linewidth=1.4, marker="<", markersize=5, label="back to a checkpoint")),
        (events.skipped, Line2D([], [], color=SECOND, marker="x", markersize=5, linestyle="", label="step left out")),
        (events.now is not None, Line2D([], [], color=INK, linewidth=1.0, label="where the run stands")),
    ]
    return [line for there, line in entries if there]
