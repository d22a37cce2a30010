"""One trial of a sweep: a real pretraining that Ray Tune takes from one validation to the next. Runs in an actor of its own.

The actor drives the trial's run just as a command would, in a thread, and holds the workers at each validation until Tune wants more:
nothing is trained that a scheduler has stopped, and a checkpoint that another trial takes over is the one that was judged.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import threading
import time
from pathlib import Path
from typing import Any

from ray import tune

from hyena_glt.config import Config, dump_config, load_config
from hyena_glt.errors import ClusterError, HyenaError
from hyena_glt.evaluation.run_folder import reports_that_count
from hyena_glt.files import atomic_write
from hyena_glt.training.adopt import adopt
from hyena_glt.training.checkpoint import CHECKPOINTS, COMMIT_FILE, newest_whole, read_info, step_name
from hyena_glt.training.metrics import METRICS_FILE, Report, read_reports, whole_size
from hyena_glt.training.orders import Orders
from hyena_glt.training.trials import change_trial, owns, read_trial, run_folder, spent, trial_config

from .pretrain import pretrain

CONFIG, ENDING_FILE, POINTER_FILE = "config.yaml", ".ending", "pointer.json"
"""The settings that all trials share, and of each run; there while a sweep ends and trials save and leave; a Tune checkpoint."""
BUSY = ".busy"
"""Ending of a file beside a run folder, there while an actor trains in it; the next actor waits for that."""
VALUE = "value"
"""What Tune calls the metric of the sweep."""
POLL_S = 0.05
LEAVE_S = 300.0
"""The longest that a stopped run may take to save."""

log = logging.getLogger(__name__)


class TrialActor(tune.Trainable):
    """One trial; its config is {sweep: folder, start: its owner, trial: id, given: settings, metric: figure, population: is it pbt,
    local: is Ray this machine's own}."""

    def setup(self, config: dict[str, Any]) -> None:
        """Begin a trial; nothing is trained before the first `step`."""
        os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")  # at 2 s, much of a short trial would be waiting
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "600")  # trials start together, and slow each other down
        if config["local"]:  # where the node goes, all goes: nobody to warn, and a process less a trial
            os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        self._given, self._metric, self._population = config["given"], config["metric"], config["population"]
        self._sweep, self._start = Path(config["sweep"]), config["start"]
        self._id = self.trial_name  # not config["trial"]: after an exchange `config` is the donor's
        self._run = run_folder(self._sweep, self._id)
        self._training: _Training | None = None
        self._donor: tuple[Path, int] | None = None
        self._last: Report = {"step": 0, "tokens": 0}

    def step(self) -> dict[str, Any]:
        """Train to the next validation; its figures, with `done` at the end of the run. A failure is an end too, without a value."""
        try:
            return self._advance()
        except Exception as error:  # whatever ends a trial must not end the sweep
            log.exception("trial %s failed", self._id)
            sentence = str(error) if isinstance(error, HyenaError) else f"{type(error).__name__}: {error}"
            self._change(status="failed", error=sentence)
            return self._result(self._last, done=True) | {VALUE: math.nan}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """A pointer: what another trial needs to find this run's checkpoint."""
        pointer = {"run": str(self._run), "step": self._last["step"]}
        (Path(checkpoint_dir) / POINTER_FILE).write_text(json.dumps(pointer))

    def load_checkpoint(self, checkpoint: str) -> None:
        """Go on from where the pointer leads: for this trial's own run there is nothing to do."""
        pointer = json.loads((Path(checkpoint) / POINTER_FILE).read_text())
        if pointer["run"] != str(self._run):
            self._donor = Path(pointer["run"]), pointer["step"]

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Use this process for another trial, or for this one after an exchange."""
        self.cleanup()
        self.setup(new_config)
        return True

    def cleanup(self) -> None:
        """Let the workers save and leave, and wait until they have."""
        if self._training:
            self._training.leave()

    def _advance(self) -> dict[str, Any]:
        if self._is_ending():
            return self._leave()
        if self._training is None:
            if recorded := self._recorded():
                return self._result(recorded)
            self._await_former_actor()
            self._training = _Training(self._config(), self._run, self._last["step"])
        return self._train(self._training)

    def _recorded(self) -> Report | None:
        """The next validation that an earlier start of the run has measured and has a checkpoint of."""
        if self._donor:
            self._exchange(*self._donor)
            return None
        if read_trial(self._sweep, self._id).status == "pending":
            self._change(status="running")
        reports = recorded_validations(self._run)
        if self._population:  # nobody can take over what lies behind: go on from the newest
            self._last = reports[-1] if reports else self._last
            return None
        return next((report for report in reports if report["step"] > self._last["step"]), None)

    def _change(self, **values: Any) -> None:
        if owns(self._sweep, self._start):
            change_trial(self._sweep, self._id, **values)

    def _config(self) -> Config:
        return trial_config(load_config(self._sweep / CONFIG), read_trial(self._sweep, self._id).settings, self._run)

    def _exchange(self, donor: Path, step: int) -> None:
        """Take over the donor's checkpoint, with the settings that Tune has changed."""
        change = {"step": step, "donor": donor.name, "settings": dict(self._given)}
        self._await_former_actor()
        adopt(self._run, donor, step)
        changes = read_trial(self._sweep, self._id).changes
        self._change(settings=change["settings"], changes=[*changes, change])
        atomic_write(self._run / CONFIG, dump_config(self._config()))  # a run refuses other settings than it was started with
        with (self._run / METRICS_FILE).open("a") as file:
            file.write(json.dumps({"kind": "adopted", **change}) + "\n")
        self._donor, self._last = None, {"step": step, "tokens": 0}

    def _await_former_actor(self) -> None:
        """Tune starts a trial's next process while the former one may still be saving."""
        began = time.monotonic()
        while self._run.with_suffix(BUSY).exists() and time.monotonic() - began < LEAVE_S:
            time.sleep(POLL_S)

    def _train(self, training: _Training) -> dict[str, Any]:
        """Let the run go on to its next validation, and wait for that or for its end."""
        training.go_on(self._last["step"])
        while True:
            ended = training.has_ended()  # asked first: what a run writes before its end is then read
            report = training.next_validation(self._last["step"])
            if ended:
                training.raise_failure()
                self._change(status="finished")
                return self._result(report or self._last, done=True)
            if report and report["step"] < report["total_steps"] and self._can_be_taken_over(report["step"]):
                return self._result(report)
            if self._is_ending():
                return self._leave()
            time.sleep(POLL_S)

    def _can_be_taken_over(self, step: int) -> bool:
        """Whether the checkpoint that belongs to a validation is there; it is saved after the report is written."""
        return not self._population or (self._run / CHECKPOINTS / step_name(step) / COMMIT_FILE).exists()

    def _is_ending(self) -> bool:
        return (self._sweep / ENDING_FILE).exists()

    def _leave(self) -> dict[str, Any]:
        self.cleanup()
        return self._result(self._last, done=True)

    def _result(self, report: Report, *, done: bool = False) -> dict[str, Any]:
        """What Tune is told."""
        self._last = report
        value = report.get(self._metric)
        _, tokens, seconds = spent(read_reports(self._run / METRICS_FILE))
        return {
            "step": report["step"], "tokens": report["tokens"], "spent_tokens": tokens, "spent_s": seconds,
            VALUE: math.nan if value is None else value, "done": done,
        }


