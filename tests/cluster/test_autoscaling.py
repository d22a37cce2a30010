"""A cluster that is its head alone, without a CPU, grows for a command and shrinks after it: on Ray's autoscaler and its fake nodes.

The autoscaler is the second, which the shipped clusters have; a fake node is a raylet beside the head's.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hyena_glt.training.metrics import METRICS_FILE, read_reports
from tests.cluster.machines import Machine, machines, must_end_well
from tests.tiny_run import LAMBDA
from tests.waiting import HANG_S, wait_until

pytestmark = pytest.mark.slow

ADDRESS = "10.77.0.1:6379"
HEAD_TYPE, HEAD_ID = "ray.head.default", "f" * 51 + "00000"
"""What the provider of fake nodes takes for the head."""
HEAD_ALONE = Counter(head=1)
IDLE_S = 10
"""After which a node goes; Ray Train, which asks anew for the room that the gang has found, must be quicker, or it waits once more."""
SHRINK_S = 90
"""In which it must have gone, where the machine is busy."""

COMMANDS = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
CLUSTER = {
    "cluster_name": "fake", "max_workers": 4, "idle_timeout_minutes": IDLE_S / 60,
    # Not the type fake_multinode: for that the second autoscaler reads a file of defaults that Ray 2.60's wheel lacks.
    "provider": {
        "type": "external", "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "gcs_address": ADDRESS, "head_node_id": HEAD_ID, "launch_multiple": True,
        "disable_node_updaters": True,  # a fake node needs no ssh
    },
    "head_node_type": HEAD_TYPE,
    "available_node_types": {
        HEAD_TYPE: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "cpu": {"resources": {"CPU": 2, "object_store_memory": 80_000_000}, "node_config": {}, "max_workers": 2},
        "gpu": {"resources": {"CPU": 3, "GPU": 1, "object_store_memory": 80_000_000}, "node_config": {}, "max_workers": 2},
    },
    "file_mounts": {}, "cluster_synced_files": [], **{f"{name}_commands": [] for name in COMMANDS},
}
HEAD_ENVIRONMENT = {
    "RAY_FAKE_CLUSTER": "1", "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID, "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
    "RAY_enable_autoscaler_v2": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
}
CENSUS = """
import json, sys, time, ray
ray.init(sys.argv[1], log_to_driver=False, logging_level="ERROR")
with open(sys.argv[2], "w") as census:  # stdout has words of Ray's too
    while True:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        print(json.dumps(["gpu" if "GPU" in node else "cpu" if "CPU" in node else "head" for node in nodes]), file=census, flush=True)
        time.sleep(0.2)
"""
# Two tasks at a time, for which the nodes of CPUs suffice: Ray takes others too before it lets a task wait.
PREPROCESS = ("preprocessing.max_length=128", "preprocessing.split.by=tail", "preprocessing.split.test=0", "tokenization.kind=char")
PRETRAIN = (
    "model.hidden_size=16", "model.num_layers=1", "model.mixers=[se]", "model.num_attention_heads=2", "model.max_position_embeddings=128",
    "training.batch_size=4", "training.max_steps=4", "training.eval_max_rows=8", "logging.use_tensorboard=false",
    "hardware.num_gpus=0",  # a fake GPU cannot train
)


@dataclass(frozen=True)
class Ended:
    """A command that has ended, and the nodes that there were from before it until the cluster was its head alone again."""

    status: int
    result: dict
    said: str
    census: list[Counter[str]]

    def most(self, kind: str) -> int:
        return max(nodes[kind] for nodes in self.census)


@dataclass(frozen=True)
class Cluster:
    """One that grows."""

    head: Machine
    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def census(self) -> list[Counter[str]]:
        """How many nodes of each kind there were, look by look."""
        *lines, _ = (self.folder / "census").read_text().split("\n")
        return [Counter(json.loads(line)) for line in lines]

    def is_alone(self) -> bool:
        """Whether the head is, at the last look."""
        return self.census()[-1:] == [HEAD_ALONE]

    def start(self, *words: str) -> subprocess.Popen[str]:
        """A command on the head."""
        return self.head.popen(
            [sys.executable, "-m", "hyena_glt.cli", *words, f"cluster.address={ADDRESS}"], {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2"},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )

    def run(self, *words: str) -> Ended:
        """A command on the head, to its end."""
        first = len(self.census()) - 1
        process = self.start(*words)
        out, said = process.communicate(timeout=HANG_S)
        wait_until(self.is_alone, within_s=SHRINK_S, said=lambda: f"{self.census()[-1]}\n{said}")
        return Ended(process.returncode, json.loads(out.splitlines()[-1]) if out else {}, said, self.census()[first:])


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Its head, and a driver there that counts its nodes."""
    folder = tmp_path_factory.mktemp("growing")
    (folder / "cluster.yaml").write_text(json.dumps(CLUSTER))
    with machines(1) as (head,):
        must_end_well(head.ray_starting(
            "--head", "--port=6379", "--include-dashboard=false", "--num-cpus=0", f"--autoscaling-config={folder / 'cluster.yaml'}",
            env=HEAD_ENVIRONMENT,
        ))
        started, census = Cluster(head, folder), folder / "census"
        census.touch()
        counting = head.popen([sys.executable, "-c", CENSUS, ADDRESS, str(census)])
        wait_until(started.is_alone, within_s=SHRINK_S, process=counting)
        yield started


