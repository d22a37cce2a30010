"""A run waits for room for all of its workers, says what is missing, and not for ever."""

from __future__ import annotations

import re
import threading
import time

import pytest
import ray
from ray.util import placement_group, placement_group_table, remove_placement_group

from hyena_glt.errors import ClusterError
from hyena_glt.training import gang as module
from hyena_glt.training.gang import Gang, await_gang, largest_with_room
from tests.waiting import wait_until

pytestmark = pytest.mark.usefixtures("ray_session", "empty_cluster")

PAIR = Gang(2, {"CPU": 1.0})


@pytest.fixture
def empty_cluster(ray_session: None) -> None:
    """Workers of the tests before may still be ending."""
    wait_until(lambda: ray.available_resources().get("CPU") == 2.0)


def must_be_tidy() -> None:
    """AssertionError where a group is left; Ray removes them behind the call."""
    wait_until(lambda: all(group["state"] == "REMOVED" for group in placement_group_table().values()), within_s=10)


def test_room_is_found_at_once_and_left_for_the_run() -> None:
    await_gang(PAIR, timeout_s=10)
    must_be_tidy()
    await_gang(PAIR, timeout_s=10)  # the room of a group that has gone is free again, if not at once


def test_a_range_takes_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PLACED_S", 1)
    assert largest_with_room([4, 2, 1], {"CPU": 1.0}, ray.cluster_resources()) == 2
    assert largest_with_room([4, 3], {"CPU": 1.0}, ray.cluster_resources()) == 3, "the least is waited for"
    must_be_tidy()


def test_it_waits_until_another_has_left(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(module, "SILENT_S", 0.0)
    other = placement_group([{"CPU": 1.0}])
    ray.get(other.ready())
    leaving = threading.Timer(1.5, remove_placement_group, [other])
    leaving.start()
    began = time.monotonic()
    await_gang(PAIR, timeout_s=60)
    leaving.join()
    assert time.monotonic() - began > 1
    must_be_tidy()
    assert re.search(
        r"waiting for room for 2 workers of 1 CPU: the cluster has 2 CPUs, of which . CPUs? are free, and 1 node large enough for a "
        r"worker; gives up in 0:5. \(cluster\.start_timeout_s\)", caplog.text,
    )


@pytest.mark.parametrize(("settings", "remedy"), [("", "See"), ("tune.trials", "Ask for less (tune.trials), or see")])
def test_what_never_fits_is_a_sentence(settings: str, remedy: str) -> None:
    with pytest.raises(ClusterError, match=re.escape(
        "a worker of 3 CPUs and 0.5 GPUs found no room within 0 s (cluster.start_timeout_s): the cluster has 2 CPUs and 0 GPUs, of which "
    ) + r".* are free, and no node large enough for a worker\. " + re.escape(remedy) + (
        " by `ray status` on the cluster's head why the cluster does not grow$"
    )):
        await_gang(Gang(1, {"CPU": 3.0, "GPU": 0.5}, settings), timeout_s=0)
    must_be_tidy()