class _Training:
    """A run in a thread, held at each validation."""

    def __init__(self, cfg: Config, run: Path, step: int) -> None:
        self._metrics = run / METRICS_FILE
        self._offset = whole_size(self._metrics) if self._metrics.exists() else 0
        self._orders = Orders(run, after=step)
        self._failure: Exception | None = None
        self._busy = run.with_suffix(BUSY)
        self._thread = threading.Thread(target=self._pretrain, args=(cfg,), daemon=True)
        self._thread.start()

    def _pretrain(self, cfg: Config) -> None:
        try:
            self._busy.touch()
            pretrain(cfg, orders=self._orders)
        except Exception as error:  # raised in the thread that waits
            self._failure = error
        finally:
            self._busy.unlink(missing_ok=True)

    def go_on(self, step: int) -> None:
        """Let the run, which was validated at `step`, train to its next validation."""
        self._orders.after(step)

    def next_validation(self, step: int) -> Report | None:
        """The first report behind `step` that this start has written."""
        with contextlib.suppress(FileNotFoundError), self._metrics.open("rb") as file:
            file.seek(self._offset)
            reports = [json.loads(line) for line in file if line.endswith(b"\n")]
            return next((report for report in reports if report["kind"] == "eval" and report["step"] > step), None)
        return None

    def has_ended(self) -> bool:
        return not self._thread.is_alive()

    def raise_failure(self) -> None:
        """Raise what ended the run, if it did not end well."""
        if self._failure:
            raise self._failure

    def leave(self) -> None:
        """Let the workers save and end; wait until they have."""
        with contextlib.suppress(ClusterError):  # taken over by another start, and so the workers end too
            self._orders.stop()
        self._thread.join(LEAVE_S)


def recorded_validations(run: Path) -> list[Report]:
    """The validations of a run up to its newest whole checkpoint, in order; what lies behind will be trained again."""
    folder = newest_whole(run, [])
    if folder is None:
        return []
    done = read_info(folder).progress.step
    reports = reports_that_count(read_reports(run / METRICS_FILE))
    return [report for report in reports if report["kind"] == "eval" and report["step"] <= done]
