"""A real Ray head on loopback, with dashboard, job server and a token, alone with its processes; and what a proxy does to a stream."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.cluster.machines import ROOT, clean_environment, why_none
from tests.waiting import HANG_S, wait_until

CANARY = "canary-5d0e6f2b9c7a"
"""The value of every secret in the head's environment; it must be found nowhere else."""
SECRETS = ("WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN")


@dataclass(frozen=True)
class Head:
    """A head that runs."""

    folder: Path
    dashboard: str
    """URL of the dashboard and job server."""
    address: str
    """host:port for drivers."""
    metrics: str
    """URL that Prometheus would ask."""
    process: subprocess.Popen[bytes]

    @property
    def storage(self) -> Path:
        return self.folder / "storage"

    @property
    def session(self) -> Path:
        """Ray's own folder: logs, and the working directories of jobs."""
        return (self.folder / "ray" / "session_latest").resolve()

    def environment(self, home: str = "home") -> dict[str, str]:
        """Of a client; `home` says whose token it has."""
        return clean_environment() | {"HOME": str(self.folder / home), "PYTHONPATH": str(ROOT)}

    def start(
        self, *words: str, env: Mapping[str, str] | None = None, program: Sequence[str] = ("-m", "hyena_glt.cli")
    ) -> subprocess.Popen[str]:
        """A client's command: words for `hyena-glt`, or for another program of Python's."""
        return subprocess.Popen(
            [sys.executable, *program, *words], cwd=self.folder, env=dict(env or self.environment()), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )

    def run(self, *words: str) -> tuple[int, dict, str]:
        """Exit status, the JSON on the last line of stdout ({} where there is none), stderr."""
        return finish(self.start(*words))

    def submit(self, *words: str) -> tuple[int, dict, str]:
        """The same of a job that is waited for."""
        return self.run("submit", "--address", self.dashboard, "--", *words)

    def arguments(self) -> list[str]:
        """The words of every command line that the head and its jobs run now."""
        words: list[str] = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.Error):  # ended meanwhile
                words += process.cmdline()
        return words


def finish(process: subprocess.Popen[str]) -> tuple[int, dict, str]:
    """Wait for a command; what `Head.run` gives."""
    out, err = process.communicate(timeout=HANG_S)
    return process.returncode, json.loads(out.splitlines()[-1]) if out else {}, err


@contextmanager
def running_head(folder: Path) -> Iterator[Head]:
    """A head with two CPUs; with root in a PID namespace of its own, which takes every process with it at the end."""
    for home, token in (("home", secrets.token_hex(32)), ("wrong", secrets.token_hex(32)), ("none", "")):
        (folder / home / ".ray").mkdir(parents=True)
        if token:
            (folder / home / ".ray" / "auth_token").write_text(token)
    (folder / "storage").mkdir()
    gcs, dashboard, *others = free_ports(7)
    names = (
        "dashboard-agent-listen-port", "dashboard-agent-grpc-port", "runtime-env-agent-port", "metrics-export-port",
        "ray-client-server-port",
    )
    words = [
        "ray", "start", "--head", "--block", "--disable-usage-stats", "--node-ip-address=127.0.0.1", f"--port={gcs}",
        "--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--temp-dir={folder / 'ray'}",
        "--num-cpus=2", "--object-store-memory=100000000",
        *(f"--{name}={port}" for name, port in zip(names, others, strict=True)),
    ]
    # A shell, as the first process of the namespace must bury the orphans that it is given: Ray waits for those that are defunct.
    shell = ["bash", "-c", '"$@"; exit', "bash"]
    namespace = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", *shell] if why_none() is None else []
    environment = {
        **clean_environment(), **dict.fromkeys(SECRETS, CANARY),
        "HOME": str(folder / "home"), "RAY_AUTH_MODE": "token", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2", "RAY_metrics_report_interval_ms": "1000",
    }
    with (folder / "head.log").open("wb") as log:
        process = subprocess.Popen([*namespace, *words], cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
    head = Head(folder, f"http://127.0.0.1:{dashboard}", f"127.0.0.1:{gcs}", f"http://127.0.0.1:{others[3]}/metrics", process)
    try:
        wait_until(
            lambda: status_of(f"{head.dashboard}/api/version") == 401, process=process, said=(folder / "head.log").read_text
        )
        yield head
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to a process and all below it."""
    if process.poll() is not None:
        return
    found = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    for child in found:
        with suppress(psutil.NoSuchProcess):
            child.kill()
    psutil.wait_procs(found, timeout=20)
    process.wait()


def status_of(url: str, headers: Mapping[str, str] | None = None) -> int | None:
    """The HTTP status that a URL answers with; None where nothing answers."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=dict(headers or {})), timeout=5) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def text_of(url: str) -> str:
    """What a URL answers; "" where nothing does."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.read().decode()
    except OSError:
        return ""


def free_ports(number: int) -> list[int]:
    """Ports of loopback that nobody listens on, all different."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Proxy:
    """Passes TCP on to a port of loopback; breaks all connections when told to, as a port that is forwarded does, or takes none."""

    def __init__(self, port: int) -> None:
        self._target, self._pairs = port, []
        self.is_away = False
        """Whether what is connected from now on is broken at once."""
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> int:
        """Break what is connected now; how many connections that were."""
        pairs, self._pairs = self._pairs, []
        for each in (each for pair in pairs for each in pair):
            shut(each)
        return len(pairs)

    def close(self) -> None:
        """Answer no more."""
        shut(self._server)
        self._server.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
                if self.is_away:
                    client.close()
                    continue
                target = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                return
            self._pairs.append((client, target))
            for source, sink in ((client, target), (target, client)):
                threading.Thread(target=self._pass, args=(source, sink), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        for each in (source, sink):
            shut(each)


def shut(connection: socket.socket) -> None:
    """Both ends see that it is over."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
