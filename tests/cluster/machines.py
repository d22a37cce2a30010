"""Machines of namespaces: each has its own network, processes, mounts and host name, joined by one switch. Needs root on Linux.

What a machine started ends with it: its first process holds its process namespace.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any

import psutil
import pytest

from tests.waiting import HANG_S

ROOT = Path(__file__).parents[2]
NETWORK = "10.77.0"
TOKEN = secrets.token_hex(32)
TOOLS = ("unshare", "nsenter", "ip", "mount")
PRIVATE = {"/tmp/ray": "20g", "/dev/shm": "2g"}
"""What each machine has for itself, with the size: a tmpfs takes memory only as it is filled."""


class Holder:
    """The first process of new namespaces, whose end ends all in them."""

    def __init__(self, *namespaces: str) -> None:
        fork, sleeper = [], ["sleep", "infinity"]
        if "--pid" in namespaces:
            # A shell, as the first process of a machine must bury the orphans that it is given: Ray waits for those that are defunct.
            fork, sleeper = ["--fork", "--kill-child"], ["bash", "-c", "sleep infinity & wait"]
        self.process = subprocess.Popen(["unshare", *namespaces, *fork, *sleeper])
        self.pid = _child(self.process.pid) if fork else self.process.pid
        """As seen from outside."""
        while Path(f"/proc/{self.pid}/comm").read_text().strip() != sleeper[0]:
            time.sleep(0.01)

    def end(self) -> None:
        """Like a machine that loses its power."""
        self.process.kill()  # and its child, which is the first process of the machine
        self.process.wait()


class Host(ABC):
    """Where to run commands: a `Machine`, or a `loopback.Node` in its place."""

    address: str

    @abstractmethod
    def popen(self, words: Sequence[str], env: Mapping[str, str] | None = None, **options: Any) -> subprocess.Popen:
        """Start a command here."""

    def run(self, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run a command here to its end."""
        process = self.popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        out, err = process.communicate(timeout=HANG_S)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def ray_starting(
        self, *options: str, env: Mapping[str, str] | None = None, under: Sequence[str] = (), said: int | IO[bytes] = subprocess.PIPE
    ) -> subprocess.Popen:
        """`ray start`, with a CPU, perhaps under another command; the head takes `--head`, the others `--address`."""
        command = [*under, "ray", "start", f"--node-ip-address={self.address}", "--num-cpus=1", "--object-store-memory=80000000", *options]
        return self.popen(command, env, stdout=said, stderr=subprocess.STDOUT)

    def processes(self, word: str) -> list[psutil.Process]:
        """Those of the host that have a word in their command line."""
        found = []
        for process in psutil.process_iter():
            with suppress(OSError, psutil.Error):  # ended meanwhile, or another user's
                if self.owns(process) and word in " ".join(process.cmdline()):
                    found.append(process)
        return found

    @abstractmethod
    def owns(self, process: psutil.Process) -> bool:
        """Whether a process of this system runs on the host."""

    @abstractmethod
    def end(self) -> None:
        """Switch it off, without a word to anybody."""


@dataclass(frozen=True)
class Machine(Host):
    """The first process of its namespaces, and its address."""

    holder: Holder
    address: str

    def popen(self, words: Sequence[str], env: Mapping[str, str] | None = None, **options: Any) -> subprocess.Popen:
        """Start a command in the machine."""
        inside = ["nsenter", f"--target={self.holder.pid}", "--net", "--pid", "--mount", "--uts", "--", *words]
        return subprocess.Popen(inside, env={**environment(), **(env or {})}, text=True, **options)

    def mount(self, place: str, size: str) -> None:
        """A private, empty file system at `place`, which is made where it is missing."""
        os.makedirs(place, exist_ok=True)
        done = self.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place])
        assert done.returncode == 0, done.stderr

    def owns(self, process: psutil.Process) -> bool:
        """By its namespace."""
        return os.readlink(f"/proc/{process.pid}/ns/pid") == os.readlink(f"/proc/{self.holder.pid}/ns/pid")

    def end(self) -> None:
        """Its first process takes all others with it."""
        self.holder.end()


