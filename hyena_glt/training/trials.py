"""What a sweep folder holds of its trials: their settings, how each ended, and a configuration for each. No Ray.

    <sweep>/config.yaml  space.yaml        what all trials share, and what is searched
    <sweep>/trials/007/                    the run folder of a trial, as any other
    <sweep>/trials/007.json                its settings and status

A trial's file is written before its first step and when it has ended, so a sweep whose driver was killed knows what is left to do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from ..config import Config, config_from_dict, config_to_dict
from ..config.dump import plain
from ..errors import CheckpointError
from ..files import atomic_write
from .metrics import Report
from .orders import OWNER_FILE

TRIALS = "trials"
Status = Literal["pending", "running", "finished", "stopped", "failed"]
ENDED: tuple[Status, ...] = ("finished", "stopped", "failed")


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One trial of a sweep."""

    id: str
    settings: dict[str, Any]
    """Dotted path to value, as they are now."""
    status: Status = "pending"
    error: str | None = None
    """Why it failed, a sentence."""
    changes: list[dict[str, Any]] = field(default_factory=list)
    """pbt: each time that it went on from another trial, {step, donor, settings}."""

    @property
    def has_ended(self) -> bool:
        return self.status in ENDED


def trial_name(number: int) -> str:
    """Trial 7 is 007."""
    return f"{number:03d}"


def run_folder(sweep: Path, trial: str) -> Path:
    """Where a trial trains."""
    return sweep / TRIALS / trial


def write_trial(sweep: Path, trial: Trial) -> None:
    """Keep what is known of a trial."""
    (sweep / TRIALS).mkdir(parents=True, exist_ok=True)
    atomic_write(sweep / TRIALS / f"{trial.id}.json", json.dumps(asdict(trial), indent=1) + "\n")


def read_trial(sweep: Path, trial: str) -> Trial:
    """What is known of one trial; CheckpointError where its file is damaged or another's: by its name its folder is found."""
    path = sweep / TRIALS / f"{trial}.json"
    try:
        found = Trial(**json.loads(path.read_text()))
        if found.id != trial or not trial.isdecimal():
            raise ValueError(f"it is called {found.id!r}")
        return found
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} is not the file of a trial ({error}); move the sweep folder away to start anew") from error


def read_trials(sweep: Path) -> list[Trial]:
    """All trials that a sweep has begun or planned, in order."""
    return [read_trial(sweep, path.stem) for path in sorted((sweep / TRIALS).glob("[0-9]*.json"))]


def owns(sweep: Path, start: str) -> bool:
    """Whether the sweep folder still belongs to the start of that name: actors can outlive a killed driver for some seconds."""
    path = sweep / OWNER_FILE
    return path.exists() and path.read_text() == start


def spent(reports: Sequence[Report]) -> tuple[int, int, float]:
    """(Optimizer steps, tokens, wall seconds) that all starts of a run took, with what was thrown away or trained again."""
    steps, tokens, seconds = 0, 0, 0.0
    first: Report | None = None
    last: Report | None = None
    for report in [*reports, {"kind": "start"}]:
        if report["kind"] in ("start", "adopted"):
            if first and last:
                steps, tokens = steps + last["step"] - first["step"], tokens + last["tokens"] - first["tokens"]
                seconds += last["elapsed_s"] - first["elapsed_s"]
            first = last = report if "elapsed_s" in report else None
        elif "elapsed_s" in report:  # warnings and statistics tell no time
            last = report
    return steps, tokens, seconds


def change_trial(sweep: Path, trial: str, **values: Any) -> Trial:
    """Write a trial's file anew with some values changed."""
    changed = replace(read_trial(sweep, trial), **values)
    write_trial(sweep, changed)
    return changed


def trial_config(base: Config, settings: Mapping[str, Any], run: Path | None) -> Config:
    """The configuration of a trial: the sweep's, with its own settings and run folder.

    Raises:
        ConfigError: where the settings do not go together.
    """
    tree = config_to_dict(base)
    for path, value in settings.items():
        *sections, name = path.split(".")
        section = tree
        for inner in sections:
            section[inner] = section.get(inner) or {}  # an optional section that is off
            section = section[inner]
        section[name] = plain(value)
    tree["training"]["output_dir"] = str(run) if run else None
    return config_from_dict(tree | {"tune": None})
