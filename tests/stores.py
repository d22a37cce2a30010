"""Object stores on loopback, as fixtures: real servers of S3 and of Google Cloud Storage, and empty buckets of theirs."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from hyena_glt.data.storage import Url
from tests.cluster.head import free_ports, status_of
from tests.waiting import wait_until

NUMBERS = count()
EMULATOR = """
import sys
from http.server import ThreadingHTTPServer
from gcp_storage_emulator import server
server.server.HTTPServer = ThreadingHTTPServer  # else a client that leaves an object half read gets no other
server.create_server("127.0.0.1", int(sys.argv[1]), in_memory=True).run()
"""


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """moto's server; the environment says where."""
    moto = pytest.importorskip("moto.server", reason="an S3 server needs moto[s3], flask and flask-cors")
    running = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    running.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*running.get_host_and_port()))
        for name, value in {"ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b", "REGION": "us-east-1"}.items():
            patch.setenv(f"AWS_{name}", value)
        yield running
    running.stop()


@pytest.fixture(scope="module")
def google(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an emulator, which the environment points to; it has a key file too, which the emulator does not check.

    In a process of its own: pyarrow holds Python's lock in some of its requests, and a server in this one could not answer.
    """
    pytest.importorskip("gcp_storage_emulator", reason="a server of Google Cloud Storage needs gcp-storage-emulator")
    [port] = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    emulator = subprocess.Popen([sys.executable, "-c", EMULATOR, str(port)], stderr=subprocess.DEVNULL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLOUD_STORAGE_EMULATOR_ENDPOINT", url)
        patch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(write_key(tmp_path_factory.mktemp("google") / "key.json")))
        try:
            wait_until(lambda: status_of(url) is not None, process=emulator)
            yield url
        finally:
            emulator.kill()
            emulator.wait()


def write_key(path: Path) -> Path:
    """The key file of a service account, with which a client signs its requests by itself."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    key = rsa.generate_private_key(65537, 2048).private_bytes(*form).decode()
    path.write_text(json.dumps({
        "type": "service_account", "project_id": "test", "private_key_id": "1", "private_key": key, "client_id": "1",
        "client_email": "test@test.iam.gserviceaccount.com", "token_uri": "http://127.0.0.1:9",
    }))
    return path


@pytest.fixture
def s3_bucket(s3: Any) -> Url:
    import boto3

    name = f"bucket-{next(NUMBERS)}"
    boto3.client("s3", endpoint_url="http://{}:{}".format(*s3.get_host_and_port())).create_bucket(Bucket=name)
    return Url("s3", name)


@pytest.fixture
def google_bucket(google: str) -> Url:
    name = f"bucket-{next(NUMBERS)}"
    body, kind = json.dumps({"name": name}).encode(), {"Content-Type": "application/json"}
    urllib.request.urlopen(urllib.request.Request(f"{google}/storage/v1/b?project=test", body, kind)).close()
    return Url("gs", name)


@pytest.fixture(params=["s3", "google"])
def any_bucket(request: pytest.FixtureRequest) -> Url:
    """One of each store."""
    return request.getfixturevalue(f"{request.param}_bucket")
