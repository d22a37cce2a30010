"""A driver that goes to a cluster by its address: with its token, and one sentence without."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from cluster.token import ALIVE
from tests.cluster.head import Head
from tests.cluster.machines import ROOT, clean_environment
from tests.waiting import HANG_S

pytestmark = pytest.mark.slow
JOIN = (
    "import pipelines\nfrom hyena_glt.errors import HyenaError\nfrom pipelines._ray import start_ray\nimport ray\n"
    "get = ray.remote(lambda refs: ray.get(refs[0]))\n"
    "try:\n    with start_ray(None, None):\n        print(ray.get(get.remote([ray.put(42)]), timeout=600))\n"
    "except HyenaError as error:\n    print(error)\n"
)
"""Asks a worker for what the driver holds, which goes both ways."""


OF_ONES_OWN = (
    "import ray\nfrom pipelines._ray import start_ray\n"
    "with start_ray('local', 1):\n"
    "    print(ray.get_runtime_context().gcs_address, ray.get(ray.remote(lambda: 2).remote()), flush=True)\n    input()\n"
)


SLOW = """
import sys, time
import ray._private.services as services
from hyena_glt.errors import HyenaError
from pipelines._ray import start_ray
get_node, began = services.get_node, time.monotonic()

def find(*given, **named):
    if time.monotonic() - began < float(sys.argv[1]):
        raise RuntimeError("not yet")
    return get_node(*given, **named)

services.get_node = find
import ray
try:
    with start_ray("local", 1):
        print(ray.get(ray.remote(lambda: 2).remote()))
except HyenaError as error:
    print(error)
"""
"""On a machine where Ray does not find its own node for so many seconds."""


def join(head: Head, **environment: str) -> subprocess.Popen[str]:
    return head.start(env=environment | {"RAY_ADDRESS": head.address}, program=("-c", JOIN))


def test_with_the_token_and_without(head: Head) -> None:
    right, wrong, none = (head.environment(home) for home in ("home", "wrong", "none"))
    started = [join(head, **environment) for environment in (right, wrong, none, right | {"RAY_AUTH_MODE": "disabled"})]
    said = [process.communicate(timeout=HANG_S) for process in started]
    assert said[0][0] == "42\n", said
    assert said[1][0].startswith(f"{head.address}: this cluster asks for another token than that in {head.folder}/wrong/.ray/auth_token; ")
    assert said[2][0].startswith(f"{head.address}: this cluster asks for a token, and there is none here; ")
    assert said[3][0] == f"{head.address}: this cluster asks for a token, and RAY_AUTH_MODE is 'disabled' here; leave it out\n"
    assert [err for _, err in said[1:]] == [""] * 3


def test_a_script_that_imports_ray_first(tmp_path: Path) -> None:
    """Its own Ray starts, and asks for a token all the same."""
    env = clean_environment() | {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", OF_ONES_OWN]
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as script:
        address, found = script.stdout.readline().split() or script.communicate()
        with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as refusal:
            channel.unary_unary(ALIVE)(b"", timeout=HANG_S)
        script.communicate("\n", timeout=HANG_S)
    assert (found, script.returncode, refusal.value.code()) == ("2", 0, grpc.StatusCode.UNAUTHENTICATED)


@pytest.mark.long
@pytest.mark.parametrize(("seconds", "said"), [
    (33, "2\n"),
    (100, "Ray did not start on this machine within 30 s, twice; run the same command again when the machine has less to do\n"),
])
def test_a_ray_that_is_slow_to_start_has_a_second_try(tmp_path: Path, seconds: int, said: str) -> None:
    env = clean_environment() | {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", SLOW, str(seconds)], env=env, capture_output=True, text=True, timeout=HANG_S)
    assert (done.returncode, done.stdout) == (0, said), done.stderr
