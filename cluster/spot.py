"""Hear that the cloud takes this node back, and withdraw it from Ray in time for a checkpoint. Beside Ray on a node; standard library.

Ray itself hears SIGTERM alone, and only under `ray start --block`, which the launcher cannot wait for. The launcher files start it:

    python -m cluster.spot --cloud aws
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

METADATA = "http://169.254.169.254"
"""Where both clouds tell an instance about itself."""
GCP_NOTICE_S = 30.0
POLL_S = 2.0
ANSWER_S = 2.0
NO_ANSWER = (OSError, HTTPException, ValueError, LookupError)
"""What asking raises where nothing answers, the token is refused or the answer cannot be read."""

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> None:
    """Watch until this node is withdrawn."""
    parser = argparse.ArgumentParser(prog="python -m cluster.spot", description="withdraw this node from Ray at its cloud's spot notice")
    parser.add_argument("--cloud", choices=NOTICES, required=True)
    parser.add_argument("--url", default=METADATA, help="where the metadata service answers")
    given = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    log.info("watching for a spot notice of %s at %s", given.cloud, given.url)
    watch(partial(NOTICES[given.cloud], given.url), drain)


def watch(notice: Callable[[], float | None], drain: Callable[[float], bool], *, poll_s: float = POLL_S) -> None:
    """Until a notice has come, which is when the node ends, and Ray has taken it; a silence of the service is said once."""
    deadline, is_silent = None, False
    while True:
        try:
            deadline, is_silent = deadline or notice(), False
        except NO_ANSWER as error:
            if not is_silent:
                log.warning("the metadata service tells nothing of a spot notice (%s); asked again every %g s", error, poll_s)
            is_silent = True
        if deadline and drain(deadline):
            return
        time.sleep(poll_s)


def aws_notice(url: str) -> float | None:
    """When the instance ends, in seconds since 1970; None while nothing is announced."""
    token = _answer(f"{url}/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"}, method="PUT")
    try:
        action = _answer(f"{url}/latest/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": token})
    except HTTPError as error:
        if error.code == 404:
            return None
        raise
    return datetime.fromisoformat(json.loads(action)["time"]).timestamp()


def gcp_notice(url: str) -> float | None:
    """The same; this cloud tells only that it has begun."""
    is_preempted = _answer(f"{url}/computeMetadata/v1/instance/preempted", {"Metadata-Flavor": "Google"}) == "TRUE"
    return time.time() + GCP_NOTICE_S if is_preempted else None


NOTICES: dict[str, Callable[[str], float | None]] = {"aws": aws_notice, "gcp": gcp_notice}


def drain(deadline: float) -> bool:
    """Withdraw this node, which ends at `deadline` (seconds since 1970), from its cluster; whether Ray took it."""
    command = drain_command(deadline - time.time())
    log.warning("the cloud takes this node back: %s", " ".join(command))
    return subprocess.run(command).returncode == 0


def drain_command(left_s: float) -> list[str]:
    """Ray's command, which finds by itself the cluster and the node that run here."""
    return [
        "ray", "drain-node", "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot notice",
        "--deadline-remaining-seconds", str(max(0, int(left_s))),
    ]


def _answer(url: str, headers: Mapping[str, str], method: str = "GET") -> str:
    """What the metadata service says; past any proxy, which would ask the service of its own machine."""
    with build_opener(ProxyHandler({})).open(Request(url, headers=dict(headers), method=method), timeout=ANSWER_S) as answer:
        return answer.read().decode().strip()


if __name__ == "__main__":
    main()
