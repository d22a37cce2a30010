"""Reading what a run left behind: its reports, settings, environment and evaluations."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ..config import Config
from ..data.storage import Location, absolute, read_bytes, size, write_bytes
from ..errors import CheckpointError, ConfigError
from ..training.checkpoint import CHECKPOINTS, CONFIG_FILE, ENVIRONMENT_FILE, Progress, newest_whole, read_config, read_info
from ..training.metrics import METRICS_FILE, ROLLED_BACK, Report, read_reports
from ..training.plan import Plan, make_plan

EVALUATION_FILE = "evaluation.json"
Entry = dict[str, Any]
"""Of evaluation.json: checkpoint, data, metrics and notes."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run folder, read whole."""

    folder: Location
    config: Config
    reports: list[Report]
    """As `reports_that_count` gives them."""
    environment: dict[str, object]
    """environment.json, empty where there is none."""
    evaluations: list[Entry]
    """The entries of evaluation.json, the newest last."""
    progress: Progress = field(default_factory=Progress)
    """Of the newest whole checkpoint; that of a run at its start where there is none."""

    @property
    def evaluation(self) -> Entry | None:
        """The newest entry, with the metrics of all entries of its checkpoint and data; None where nothing was evaluated."""
        if not self.evaluations:
            return None
        newest = self.evaluations[-1]
        same = [e for e in self.evaluations if (e["checkpoint"], e["data"]) == (newest["checkpoint"], newest["data"])]
        metrics = {name: value for entry in same for name, value in entry["metrics"].items()}
        notes = dict.fromkeys(note for entry in same for note in entry["notes"])
        return newest | {"metrics": metrics, "notes": list(notes)}

    def curve(self, kind: str, x: str, y: str) -> tuple[list[float], list[float]]:
        """`y` over `x` in the reports of `kind`, where both are there."""
        points = [(r[x], r[y]) for r in self.reports if r["kind"] == kind and r.get(x) is not None and r.get(y) is not None]
        return [float(a) for a, _ in points], [float(b) for _, b in points]

    def last(self, kind: str) -> Report:
        """The last report of `kind`, or an empty one."""
        return next((r for r in reversed(self.reports) if r["kind"] == kind), {})

    @property
    def last_step(self) -> Report:
        """The last report of a step that was taken."""
        return max((self.last("end"), self.last("eval"), self.last("train")), key=lambda report: report.get("step") or -1)

    @property
    def has_ended(self) -> bool:
        """Whether the run came to an end of its own, and was not merely stopped or killed."""
        return self.last("end").get("reason") in ("finished", "early_stopping")

    def plan(self) -> Plan | None:
        """The plan as the run last followed it, from its settings and what its start report counted; None where that is not known."""
        start = self.last("start")
        counted: dict[str, Any] = {name: start.get(name) for name in ("world_size", "num_rows", "width", "padding_share", "global_rows")}
        if None in counted.values():
            return None
        try:
            return make_plan(self.config.training, self.config.curriculum, moves=self.progress.moves, **counted)
        except ConfigError:  # config.yaml is that of a start which came to nothing
            return None


def run_folder_of(path: str | Location) -> Location:
    """The run folder that `path` is or lies in (its checkpoints, a step folder, a pointer file).

    Raises CheckpointError where neither it nor the two folders above hold a run.
    """
    given = absolute(path)
    for folder in (given, given.parent, given.parent.parent):
        if all(size(folder / name) is not None for name in (METRICS_FILE, CONFIG_FILE)):
            return folder
    raise CheckpointError(
        f"no run at {path}: neither it nor the two folders above hold {METRICS_FILE} and config.yaml; "
        f"name the folder that `hyena-glt pretrain` wrote (training.output_dir)"
    )


def read_run(path: str | Location) -> Run:
    """Read the run folder that `path` means; CheckpointError where there is none or it has no report yet."""
    folder = run_folder_of(path)
    reports = reports_that_count(read_reports(folder / METRICS_FILE))
    if not reports:
        raise CheckpointError(f"{folder / METRICS_FILE} holds no report yet; wait for the run's first step, or start it again")
    return Run(
        folder,
        read_config(folder),
        reports,
        _read_json(folder / ENVIRONMENT_FILE, {}),
        read_evaluations(folder),
        _progress(folder),
    )


def _read_json(path: Location, otherwise: Any) -> Any:
    try:
        return json.loads(read_bytes(path))
    except FileNotFoundError:
        return otherwise


def _progress(folder: Location) -> Progress:
    newest = newest_whole(folder, [])
    return read_info(newest).progress if newest else Progress()


def reports_that_count(written: Iterable[Report]) -> list[Report]:
    """The reports of a run in the order of their steps, of each kind one a step (warnings: one a message).

    A resumed run goes on in the same file. Its "start" line takes back what an earlier start wrote beyond that step, but for the
    roll-back that led to it, and of two lines for one step the later wins.
    """
    reports: dict[tuple[str, int, str | None], Report] = {}
    for report in written:
        if report["kind"] == "start":
            reports = {key: old for key, old in reports.items() if (key[1] <= report["step"] and key[0] != "end") or _rolled_back(old)}
        reports[report["kind"], report["step"], report.get("message")] = report
    return sorted(reports.values(), key=lambda report: report["step"])


def _rolled_back(report: Report) -> bool:
    return report.get("event") == ROLLED_BACK


def read_evaluations(folder: Location) -> list[Entry]:
    """Entries of a run's evaluation.json, none where it does not exist."""
    return _read_json(folder / EVALUATION_FILE, [])


def save_evaluation(checkpoint: Location, entry: Entry) -> Location:
    """Add `entry` to evaluation.json of the run (or beside a checkpoint without a run); an older one of the same
    checkpoint, data and metrics is replaced. Returns the file."""
    folder = checkpoint.parent.parent if checkpoint.parent.name == CHECKPOINTS else checkpoint
    others = [old for old in read_evaluations(folder) if _subject(old) != _subject(entry)]
    path = folder / EVALUATION_FILE
    write_bytes(path, (json.dumps([*others, entry], indent=1) + "\n").encode())
    return path


def _subject(entry: Entry) -> tuple[object, object, tuple[str, ...]]:
    """What an entry is about."""
    return entry["checkpoint"], entry["data"], tuple(sorted(entry["metrics"]))
