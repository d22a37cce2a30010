"""What stands for machines where there can be no namespaces: Ray nodes side by side on loopback, each marked in its environment."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from tests.cluster.head import free_ports
from tests.cluster.machines import Host, environment

PORTS = ("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "runtime-env-agent-port", "metrics-export-port")
MARK = "TEST_NODE"


class Node(Host):
    """What a machine is, as far as it goes."""

    address = "127.0.0.1"

    def __init__(self, folder: Path) -> None:
        self._folder, self._mark = folder, uuid.uuid4().hex

    def popen(self, words: Sequence[str], env: Mapping[str, str] | None = None, **options: Any) -> subprocess.Popen:
        """Start a command that belongs to the node."""
        mine = {**environment(), "GLOO_SOCKET_IFNAME": "lo", **(env or {}), MARK: self._mark}
        return subprocess.Popen(words, env=mine, text=True, start_new_session=True, **options)

    def ray_starting(self, *options: str, **how: Any) -> subprocess.Popen:
        """With ports of its own; the head with a folder, which the others ask it for."""
        ports = [f"--{name}={port}" for name, port in zip(PORTS, free_ports(len(PORTS)), strict=True)]
        place = [f"--temp-dir={self._folder}"] if "--head" in options else []
        return super().ray_starting(*options, *ports, *place, **how)

    def owns(self, process: psutil.Process) -> bool:
        """By the mark, which what a command starts inherits."""
        return process.environ().get(MARK) == self._mark

    def end(self) -> None:
        """Kill all that it runs."""
        while found := self.processes(""):
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
