"""One Ray head for all tests of jobs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.head import Head, running_head


@pytest.fixture(scope="session")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """With a token, a dashboard and a job server on loopback, and secrets in its environment."""
    with running_head(tmp_path_factory.mktemp("head")) as started:
        yield started
