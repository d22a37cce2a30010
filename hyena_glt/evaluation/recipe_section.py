"""How a run's stages and curricula went: a table of the changes, and a picture of them over the steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..config import Config
from ..data.mixture import as_paths, domain_names
from ..data.storage import location
from ..training.metrics import ROLLED_BACK, SKIPPED
from ..training.plan import Plan, states
from ..training.timeline import Stage, Stretch
from .figures import COLOURS, FIRST, MAX_POINTS, MUTED, Series
from .panels import Band, Events, Panel, panels, short_rate
from .parts import figure, table
from .run_folder import Run

State = Mapping[str, Any]
CAPTION = "The recipe over the run; stages as bands. Tokens a step count the positions of its rows, padding included."
PLANNED = " Behind the line, what is planned."


def recipe(run: Run) -> str | None:
    """The section; None for a run whose settings do not change on the way, and where the plan is not known."""
    plan = run.plan()
    changes = states(plan) if plan else []
    if plan is None or (len(changes) == 1 and not run.config.training.stages):
        return None
    end = run.last_step.get("step", 0) if run.has_ended else plan.total_steps
    changes = [state for state in changes if state["step"] < max(end, 1)]
    bands = [Band(stage.name, stage.first_step, min(stage.end_step, end)) for stage in _begun(plan.timeline.stages, end)]
    unfinished = not run.has_ended
    picture = panels(_panels(run, plan, end), bands if run.config.training.stages else [], _events(run), end_step=end)
    return figure(picture, CAPTION + (PLANNED if unfinished else "")) + _table(run, changes)


def _begun(stages: Sequence[Stage], end: int) -> list[Stage]:
    return [stage for stage in stages if stage.first_step < end]


def _events(run: Run) -> Events:
    warnings = [report for report in run.reports if report["kind"] == "warning"]
    return Events(
        plateaus=sorted({step for steps in run.progress.moves.values() for step in steps}),
        skipped=[report["step"] for report in warnings if report.get("event") == SKIPPED],
        rolled_back=[(report["step"], report["back_to"]) for report in warnings if report.get("event") == ROLLED_BACK],
        now=None if run.has_ended else run.last_step.get("step", 0),
    )


def _panels(run: Run, plan: Plan, end: int) -> list[Panel]:
    """Rate, tokens a step and tokens a row, and whatever else changes."""
    stretches = [stretch for stretch in plan.timeline.stretches if stretch.first_step < end]
    stages, dropout = _begun(plan.timeline.stages, end), run.config.model.dropout
    found = [
        Panel("learning rate", _rates(run, plan, end), stairs=False),
        Panel("tokens a step", [_stairs(stretches, lambda part: part.rows * plan.width, end)]),
        Panel("tokens a row", [_stairs(stretches, lambda part: part.sequence_length or plan.width, end)]),
    ]
    optional = {
        "dropout": _stairs(stages, lambda part: dropout if part.dropout is None else part.dropout, end),
        "hidden tokens": _stairs(stretches, lambda part: part.mask_probability or 0.0, end),
        "easiest rows": _stairs(stretches, lambda part: part.difficulty or 1.0, end),
    }
    found += [Panel(label, [line]) for label, line in optional.items() if len(set(line.y)) > 1]
    if len({stretch.mixture_weights for stretch in stretches}) > 1:
        found.append(Panel("mixture weights", _weights(run.config, stretches, end)))
    return found


def _stairs(parts: Sequence[Any], value: Callable[[Any], float], end: int, label: str = "", color: str = FIRST) -> Series:
    """A value of stretches or stages, held to the end."""
    values = [value(part) for part in parts]
    return Series(label, [*(part.first_step for part in parts), end], [*values, values[-1]], color)


def _weights(cfg: Config, stretches: Sequence[Stretch], end: int) -> list[Series]:
    names = domain_names("data.train_path", [location(path) for path in as_paths(cfg.data.train_path)])
    return [
        _stairs(stretches, lambda part, n=number: _normal(part.mixture_weights)[n], end, name, COLOURS[number % len(COLOURS)])
        for number, name in enumerate(names)
    ]


def _normal(weights: Sequence[float]) -> list[float]:
    """Shares that add up to 1."""
    return [weight / sum(weights) for weight in weights]


def _rates(run: Run, plan: Plan, end: int) -> list[Series]:
    """The rate of each step by the plan; where a run went on with other limits, what was logged, and the plan from there on."""
    steps = _sampled(plan.timeline.stages, end)
    planned = [plan.stage(step).rate(step) for step in steps]
    logged_steps, logged = run.curve("train", "step", "learning_rate")
    followed = all(math.isclose(rate, plan.stage(int(step) - 1).rate(int(step) - 1), rel_tol=1e-6)
                   for step, rate in zip(logged_steps, logged, strict=True))
    if followed:
        return [Series("", steps, planned)]
    ahead = [(step, rate) for step, rate in zip(steps, planned, strict=True) if step >= logged_steps[-1]]
    return [Series("as it ran", logged_steps, logged), *([Series("planned", *zip(*ahead, strict=True), MUTED)] if ahead else [])]


def _sampled(stages: Sequence[Stage], end: int) -> list[int]:
    """Steps at which to look at the rate: evenly, and at each stage's corners."""
    corners = [n for part in stages for n in (part.first_step, part.first_step + part.warmup_steps, part.end_step - 1)]
    even = np.linspace(0, max(0, end - 1), min(max(end, 1), MAX_POINTS)).astype(int)
    return sorted({*even.tolist(), *(step for step in corners if 0 <= step < end)})


