"""One Ray head for all tests of jobs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.cluster.head import Head, running_head


@pytest.fixture(scope="session")
def head() -> Iterator[Head]:
    """With a token, a dashboard and a job server on loopback, and secrets in its environment."""
    # Not pytest's folder: the path of a socket may have 107 bytes.
    with TemporaryDirectory(prefix="head", ignore_cleanup_errors=True) as folder, running_head(Path(folder)) as started:
        yield started
