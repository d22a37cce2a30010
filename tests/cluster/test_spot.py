"""The watcher of spot notices, against a metadata service on loopback: it waits, withdraws the node in time and once, bears silence."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cluster import spot
from tests.cluster.machines import machines, must_end_well
from tests.cluster.shipped_files import ROOT
from tests.waiting import HANG_S, wait_until

TOKEN = "a-token"
LEFT_S = {"aws": 100.0, "gcp": 30.0}
"""What a node still has when a notice comes: on AWS the notice says it, here as below."""
POLL_S = 0.01


class Metadata(BaseHTTPRequestHandler):
    """Both clouds' metadata service, as their documents have it."""

    has_notice = False
    failure: str | None = None
    """How it does not answer."""
    num_asked = 0

    def do_GET(self) -> None:
        type(self).num_asked += 1
        if self.failure == "late":
            time.sleep(0.3)
        elif self.failure == "cut off":
            return self.wfile.close()
        status, text = self._found() if self.failure != "refused" else (403, "")
        self.send_response(status)
        self.end_headers()
        self.wfile.write(("{" if self.failure == "garbage" and self.command == "GET" else text).encode())

    do_PUT = do_GET

    def _found(self) -> tuple[int, str]:
        match self.command, self.path:
            case "PUT", "/latest/api/token":
                return (200, TOKEN) if int(self.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "0")) else (400, "")
            case "GET", "/latest/meta-data/spot/instance-action":
                end = datetime.fromtimestamp(time.time() + LEFT_S["aws"], UTC)
                action = json.dumps({"action": "terminate", "time": f"{end:%Y-%m-%dT%H:%M:%SZ}"})
                known = self.headers.get("X-aws-ec2-metadata-token") == TOKEN
                return (401, "") if not known else (200, action) if self.has_notice else (404, "<html>")
            case "GET", "/computeMetadata/v1/instance/preempted":
                return (403, "") if self.headers.get("Metadata-Flavor") != "Google" else (200, "TRUE" if self.has_notice else "FALSE")
        return 404, ""

    def log_message(self, *_: object) -> None:
        """Not to stderr."""


@pytest.fixture
def service() -> Iterator[tuple[type[Metadata], str]]:
    """(What answers, its URL)."""
    handler = type("Handler", (Metadata,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield handler, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


class Drains(list):
    """Seconds that were left at each call; it takes what it is told to."""

    def __init__(self, *taken: bool) -> None:
        super().__init__()
        self._taken = [*taken]

    def __call__(self, deadline: float) -> bool:
        self.append(deadline - time.time())
        return self._taken.pop(0)


@contextmanager
def watching(cloud: str, url: str, drains: Drains) -> Iterator[threading.Thread]:
    """A watcher, which must have ended with the block."""
    thread = threading.Thread(target=spot.watch, args=(partial(spot.NOTICES[cloud], url), drains), kwargs={"poll_s": POLL_S}, daemon=True)
    thread.start()
    yield thread
    thread.join(10)
    assert not thread.is_alive()


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_it_waits_for_a_notice_and_drains_once_by_its_deadline(cloud: str, service: tuple[type[Metadata], str]) -> None:
    metadata, url = service
    drains = Drains(True)
    with watching(cloud, url, drains) as watcher:
        wait_until(lambda: metadata.num_asked > 10, within_s=10)
        assert watcher.is_alive() and not drains
        metadata.has_notice = True
    [left_s] = drains
    assert left_s == pytest.approx(LEFT_S[cloud], abs=5)


def test_a_drain_that_ray_did_not_take_is_tried_again_by_the_same_deadline(service: tuple[type[Metadata], str]) -> None:
    metadata, url = service
    metadata.has_notice = True
    drains = Drains(False, False, True)
    with watching("gcp", url, drains):
        pass
    assert len(drains) == 3 and drains == sorted(drains, reverse=True)
    assert metadata.num_asked == 1


@pytest.mark.parametrize("failure", ["refused", "late", "cut off", "garbage"])
def test_silence_is_said_once_and_borne(
    failure: str, service: tuple[type[Metadata], str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    metadata, url = service
    monkeypatch.setattr(spot, "ANSWER_S", 0.1)
    metadata.failure, metadata.has_notice = failure, True
    drains = Drains(True)
    with caplog.at_level(logging.INFO), watching("aws", url, drains) as watcher:
        wait_until(lambda: metadata.num_asked > 5, within_s=10)
        assert watcher.is_alive() and not drains
        monkeypatch.setattr(spot, "ANSWER_S", 5.0)
        metadata.failure = None
    [said] = caplog.messages
    assert said.startswith("the metadata service tells nothing of a spot notice (") and said.endswith("); asked again every 0.01 s")
    assert len(drains) == 1


def test_rays_command_takes_what_it_is_given() -> None:
    """Its own parser does, and without --node-id it drains the node on which it runs."""
    from ray.scripts.scripts import drain_node

    name, verb, *words = spot.drain_command(99.9)
    assert [name, verb] == ["ray", "drain-node"]
    assert drain_node.make_context("drain-node", [*words]).params == {
        "address": None, "node_id": None, "reason": "DRAIN_NODE_REASON_PREEMPTION", "reason_message": "spot notice",
        "deadline_remaining_seconds": 99,
    }
    assert spot.drain_command(-3.0)[-1] == "0"  # Ray refuses less


def test_the_command_hears_a_notice_and_calls_ray(service: tuple[type[Metadata], str], tmp_path: Path) -> None:
    """As the launcher files start it, with a stand-in for `ray`, and past a proxy that others need."""
    metadata, url = service
    metadata.has_notice = True
    (tmp_path / "ray").write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/called\n')
    (tmp_path / "ray").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "http_proxy": "http://127.0.0.1:9"}
    command = [sys.executable, "-m", "cluster.spot", "--cloud", "gcp", "--url", url]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=HANG_S)
    assert done.returncode == 0, done.stderr
    called = (tmp_path / "called").read_text().split()
    assert called[:3] == ["drain-node", "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    assert 25 <= int(called[-1]) <= 30
    assert "the cloud takes this node back: ray drain-node" in done.stderr


PREEMPTED = """
from http.server import BaseHTTPRequestHandler, HTTPServer
class Preempted(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"TRUE")
HTTPServer(("127.0.0.1", 8080), Preempted).serve_forever()
"""
ALIVE = """
import sys, time, ray
ray.init(sys.argv[1], log_to_driver=False, logging_level="ERROR")
while sum(node["Alive"] for node in ray.nodes()) > 1:
    time.sleep(0.1)
"""


@pytest.mark.slow
def test_ray_takes_the_node_out_of_its_cluster() -> None:
    """By Ray's own command, on a machine that has joined as the launcher lets it join."""
    with machines(2) as (head, node):
        must_end_well(head.ray_starting("--head", "--port=6379", "--include-dashboard=false", "--num-cpus=0"))
        must_end_well(node.ray_starting("--address=10.77.0.1:6379"))
        node.popen([sys.executable, "-c", PREEMPTED])
        gone = head.popen([sys.executable, "-c", ALIVE, "10.77.0.1:6379"])
        watcher = node.popen([sys.executable, "-m", "cluster.spot", "--cloud", "gcp", "--url", "http://127.0.0.1:8080"], cwd=ROOT)
        assert watcher.wait(HANG_S) == 0
        assert gone.wait(HANG_S) == 0