def _table(run: Run, changes: Sequence[State]) -> str:
    """A row for each change; what stays as it was steps back."""
    columns = _columns(run.config, changes)
    rows = [tuple(cell(state) for cell in columns.values()) for state in changes]
    same = {(n, column) for n in range(1, len(rows)) for column in range(2, len(columns)) if rows[n][column] == rows[n - 1][column]}
    return table(list(columns), rows, muted=same)


def _columns(cfg: Config, changes: Sequence[State]) -> dict[str, Callable[[State], str]]:
    """Header and cell of the columns that say anything."""
    masked = cfg.tasks.masked_lm
    columns: dict[str, Callable[[State], str]] = {
        "from step": lambda state: f"{state['step']:,}",
        "epoch": lambda state: f"{state['epoch']:.2f}",
        "stage": lambda state: state["stage"],
        "learning rate": _rate_words,
        "rows a step": lambda state: f"{state['rows']:,}",
        "tokens a row": lambda state: f"{state['tokens_per_row']:,}",
        "dropout": lambda state: f"{state.get('dropout', cfg.model.dropout):g}",
        "hidden": lambda state: f"{state.get('mask_probability', masked and masked.mask_probability):.0%}".replace("%", " %"),
        "easiest rows": lambda state: f"{state.get('difficulty', 1.0):.0%}".replace("%", " %"),
        "mixture weights": lambda state: " : ".join(f"{weight:g}" for weight in state.get("mixture_weights", ())),
    }
    needs = {"stage": bool(cfg.training.stages)} | {
        header: any(name in state for state in changes)
        for header, name in (("dropout", "dropout"), ("hidden", "mask_probability"), ("easiest rows", "difficulty"),
                             ("mixture weights", "mixture_weights"))
    }
    return {header: cell for header, cell in columns.items() if needs.get(header, True)}


def _rate_words(state: State) -> str:
    """0.001, cosine to 0.0001, warm-up of 30."""
    low, warmup = state.get("min_learning_rate"), state["warmup_steps"]
    course = state["schedule"].replace("_", " ") + ("" if low is None else f" to {short_rate(low, 0)}")
    return f"{short_rate(state['peak_learning_rate'], 0)}, {course}" + (f", warm-up of {warmup:,} steps" if warmup else "")
