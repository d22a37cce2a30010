"""Lengths compared at equal time: short pieces, a curriculum and the full length, all trials on one GPU at once, each for the same time.

Each arm is a sweep over seeds of its own, and the three run side by side on one Ray, so that all trials share the GPU and the CPUs alike
from the first step to the last. A probe of the same trials comes first: its seconds a step say how many steps fit the time. Both go on
where an earlier start ended.
"""

from __future__ import annotations

import json
import signal
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from hyena_glt.config import load_config
from hyena_glt.evaluation.run_folder import reports_that_count
from hyena_glt.training.metrics import METRICS_FILE, read_reports
from hyena_glt.training.trials import read_trials
from pipelines._ray import start_ray

STUDY = Path(__file__).parent / "study"
SHARES = {"short": (8, 8, 8, 8), "curriculum": (8, 4, 2, 1), "full": (1, 1, 1, 1)}
"""The full length over that of each quarter of the steps."""
WINDOW = 5
"""Steps between two lines of the log in a probe, each quarter of which has two."""
ENDLESS = 1_000_000
AT_ONCE = ["cluster.gpus_per_worker=0.11", "hardware.num_workers=1"]
INTERRUPTED = 130


def run_arms(out: Path, settings: list[str], *, seconds: float, seeds: int) -> list[tuple[Path, list[int]]]:
    """Train all arms for `seconds`, as far as the probe can tell; the sweep folder of each, and its lengths."""
    import ray  # not before `pipelines`, which asks for the token that Ray reads then

    cfg = load_config(STUDY / "study.yaml", [*settings, "curriculum=null"])
    full = cfg.data.sequence_length
    assert full is not None
    arms = {arm: Arm(out / arm, [full // share for share in shares]) for arm, shares in SHARES.items()}
    plan, space = out / "steps.json", {"settings": {"training.seed": {"grid": list(range(seeds))}}, "search": "grid"}
    (out / "seeds.yaml").write_text(yaml.safe_dump(space))
    with start_ray("local", cfg.cluster.num_cpus):
        shared = [*AT_ONCE, *settings, f"tune.space={out / 'seeds.yaml'}", f"cluster.address={ray.get_runtime_context().gcs_address}"]
        if not plan.exists():
            found = probe({arm: Arm(out / f"probe_{arm}", own.lengths) for arm, own in arms.items()}, shared, seeds)
            plan.write_text(json.dumps({arm: 4 * max(1, round(seconds / each / 4)) for arm, each in found.items()}, indent=1))
        steps = json.loads(plan.read_text())
        await_all({arm: own.start(shared, steps[arm], [f"logging.eval_interval={steps[arm] // 4}"]) for arm, own in arms.items()})
    return [(own.folder, own.lengths) for own in arms.values()]


@dataclass(frozen=True, slots=True)
class Arm:
    """A sweep over seeds with one choice of lengths."""

    folder: Path
    lengths: list[int]
    """Tokens a row in each quarter of the steps."""

    def start(self, settings: list[str], steps: int, own: list[str]) -> subprocess.Popen[bytes]:
        """Begin or go on with the sweep, whose quarters are those of `steps`."""
        at = [steps * quarter // 4 for quarter in (1, 2, 3)]
        curriculum = f"curriculum.sequence_length={{values: {self.lengths}, at: {at}, by: step}}"
        given = [*settings, curriculum, f"training.max_steps={steps}", *own, f"tune.output_dir={self.folder}"]
        words = {setting.split("=")[0]: setting for setting in given}.values()
        return subprocess.Popen([sys.executable, "-m", "hyena_glt.cli", "sweep", str(STUDY / "study.yaml"), *words])

    def lines(self) -> list[list[dict[str, Any]]]:
        """Of each trial, what the log says of its training so far."""
        found = [reports_that_count(read_reports(file)) for file in self.folder.glob(f"trials/*/{METRICS_FILE}")]
        return [[report for report in reports if report["kind"] == "train"] for reports in found]

    def seconds_per_step(self) -> float:
        """Mean over the lengths of what a step took in the second half of their steps, before which they were compiled."""
        by_length: dict[int, list[float]] = defaultdict(list)
        for lines in self.lines():
            for before, line in pairwise(lines):
                quarter, half = divmod(min(before["step"] // WINDOW, 7), 2)
                if half:
                    by_length[self.lengths[quarter]].append(_seconds_per_step(before, line))
        return statistics.fmean(statistics.median(by_length[length]) for length in self.lengths)


def training_seconds(lines: list[dict[str, Any]]) -> float:
    """Each step counted as long as the median line of its quarter, which leaves compiling out."""
    quarters: dict[int, list[tuple[int, float]]] = defaultdict(list)
    for before, line in pairwise([{"step": 0, "tokens": 0}, *lines]):
        quarters[4 * before["step"] // lines[-1]["step"]].append((line["step"] - before["step"], _seconds_per_step(before, line)))
    return sum(sum(steps for steps, _ in found) * statistics.median(each for _, each in found) for found in quarters.values())


def _seconds_per_step(before: dict[str, Any], line: dict[str, Any]) -> float:
    """Between two lines of the log, without evaluations and saves."""
    return float((line["tokens"] - before["tokens"]) / line["tokens_per_s"] / (line["step"] - before["step"]))


def probe(arms: dict[str, Arm], settings: list[str], seeds: int) -> dict[str, float]:
    """Seconds a step of each arm where all train at once: until the last trial has been through all of its lengths."""
    own = [f"training.max_steps={ENDLESS}", f"logging.eval_interval={ENDLESS}", f"logging.log_interval={WINDOW}"]
    running = {arm: one.start(settings, 8 * WINDOW, own) for arm, one in arms.items()}
    failed: list[str | None] = []
    while all(process.poll() is None for process in running.values()) and not failed:
        done = [lines[-1]["step"] if lines else 0 for one in arms.values() for lines in one.lines()]
        if len(done) == len(arms) * seeds and min(done) >= 8 * WINDOW:
            break
        failed = [trial.error for one in arms.values() for trial in read_trials(one.folder) if trial.status == "failed"]
        time.sleep(0.5)
    for process in running.values():
        process.send_signal(signal.SIGINT)
    await_all(running, INTERRUPTED)
    if failed:
        raise SystemExit(f"a trial of the probe failed: {failed[0]}")
    return {arm: one.seconds_per_step() for arm, one in arms.items()}


def await_all(running: dict[str, subprocess.Popen[bytes]], *wanted: int) -> None:
    """Wait for the sweeps of all arms; SystemExit names those that failed."""
    if failed := [arm for arm, process in running.items() if process.wait() not in (0, *wanted)]:
        raise SystemExit(f"the sweeps of these arms failed: {', '.join(failed)}; the same command goes on")