def must_end_well(*processes: subprocess.Popen) -> None:
    """Wait for commands that were started side by side."""
    for process in processes:
        said, _ = process.communicate(timeout=HANG_S)
        assert process.returncode == 0, said


def clean_environment() -> dict[str, str]:
    """This process's, without what speaks of the Ray of the tests themselves or of a job."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "HYENA_"))}


def environment() -> dict[str, str]:
    """Of commands in a machine: this project's code and Python's scripts first, no word of the Ray of the tests themselves, a token."""
    kept = clean_environment()
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    # gloo takes the address that the host name stands for, and here no name server knows the machines' names.
    ours = {"PATH": path, "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "eth0"}
    patient = {"RAY_raylet_start_wait_time_s": "120"}  # several start side by side
    return kept | ours | patient | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}


@cache
def why_none() -> str | None:
    """Why machines cannot be made here; None where they can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "machines of namespaces need root on Linux"
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"machines of namespaces need {', '.join(missing)}"
    tried = subprocess.run(["unshare", "--net", "--pid", "--mount", "--uts", "--fork", "true"], capture_output=True, text=True)
    return None if tried.returncode == 0 else f"this system refuses namespaces: {tried.stderr.strip()}"


@contextmanager
def machines(number: int) -> Iterator[list[Machine]]:
    """So many machines that reach each other at 10.77.0.1 and up; skips the test where there can be none."""
    if reason := why_none():
        pytest.skip(reason)
    with Switch() as switch:
        yield [switch.machine(each) for each in range(1, number + 1)]


class Switch:
    """What the machines hang on; the end of it ends them."""

    def __init__(self) -> None:
        self._holder, self._machines, self._cables = Holder("--net"), list[Machine](), dict[str, str]()
        self._run("ip", "link", "add", "switch", "type", "bridge")
        self._run("ip", "link", "set", "switch", "up")

    def __enter__(self) -> Switch:
        return self

    def __exit__(self, *_: object) -> None:
        for each in (*self._machines, self._holder):
            each.end()

    def machine(self, number: int) -> Machine:
        """A new machine at 10.77.0.`number`, in the place of one that has ended where there was one."""
        machine = Machine(Holder("--net", "--pid", "--mount", "--uts"), f"{NETWORK}.{number}")
        self._unplug(machine.address)
        self._plug_in(machine)
        self._machines.append(machine)
        for command in (
            "ip link set lo up", f"ip address add {machine.address}/24 dev eth0", "ip link set eth0 up",
            # Ray asks the system for the way to the internet to learn a machine's own address.
            f"ip route add default via {NETWORK}.254", f"hostname machine{number}", "mount -t proc proc /proc",
        ):
            assert (done := machine.run(command.split())).returncode == 0, done.stderr
        for place, size in PRIVATE.items():
            machine.mount(place, size)
        return machine

    def cut_off(self, machine: Machine) -> None:
        """Pull the cable of a machine, whose processes go on and know nothing of it."""
        self._run("ip", "link", "set", self._cables[machine.address], "down")

    def _unplug(self, address: str) -> None:
        """Take away the cable of one that has ended: its network can outlive it by minutes, and answers for the address until then."""
        if port := self._cables.pop(address, None):
            subprocess.run([*self._inside, "ip", "link", "delete", port], capture_output=True)  # gone where the network is

    def _plug_in(self, machine: Machine) -> None:
        port = f"port{len(self._machines)}"
        to_switch = ["type", "veth", "peer", "name", port, "netns", str(self._holder.pid)]
        _must("ip", "link", "add", "eth0", "netns", str(machine.holder.pid), *to_switch)
        self._run("ip", "link", "set", port, "master", "switch", "up")
        self._cables[machine.address] = port

    def _run(self, *words: str) -> None:
        _must(*self._inside, *words)

    @property
    def _inside(self) -> list[str]:
        return ["nsenter", f"--target={self._holder.pid}", "--net"]


def _child(pid: int) -> int:
    while not (children := Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
        time.sleep(0.01)
    return int(children[0])


def _must(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
