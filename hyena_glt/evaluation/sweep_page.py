"""The page of a sweep: what was best, what it depended on, and every trial. One HTML file that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from ..config.dump import spoken
from .page import PAGE
from .report import table
from .sweep_figures import importances, measured, parallel_coordinates, trial_curves
from .sweep_folder import Row, Sweep
from .sweep_importance import importance


def render(sweep: Sweep, result: Mapping[str, Any]) -> str:
    """The page; `result` is what the command prints."""
    sections = [("What it depended on", _pictures(sweep)), ("Best trial", _best(sweep, result)), ("All trials", _trials(sweep))]
    body = "\n".join(f"<section><h2>{escape(title)}</h2>\n{content}\n</section>" for title, content in sections)
    head = {"title": sweep.folder.name, "subtitle": _subtitle(sweep), "verdict": verdict(sweep, result)}
    return PAGE.substitute({name: escape(text) for name, text in head.items()}, cards=_cards(sweep, result), body=body)


def verdict(sweep: Sweep, result: Mapping[str, Any]) -> str:
    """One sentence: the best trial and its settings; and why the sweep ended early, if it did."""
    best = sweep.best()
    ended = f" The sweep ended early: {result['ended_by']}." if result.get("ended_by") else ""
    if best is None:
        return "No trial was measured." + ended
    settings = ", ".join(f"{path.rpartition('.')[2]} {spoken(value)}" for path, value in best.settings.items())
    kind = "" if best.status == "finished" else f" ({best.status} before its end)"
    return f"Trial {best.id}{kind} is the best of {len(sweep.rows)}: {sweep.metric} {best.best_value:.4f} with {settings}." + ended


def _subtitle(sweep: Sweep) -> str:
    scheduler = {"none": "no early stopping", "asha": "ASHA", "pbt": "population-based training"}[sweep.scheduler]
    return f"{len(sweep.rows)} trials, {sweep.search} search over {len(sweep.domains)} settings, {scheduler}"


def _cards(sweep: Sweep, result: Mapping[str, Any]) -> str:
    cards = {
        **{name: str(number) for name, number in sweep.counts().items()},
        "tokens": f"{result['tokens']:,}", "device hours": f"{result['device_hours']:.3g}",
        "of a full grid's steps": f"{result['share_of_full_grid']:.0%}",
    }
    return "".join(f"<div><dd>{escape(value)}</dd><dt>{escape(name)}</dt></div>" for name, value in cards.items())


def _pictures(sweep: Sweep) -> str:
    if not measured(sweep):
        return "<p>No trial reached a validation.</p>"
    wide = _figure(
        parallel_coordinates(sweep),
        "A line a trial, the stronger the better it did; the best one in orange. Settings on the left, the result on the right.",
    )
    pair = [_figure(trial_curves(sweep), f"{sweep.metric} over tokens, a line a trial; grey ones were stopped early")]
    found, how = importance(sweep)
    if found:
        pair.append(_figure(importances(found), f"Importance: {how}, over each trial's best value"))
    else:
        pair.append(f"<p class=note>No importances: {escape(how)}.</p>")
    return f'{wide}<div class=grid style="margin-top: 1.6rem">{"".join(pair)}</div>'


def _figure(svg: str, caption: str) -> str:
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def _best(sweep: Sweep, result: Mapping[str, Any]) -> str:
    best = sweep.best()
    if best is None:
        return "<p>None.</p>"
    settings = table(["setting", "value"], [(path, spoken(value)) for path, value in best.settings.items()])
    note = "" if sweep.scheduler != "pbt" else (
        "<p class=note>These are the settings that it ended with; pbt had changed them on the way. Its weights are in its run folder.</p>"
    )
    commands = [
        f"hyena-glt pretrain {result['best_config']}  # trains it anew, with the same loss",
        f"hyena-glt evaluate --model_path {sweep.folder}/trials/{best.id}",
    ]
    return f"{settings}{note}<pre>{escape(chr(10).join(commands))}</pre>"


def _trials(sweep: Sweep) -> str:
    best = sweep.best()
    sign = -1.0 if sweep.maximizes else 1.0
    ordered = sorted(sweep.rows, key=lambda row: (row.best_value is None, sign * (row.best_value or 0.0)))
    names = [path.rpartition(".")[2] for path in sweep.domains]
    header = ["trial", "status", *names, f"best {sweep.metric}", f"last {sweep.metric}", "step", "tokens", "device hours"]
    rows = table(header, [_cells(row, list(sweep.domains)) for row in ordered], highlight=best.id if best else None)
    errors = "".join(f"<p class=note>Trial {row.id} failed: {escape(row.error)}</p>" for row in sweep.rows if row.error)
    return f"<style>.trials td {{ white-space: nowrap; }}</style><div class=trials>{rows}</div>{errors}"


def _cells(row: Row, paths: list[str]) -> tuple[str, ...]:
    values = ["" if value is None else f"{value:.4f}" for value in (row.best_value, row.value)]
    return (row.id, row.status, *(spoken(row.settings[path]) for path in paths), *values, f"{row.step:,}", f"{row.tokens:,}",
            f"{row.device_hours:.4f}")
