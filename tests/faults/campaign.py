"""One training run on a cluster of machines, disturbed again and again, and put right as a cloud and its user would do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import psutil

from hyena_glt.training.checkpoint import newest_step
from hyena_glt.training.metrics import METRICS_FILE, Report, read_reports
from tests.cluster.head import free_ports
from tests.cluster.machines import ROOT, Host, Switch
from tests.faults.loopback import Loopback
from tests.waiting import HANG_S, wait_until

WORKERS = 2
SAVE_INTERVAL = 20
STEPS_PER_FAULT = 120
"""More than any fault takes until the next one comes, so that the run has not ended when the last one does."""
READY = "will now block forever"
"""What `ray start --block` says when the node has joined."""
RANGE = ("cluster.train_workers=[1,2]", "cluster.grow_interval_s=1")
"""Settings of a run that takes the workers that there are."""
FOR_RANGE = ("model.dropout=0", "training.batch_size=32")
"""And of that which it is compared with: each rank draws its own dropout, and with long steps fewer are over before a node is back."""
CLOSE = 1e-5
"""How far the losses and weights of the two may be from each other."""
DISK_MIB = 256
ENVIRONMENT = {
    "PYTHONPATH": f"{Path(__file__).parent / 'poison'}:{ROOT}", "OMP_NUM_THREADS": "1", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # The head notices a silent node within seconds, where the default is half a minute.
    "RAY_health_check_initial_delay_ms": "1000", "RAY_health_check_period_ms": "1000", "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "5",
}


def settings(steps: int, *more: str) -> list[str]:
    """Of the run, without the places of run and data, the last of each name; a step takes some hundredths of a second."""
    given = [
        "model.hidden_size=32", "model.num_layers=4", "model.mixers=[se,mr,li,attention]", "model.num_attention_heads=2",
        "model.max_position_embeddings=128", "model.dropout=0.1", "tasks.causal_lm.weight=1", f"training.max_steps={steps}",
        "training.batch_size=4", "training.learning_rate=3e-3", "training.warmup_steps=20", "training.eval_max_rows=16",
        "logging.log_interval=5", f"logging.eval_interval={10 * SAVE_INTERVAL}", f"logging.save_interval={SAVE_INTERVAL}",
        "logging.keep_checkpoints=3", "logging.use_tensorboard=false", "logging.save_retry_s=60", "data.read_retry_s=60",
        "data.shuffle_row_groups=1", "hardware.precision=fp32", "hardware.num_gpus=0", "hardware.zero_stage=1",
        f"cluster.train_workers={WORKERS}", "cluster.start_timeout_s=240", "cluster.collective_timeout_s=20", *more,
    ]
    return list({setting.partition("=")[0]: setting for setting in given}.values())


def on(data: Path) -> list[str]:
    """The settings that name the data."""
    return [f"data.train_path={data}", f"data.val_path={data}"]


@dataclass(slots=True)
class Campaign:
    """The cluster: machine 1 is the head, without a worker; each other one has room for one."""

    folder: Path
    """For logs, and the shared disk, on which run and data lie."""
    data: Path
    """What is copied there."""
    settings: list[str]
    rng: Random
    switch: Switch | Loopback
    num_nodes: int = WORKERS
    """How many machines for workers there shall be."""
    machines: dict[int, Host] = field(default_factory=dict)
    port: int = field(default_factory=lambda: free_ports(1)[0])
    """Of the head."""
    _command: subprocess.Popen[str] | None = None
    _next_number: int = 2

    def __enter__(self) -> Campaign:
        self._mounted.mkdir(parents=True)
        if self.has_own_disk:  # before there are machines, which are to see it
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", str(self._mounted)], check=True)
        shutil.copytree(self.data, self._mounted / "data")
        self.give_back_storage()
        try:
            self.put_right()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for machine in self.machines.values():
            machine.end()
        if self.has_own_disk:
            subprocess.run(["umount", "--lazy", str(self._mounted)], check=True)

    @property
    def has_own_disk(self) -> bool:
        """Whether the run lies on a small file system of its own."""
        return isinstance(self.switch, Switch)

    @property
    def disk(self) -> Path:
        """A file system that all machines see, by a name that can be taken away."""
        return self.folder / "disk"

    @property
    def _mounted(self) -> Path:
        return self.folder / "mounted"

    @property
    def run(self) -> Path:
        return self.disk / "run"

    @property
    def poison(self) -> Path:
        """What makes a gradient go wrong (sitecustomize)."""
        return self.folder / "poison"

    @property
    def said(self) -> str:
        """All that the commands have said."""
        log = self.folder / "command.log"
        return log.read_text() if log.exists() else ""

    @property
    def head(self) -> Host:
        return self.machines[1]

    @property
    def address(self) -> str:
        """Of the cluster."""
        return f"{self.head.address}:{self.port}"

    @property
    def nodes(self) -> list[Host]:
        """The machines with workers."""
        return [machine for number, machine in self.machines.items() if number != 1]

    @property
    def command(self) -> subprocess.Popen[str]:
        """The command of the user, which runs on the head."""
        assert self._command
        return self._command

    def workers(self) -> list[psutil.Process]:
        """The training processes."""
        return [process for machine in self.nodes for process in machine.processes("RayTrainWorker")]

    def put_right(self) -> None:
        """Replace the machines that are gone, and give the command again if it has ended."""
        if 1 not in self.machines:
            for machine in self.nodes:  # they have lost their head, and a cloud starts them anew
                self.switch_off(machine)
            self._add(1, "--head", f"--port={self.port}", "--include-dashboard=false", "--num-cpus=0")
            self._wait_for(1)
        while len(self.nodes) < self.num_nodes:
            self._add(self._next_number, f"--address={self.address}")
            self._next_number += 1
        for number in self.machines:
            self._wait_for(number)
        if self._command is None or self._command.poll() is not None:
            self._start_command()

    def _add(self, number: int, *options: str) -> None:
        machine = self.machines[number] = self.switch.machine(number)
        with self._log(number).open("wb") as log:
            machine.ray_starting(*options, "--block", env=self._environment(), said=log)

    def _log(self, number: int) -> Path:
        return self.folder / f"machine{number}.log"

    def _wait_for(self, number: int) -> None:
        """Until a machine is up."""
        log = self._log(number)
        wait_until(lambda: READY in log.read_text(), said=log.read_text)

    def _environment(self) -> dict[str, str]:
        return ENVIRONMENT | {"TEST_POISON": str(self.poison)}

    def switch_off(self, machine: Host) -> None:
        """Without a word to anybody."""
        machine.end()
        self.machines = {number: other for number, other in self.machines.items() if other is not machine}

    def _start_command(self) -> None:
        places = [f"training.output_dir={self.run}", f"cluster.address={self.address}", *on(self.disk / "data")]
        words = ["pretrain", *self.settings, *places]
        with (self.folder / "command.log").open("ab") as log:
            self._command = self.head.popen(
                [sys.executable, "-m", "hyena_glt.cli", *words], self._environment(), stdout=log, stderr=log, cwd=self.folder
            )

    def take_storage_away(self) -> None:
        """What is open stays so; no name on it is found."""
        self.disk.unlink()

    def give_back_storage(self) -> None:
        self.disk.symlink_to(self._mounted)

    def fill_disk(self) -> Path:
        """The file that takes all the room there is."""
        ballast = self.disk / "ballast"
        with ballast.open("wb") as file:
            space = os.statvfs(self.disk)
            os.posix_fallocate(file.fileno(), 0, space.f_bavail * space.f_frsize)
        return ballast

    def saved(self) -> int:
        """The newest checkpoint."""
        return newest_step(self.run) or 0

    def last_step(self) -> int:
        """The last step that is logged."""
        return max((report["step"] for report in self.reports()[-3:]), default=0)

    def last_step_before(self, number: int) -> int:
        """The last step that was logged before the start of this number, from 0."""
        reports = self.reports()
        starts = [place for place, report in enumerate(reports) if report["kind"] == "start"]
        return [report["step"] for report in reports[: starts[number]] if report["kind"] == "train"][-1]

    def reports(self) -> list[Report]:
        """What the run has logged."""
        return read_reports(self.run / METRICS_FILE)

    def starts(self) -> list[Report]:
        """The starts of the run, so far."""
        return [report for report in self.reports() if report["kind"] == "start"]

    def wait_until_said(self, words: str, *, count: int = 1) -> None:
        """Until the commands have said it so often."""
        wait_until(lambda: self.said.count(words) >= count, said=lambda: self.said)

    def wait_for_checkpoint(self, after: int) -> None:
        """Until there is a newer one; AssertionError where the command fails."""
        wait_until(lambda: self._goes_on() and self.saved() > after, said=lambda: self.said)

    def wait_for_start(self, number: int) -> int:
        """The step from which the run went on at its start of this number, from 0."""
        wait_until(lambda: self._goes_on() and len(self.starts()) > number, said=lambda: self.said)
        return self.starts()[number]["step"]

    def wait_for_all_workers(self) -> None:
        """Until the run trains on as many as it may; AssertionError where it ends before."""
        wait_until(lambda: self.starts()[-1]["world_size"] == WORKERS, process=self.command, said=lambda: self.said)

    def _goes_on(self) -> bool:
        assert self.command.poll() in (None, 0), self.said[-3000:]
        return True

    def run_on(self, steps: int) -> None:
        """Let the run train so many steps more."""
        goal = self.saved() + steps
        wait_until(lambda: self._goes_on() and self.last_step() >= goal, said=lambda: self.said)

    def finish(self) -> int:
        """Wait for the end of the run; the exit status of its command."""
        return self.command.wait(HANG_S)
