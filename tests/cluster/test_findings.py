"""What the doctor makes of figures: each finding's sentence and whether it breaks a run; nothing where all is well."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.findings import Finding, Links, Node, Shared, judge_links, judge_nodes, judge_storage
from hyena_glt.training.preflight import Disk, Gpu, Machine

GB = 10**9
DRIVER = {"python": "3.11.7", "hyena-glt": "0.1.0", "ray": "2.60.0", "torch": "2.13.0+cpu", "deepspeed": "0.19.8", "numpy": "2.4.6"}
H100 = Gpu(name="H100", driver="570.1", memory=80 * GB, used=0)


def disk(path: str, total: float, free: float) -> Disk:
    return Disk(path=path, total=int(total), free=int(free))


def machine(**other: object) -> Machine:
    """A machine on which all is well, but for what is given."""
    return Machine(**{
        "host": "a", "versions": DRIVER | {"python": "3.11.9", "torch": "2.13.0+cu130"}, "gpus": [],
        "temporary": disk("/tmp/ray", 500 * GB, 100 * GB), "shared_memory": disk("/dev/shm", 16 * GB, 16 * GB), "open_files": 65536,
    } | other)


def node(**other: object) -> Node:
    return Node(**{"name": "n1", "num_gpus": 0, "machine": machine(), "clock_offset_s": 0.01} | other)


def test_a_sound_cluster_has_no_findings() -> None:
    nodes = [node(), node(name="n2", num_gpus=2, machine=machine(gpus=[H100, H100]))]
    reading = {"missing": [], "mb_per_s": 900.0}
    place = Shared(path="/runs", failures={}, writing={"n1": 400.0}, reading={"n1": reading}, space=disk("/runs", 9e12, 5e12))
    assert [*judge_nodes(nodes, DRIVER), *judge_storage(place), *judge_links(Links("nccl", 2, 300.0), {}), *judge_links(None, {})] == []


SPILLS = "free some, or start Ray there with --temp-dir on a larger disk"
NODES = [  # what was found, the sentence behind "node n1: ", whether it breaks a run
    (
        {"failure": "ModuleNotFoundError: No module named 'cluster.doctor'", "machine": None},
        "the probes do not run there (ModuleNotFoundError: No module named 'cluster.doctor'); install the driver's hyena-glt on it", True,
    ),
    (
        {"machine": machine(versions=DRIVER | {"deepspeed": "0.18.0"})},
        "has deepspeed 0.18.0, and the driver has 0.19.8; install deepspeed 0.19.8, or the same image, on every node", True,
    ),
    (
        {"machine": machine(versions=DRIVER | {"torch": None})},
        "has no torch, and the driver has 2.13.0+cpu; install torch 2.13.0+cpu, or the same image, on every node", True,
    ),
    (
        {"machine": machine(versions=DRIVER | {"python": "3.12.1"})},
        "has python 3.12.1, and the driver has 3.11.7; install python 3.11.7, or the same image, on every node", True,
    ),
    (
        {"machine": machine(versions=DRIVER | {"numpy": "2.0.0"})},
        "has numpy 2.0.0, and the driver has 2.4.6; install numpy 2.4.6, or the same image, on every node", False,
    ),
    (
        {"num_gpus": 8},
        "offers 8 GPUs to Ray, and nvidia-smi finds none; mend the driver, or start Ray there with --num-gpus=0", True,
    ),
    (
        {"num_gpus": 2, "machine": machine(gpus=[H100])},
        "offers 2 GPUs to Ray, and nvidia-smi shows 1; mend the driver, or start Ray there with --num-gpus=1", True,
    ),
    ({"machine": machine(gpus=[H100])}, "has 1 GPU, and Ray was told of 0; start Ray there with --num-gpus=1 to use all", False),
    (
        {"num_gpus": 1, "machine": machine(gpus=[H100 | {"used": 40 * GB}])},
        "40.0 GB of the memory of 1 GPU is taken by other processes; end them (nvidia-smi lists them), or wait until they end", False,
    ),
    (
        {"machine": machine(temporary=disk("/tmp/ray", 100 * GB, 4 * GB))},
        f"the disk of /tmp/ray is 96% full (4.0 GB free), and Ray stops writing to it at 95%; {SPILLS}", True,
    ),
    (
        {"machine": machine(temporary=disk("/tmp/ray", 100 * GB, 15 * GB))},
        f"15.0 GB are free on the disk of /tmp/ray, where Ray spills objects; {SPILLS}", False,
    ),
    (
        {"machine": machine(shared_memory=disk("/dev/shm", 64e6, 64e6))},
        "/dev/shm holds 64 MB, too little for Ray's objects, NCCL and loader processes; start its container with --shm-size=8g (in "
        "Kubernetes mount an emptyDir of medium Memory there)", True,
    ),
    ({"machine": machine(open_files=1024)}, "a process may open only 1,024 files; run `ulimit -n 65536` before `ray start` there", False),
    ({"machine": machine(open_files=256)}, "a process may open only 256 files; run `ulimit -n 65536` before `ray start` there", True),
    ({"clock_offset_s": 2.5}, "its clock is 2.5 s ahead of the driver's; let chrony or systemd-timesyncd set it", False),
    ({"clock_offset_s": -900.0}, "its clock is 900.0 s behind the driver's; let chrony or systemd-timesyncd set it", True),
    ({"unseen": ["/data/ecoli"]}, "does not see /data/ecoli; mount the storage that holds it there, at the same path", True),
    (
        {"unreachable": ["n2", "n3"]},
        "cannot open a connection to n2, n3; let the nodes of the cluster reach each other at all TCP ports (security group, firewall, "
        "network policy)", True,
    ),
]  # fmt: skip


@pytest.mark.parametrize(("found", "sentence", "breaks"), NODES)
def test_a_node(found: dict[str, object], sentence: str, breaks: bool) -> None:
    assert list(judge_nodes([node(**found)], DRIVER)) == [Finding(f"node n1: {sentence}", breaks)]


def test_gpus_of_several_kinds() -> None:
    others = node(name="n2", num_gpus=1, machine=machine(gpus=[H100 | {"name": "A100"}]))
    [finding] = judge_nodes([node(num_gpus=2, machine=machine(gpus=[H100, H100])), others], DRIVER)
    assert finding == Finding(
        "the cluster mixes GPUs (2 H100, 1 A100), and every step waits for the slowest; train on one kind at a time", False
    )


@pytest.mark.parametrize(("others", "has"), [(1, "another node has"), (2, "2 others have")])
def test_gpu_drivers_that_differ(others: int, has: str) -> None:
    usual = [node(name=f"n{number}", num_gpus=1, machine=machine(gpus=[H100])) for number in range(others)]
    odd = node(name="odd", num_gpus=2, machine=machine(gpus=[H100 | {"driver": "535.5"}] * 2))
    assert list(judge_nodes([*usual, odd, node(name="cpus")], DRIVER)) == [Finding(
        f"node odd: has GPU driver 535.5, and {has} 570.1; install the same, or the same machine image, on every node", False
    )]


def test_no_limit_of_open_files_is_no_finding() -> None:
    assert list(judge_nodes([node(machine=machine(open_files=-1))], DRIVER)) == []


PLACE = Shared(path="/runs", failures={}, writing={"n1": 400.0, "n2": 500.0}, reading={}, space=None)


@pytest.mark.parametrize(
    ("place", "sentence", "breaks"),
    [
        (
            replace(PLACE, failures={"n2": "FileNotFoundError: no such folder"}),
            "node n2: cannot use /runs (FileNotFoundError: no such folder); mount the shared storage there, at the same path and writable",
            True,
        ),
        (
            replace(PLACE, reading={"n2": {"missing": ["n1"], "mb_per_s": None}}),
            "node n2: does not see in /runs what n1 wrote; mount the same storage there on all nodes", True,
        ),
        (
            replace(PLACE, writing={"n1": 12.3, "n2": 500.0}),
            "/runs: 1 of 2 nodes write at less than 50 MB/s (n1: 12.3), which makes checkpoints slow; take faster storage, or raise "
            "logging.save_interval", False,
        ),
        (
            replace(PLACE, space=disk("/runs", 9e12, 5e9)),
            "/runs: 5.0 GB are free there, for checkpoints and data; free some, or set logging.keep_checkpoints", False,
        ),
        (
            replace(PLACE, space=disk("/runs", 9e12, 5e6)),
            "/runs: 5 MB are free there, for checkpoints and data; free some, or set logging.keep_checkpoints", True,
        ),
    ],
)  # fmt: skip
def test_a_place(place: Shared, sentence: str, breaks: bool) -> None:
    assert list(judge_storage(place)) == [Finding(sentence, breaks)]


def test_links_that_fail() -> None:
    assert list(judge_links(Links("gloo", 2, None, "RuntimeError: connect"), {})) == [Finding(
        "2 processes cannot sum by gloo (RuntimeError: connect); set GLOO_SOCKET_IFNAME to the network interface that joins the nodes, "
        "before `ray start` on each", True,
    )]


def test_links_that_are_slow() -> None:
    assert list(judge_links(Links("nccl", 16, 0.5), {})) == [Finding(
        "16 processes sum at 0.500 GB/s by nccl, so that every step waits; set NCCL_SOCKET_IFNAME to the fastest interface, or raise "
        "training.gradient_accumulation_steps", False,
    )]


def test_gpus_that_do_not_compute() -> None:
    assert list(judge_links(None, {"n1": "RuntimeError: no driver"})) == [Finding(
        "node n1: torch cannot compute on the GPUs that Ray hands out there (RuntimeError: no driver); install the build of torch that "
        "fits the driver (nvidia-smi shows its CUDA version)", True,
    )]
