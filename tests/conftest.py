"""What all tests share: one thread for arithmetic, so that tests side by side do not fight for cores, and one local Ray a session."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from cluster.token import ask_for_own_token

settings.register_profile("untimed", deadline=None)  # the machine may be busy
settings.load_profile("untimed")

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch and the BLAS are first imported, so it stands before every such import
token_folder = tempfile.TemporaryDirectory()
os.environ["RAY_AUTH_TOKEN_PATH"] = str(Path(token_folder.name) / "token")  # not the home folder's
ask_for_own_token()  # before any test imports Ray, which reads it then
os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.2"  # a run of seconds need not wait two more to see that it has ended


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """A local Ray with two CPUs; pipelines inside a test find it and leave it running."""

    from pipelines._ray import start_ray

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    with start_ray("local", 2):
        yield
