"""Reading what a sweep left behind: a row for each trial, from its own files. No Ray."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..config import load_config
from ..training.metrics import METRICS_FILE, Report, read_reports
from ..training.trials import Trial, read_trials, run_folder, spent
from .run_folder import reports_that_count

SPACE_FILE, PARQUET_FILE = "space.json", "sweep.parquet"
FIGURES = {"val_loss": "loss", "val_bits_per_base": "bits_per_base", "val_accuracy": "accuracy"}
"""Metric of a sweep to its name in metrics.jsonl."""


@dataclass(frozen=True, slots=True)
class Row:
    """One trial, as it stands."""

    id: str
    settings: dict[str, Any]
    status: str
    """finished, stopped (by the scheduler), failed, or unfinished."""
    error: str | None
    step: int
    total_steps: int | None
    tokens: int
    value: float | None
    """The metric of the last validation."""
    best_value: float | None
    best_step: int | None
    spent_steps: int
    """Steps trained in all, with those that were thrown away when pbt replaced the weights, or trained again after a stop."""
    spent_tokens: int
    device_hours: float
    curve: list[tuple[int, int, float]]
    """(step, tokens, metric) of each validation."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """A sweep folder, read whole."""

    folder: Path
    metric: str
    search: str
    scheduler: str
    domains: dict[str, list[Any]]
    """Dotted path to [kind, values...]."""
    rows: list[Row]

    @property
    def maximizes(self) -> bool:
        return self.metric == "val_accuracy"

    def best(self) -> Row | None:
        """The trial with the best metric: of those that ran to their end, or of all where none did."""
        sign = -1.0 if self.maximizes else 1.0
        measured = [(sign * row.best_value, row) for row in self.rows if row.best_value is not None]
        finished = [(value, row) for value, row in measured if row.status == "finished"]
        return min(finished or measured, key=lambda pair: pair[0], default=(None, None))[1]

    def counts(self) -> dict[str, int]:
        """Trials by status, those that there are."""
        found = Counter(row.status for row in self.rows)
        return {status: found[status] for status in ("finished", "stopped", "failed", "unfinished") if found[status]}


def read_sweep(folder: Path) -> Sweep:
    """Read the folder of a sweep that has begun."""
    space = json.loads((folder / SPACE_FILE).read_text())
    metric = space["metric"]
    rows = [_row(folder, trial, metric) for trial in read_trials(folder)]
    return Sweep(folder, metric, space["search"], space["scheduler"]["kind"], space["settings"], rows)


def _row(folder: Path, trial: Trial, metric: str) -> Row:
    run = run_folder(folder, trial.id)
    written = read_reports(run / METRICS_FILE)
    reports, (steps, tokens, seconds) = reports_that_count(written), spent(written)
    measured = [report for report in reports if report["kind"] == "eval" and report.get(FIGURES[metric]) is not None]
    curve = [(int(report["step"]), int(report["tokens"]), float(report[FIGURES[metric]])) for report in measured]
    pick = max if metric == "val_accuracy" else min
    best = pick(curve, key=lambda point: point[2]) if curve else None
    last = max((report for report in reports if "elapsed_s" in report), key=lambda report: report["step"], default={})
    return Row(
        trial.id, trial.settings, trial.status if trial.has_ended else "unfinished", trial.error, last.get("step", 0),
        last.get("total_steps"), last.get("tokens", 0), curve[-1][2] if curve else None, best[2] if best else None,
        best[0] if best else None, steps, tokens, _device_hours(run, reports, seconds), curve,
    )


def _device_hours(run: Path, reports: list[Report], seconds: float) -> float:
    """GPU-hours, or CPU-hours without a GPU."""
    start = next((report for report in reports if report["kind"] == "start"), None)
    if start is None:
        return 0.0
    per_worker = load_config(run / "config.yaml").cluster.devices_per_worker(start["device"] != "cpu")
    return seconds * int(start["world_size"]) * per_worker / 3600.0


def write_parquet(sweep: Sweep) -> Path:
    """sweep.parquet: a row a trial, a column for each varied setting; lists as text."""
    columns: dict[str, Any] = {"id": [row.id for row in sweep.rows]}
    for path in sweep.domains:
        values = [row.settings[path] for row in sweep.rows]
        columns[path] = [json.dumps(value) if isinstance(value, list) else value for value in values]
    for name in ("status", "step", "total_steps", "tokens", "spent_steps", "spent_tokens"):
        columns[name] = [getattr(row, name) for row in sweep.rows]
    columns |= {
        sweep.metric: [row.value for row in sweep.rows], f"best_{sweep.metric}": [row.best_value for row in sweep.rows],
        "best_step": [row.best_step for row in sweep.rows], "device_hours": [row.device_hours for row in sweep.rows],
        "error": pa.array([row.error for row in sweep.rows], pa.string()),
    }
    file = sweep.folder / PARQUET_FILE
    pq.write_table(pa.table(columns), file)
    return file