@pytest.fixture(scope="module")
def preprocessed(cluster: Cluster) -> Ended:
    return cluster.run("preprocess", "--input", str(LAMBDA), "--output", str(cluster.data), *PREPROCESS)


@pytest.fixture(scope="module")
def pretraining(cluster: Cluster, preprocessed: Ended) -> tuple[str, ...]:
    """The words of a small run."""
    return ("pretrain", f"data.train_path={cluster.data}", "cluster.train_workers=2", *PRETRAIN)


def test_preprocessing_gets_a_node_and_gives_it_back(preprocessed: Ended) -> None:
    """Of CPUs: the nodes with GPUs, which would do as well, are not for it."""
    assert preprocessed.status == 0, preprocessed.said
    assert preprocessed.result["splits"]["train"]["rows"] > 300
    assert preprocessed.census[0] == HEAD_ALONE
    assert preprocessed.most("cpu") > 0 == preprocessed.most("gpu")


def test_training_waits_for_its_gang_and_gives_it_back(cluster: Cluster, pretraining: tuple[str, ...]) -> None:
    """Two workers, each of which needs a whole node."""
    room = ("cluster.cpus_per_worker=3", f"cluster.start_timeout_s={HANG_S:g}")
    trained = cluster.run(*pretraining, f"training.output_dir={cluster.folder / 'run'}", *room)
    assert (trained.status, trained.result.get("steps")) == (0, 4), trained.said
    assert re.search(
        r"waiting for room for 2 workers of 3 CPUs: the cluster has [03] CPUs, of which [03] CPUs are free, and (no node|1 node) large "
        r"enough for a worker; gives up in (10:00|[89]:\d\d) \(cluster\.start_timeout_s\)", trained.said,
    ), trained.said
    assert trained.census[0] == HEAD_ALONE
    assert (trained.most("cpu"), trained.most("gpu")) == (0, 2)


@pytest.mark.long
def test_a_range_begins_with_the_node_that_comes_first_and_grows(cluster: Cluster, pretraining: tuple[str, ...]) -> None:
    """Nobody has to give the command again, and the nodes go after it."""
    run, fewer = cluster.folder / "range", [word for word in pretraining if not word.startswith(("cluster.train_workers", "training.max_"))]
    room = ("cluster.cpus_per_worker=3", f"cluster.start_timeout_s={HANG_S:g}", "cluster.train_workers=[1,2]", "cluster.grow_interval_s=1")
    often = ("training.max_steps=1000000", "logging.save_interval=50", "logging.eval_interval=1000000", "logging.log_interval=50")
    growing = cluster.start(*fewer, f"training.output_dir={run}", *room, *often)
    wait_until(lambda: sizes(run) == [1, 2], process=growing, said=lambda: str(sizes(run)))
    for process in cluster.head.processes("hyena_glt.cli"):
        process.send_signal(signal.SIGINT)
    said = growing.communicate(timeout=HANG_S)[1]
    assert growing.returncode == 130, said
    wait_until(cluster.is_alone, within_s=SHRINK_S, said=lambda: said)


def sizes(run: Path) -> list[int]:
    """How many workers each start of the run had."""
    metrics = run / METRICS_FILE
    return [report["world_size"] for report in read_reports(metrics) if report["kind"] == "start"] if metrics.exists() else []


@pytest.mark.long
def test_a_gang_that_no_node_can_hold_is_refused_in_time(cluster: Cluster, pretraining: tuple[str, ...]) -> None:
    """And asks for no node meanwhile."""
    room = ("cluster.cpus_per_worker=4", "cluster.start_timeout_s=4")
    refused = cluster.run(*pretraining, f"training.output_dir={cluster.folder / 'refused'}", *room)
    assert (refused.status, refused.result) == (1, {})
    assert refused.said.splitlines()[-1] == (
        "error: 2 workers of 4 CPUs found no room within 4 s (cluster.start_timeout_s): the cluster has 0 CPUs, of which 0 CPUs are free, "
        "and no node large enough for a worker. Ask for less (cluster.train_workers, cluster.cpus_per_worker, hardware.num_gpus), or see "
        "by `ray status` on the cluster's head why the cluster does not grow"
    )
    assert (refused.most("cpu"), refused.most("gpu")) == (0, 0)
