"""What stands for machines where there can be no namespaces: Ray nodes side by side on loopback, each marked in its environment."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import psutil

from tests.cluster.head import free_ports
from tests.cluster.machines import environment

PORTS = ("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "runtime-env-agent-port", "metrics-export-port")
MARK = "TEST_NODE"


class Node:
    """What a `Machine` is, as far as it goes."""

    address = "127.0.0.1"

    def __init__(self, folder: Path) -> None:
        self._folder, self._mark = folder, uuid.uuid4().hex

    def popen(self, words: Sequence[str], env: Mapping[str, str] | None = None, **options: Any) -> subprocess.Popen:
        """Start a command that belongs to the node."""
        mine = {**environment(), "GLOO_SOCKET_IFNAME": "lo", **(env or {}), MARK: self._mark}
        return subprocess.Popen(words, env=mine, text=True, start_new_session=True, **options)

    def run(self, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run a command of the node to its end."""
        process = self.popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def ray_starting(
        self, *options: str, env: Mapping[str, str] | None = None, said: int | IO[bytes] = subprocess.PIPE
    ) -> subprocess.Popen:
        """`ray start`, with a CPU and ports of its own."""
        ports = [f"--{name}={port}" for name, port in zip(PORTS, free_ports(len(PORTS)), strict=True)]
        place = [f"--temp-dir={self._folder}"] if "--head" in options else []  # the others ask the head
        words = ["ray", "start", f"--node-ip-address={self.address}", "--num-cpus=1", "--object-store-memory=80000000"]
        return self.popen([*words, *ports, *place, *options], env, stdout=said, stderr=subprocess.STDOUT)

    def processes(self, word: str = "") -> list[psutil.Process]:
        """Those of the node that have a word in their command line."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):  # ended meanwhile, or another user's
                if process.environ().get(MARK) == self._mark and word in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def end(self) -> None:
        """Kill all that it runs."""
        while found := self.processes():
            for process in found:
                with suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(found, timeout=5)


class Loopback:
    """Makes the nodes; the end of it ends them."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._nodes = folder, list[Node]()

    def __enter__(self) -> Loopback:
        return self

    def __exit__(self, *_: object) -> None:
        for node in self._nodes:
            node.end()

    def machine(self, number: int) -> Node:
        """A new one."""
        self._nodes.append(Node(self._folder / f"ray{len(self._nodes)}"))
        return self._nodes[-1]
