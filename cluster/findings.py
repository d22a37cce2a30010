"""What the figures of a cluster mean for a run: one sentence for each finding, which says what to do. Pure, without Ray."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from hyena_glt.training.preflight import Disk, Machine, Reading

MUST_AGREE = ("python", "hyena-glt", "ray", "torch", "deepspeed")
"""Packages in whose place no other version can run the same training; the rest may differ, with a warning."""
MAX_CLOCK_OFFSET_S = 1.0
BROKEN_CLOCK_OFFSET_S = 300.0
"""Object stores refuse requests whose time is some minutes off."""
SPILL_LIMIT = 0.95
"""Share of a disk from which Ray writes nothing more to it."""
LITTLE_DISK, NO_DISK = 20e9, 1e9
LITTLE_SHARED_MEMORY, NO_SHARED_MEMORY = 1 << 30, 256 << 20
"""Docker gives 64 MB where nobody asks for more; NCCL and loader processes die on that."""
FEW_OPEN_FILES, NO_OPEN_FILES = 8192, 1024
SLOW_STORAGE_MB_PER_S = 50.0
SLOW_LINK_GB_PER_S = {"gloo": 0.1, "nccl": 1.0}
BUSY_GPU = 0.1
"""Share of a GPU's memory that others hold."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to mend; `breaks` tells whether a run would fail on it, or only be slow or at risk."""

    sentence: str
    breaks: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """A machine of the cluster as the doctor found it."""

    name: str
    num_gpus: int
    """GPUs that Ray hands out there."""
    failure: str | None = None
    """Why it did not answer."""
    machine: Machine | None = None
    clock_offset_s: float | None = None
    unreachable: list[str] = field(default_factory=list)
    """Names of nodes that take no connection from it."""
    unseen: list[str] = field(default_factory=list)
    """Input paths that are not there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shared:
    """A place that all nodes should share, and how each got on with it."""

    path: str
    failures: dict[str, str]
    """Node -> why it could not write or read there."""
    writing: dict[str, float]
    """Node -> MB/s."""
    reading: dict[str, Reading]
    space: Disk | None = None


@dataclass(frozen=True, slots=True)
class Links:
    """Sums over processes of all nodes."""

    backend: str
    num_ranks: int
    gb_per_s: float | None
    failure: str | None = None


def judge_nodes(nodes: Sequence[Node], driver: Mapping[str, str | None]) -> Iterator[Finding]:
    """What is wrong with each node; `driver` has the driver's versions."""
    for node in nodes:
        if node.failure:
            yield Finding(f"node {node.name}: the probes do not run there ({node.failure}); install the driver's hyena-glt on it", True)
        if node.machine:
            yield from _versions(node.name, node.machine, driver)
            yield from _gpus(node.name, node.machine, node.num_gpus)
            yield from _temporary(node.name, node.machine["temporary"])
            yield from _shared_memory(node.name, node.machine["shared_memory"])
            yield from _open_files(node.name, node.machine["open_files"])
        yield from _clock(node.name, node.clock_offset_s)
        for path in node.unseen:
            yield Finding(f"node {node.name}: does not see {path}; mount the storage that holds it there, at the same path", True)
        if node.unreachable:
            yield Finding(
                f"node {node.name}: cannot open a connection to {', '.join(node.unreachable)}; let the nodes of the cluster reach each "
                f"other at all TCP ports (security group, firewall, network policy)", True,
            )
    yield from _mixed_gpus(nodes)
    yield from _mixed_drivers(nodes)


def _versions(name: str, machine: Machine, driver: Mapping[str, str | None]) -> Iterator[Finding]:
    for package, wanted in driver.items():
        found = machine["versions"].get(package)
        if _comparable(package, found) == _comparable(package, wanted):
            continue
        has = f"has {package} {found}" if found else f"has no {package}"
        advice = f"install {package} {wanted}, or the same image, on every node" if wanted else "install it here too"
        yield Finding(f"node {name}: {has}, and the driver has {wanted or 'none'}; {advice}", package in MUST_AGREE)


def _comparable(package: str, version: str | None) -> str | None:
    """Without what may differ: the build of a package (+cpu, +cu130), the patch level of Python."""
    public = version and version.partition("+")[0]
    return ".".join(public.split(".")[:2]) if package == "python" and public else public


def _gpus(name: str, machine: Machine, num_gpus: int) -> Iterator[Finding]:
    found = machine["gpus"]
    told = f"start Ray there with --num-gpus={len(found)}"
    if num_gpus > len(found):
        seen = f"nvidia-smi shows {len(found)}" if found else "nvidia-smi finds none"
        yield Finding(f"node {name}: offers {_gpu_count(num_gpus)} to Ray, and {seen}; mend the driver, or {told}", True)
    if num_gpus < len(found):
        yield Finding(f"node {name}: has {_gpu_count(len(found))}, and Ray was told of {num_gpus}; {told} to use all", False)
    busy = [gpu for gpu in found if gpu["used"] > BUSY_GPU * gpu["memory"]]
    if busy and num_gpus:
        held = _size(sum(gpu["used"] for gpu in busy))
        yield Finding(
            f"node {name}: {held} of the memory of {_gpu_count(len(busy))} is taken by other processes; end them (nvidia-smi lists them), "
            f"or wait until they end", False,
        )


def _mixed_gpus(nodes: Sequence[Node]) -> Iterator[Finding]:
    names = Counter(gpu["name"] for node in nodes if node.machine for gpu in node.machine["gpus"])
    if len(names) > 1:
        kinds = ", ".join(f"{number} {name}" for name, number in names.most_common())
        yield Finding(f"the cluster mixes GPUs ({kinds}), and every step waits for the slowest; train on one kind at a time", False)


def _mixed_drivers(nodes: Sequence[Node]) -> Iterator[Finding]:
    """All GPUs of a node have the same."""
    drivers = {node.name: node.machine["gpus"][0]["driver"] for node in nodes if node.machine and node.machine["gpus"]}
    [(usual, number)] = Counter(drivers.values()).most_common(1) or [("", 0)]
    for name, driver in drivers.items():
        if driver != usual:
            others = "another node has" if number == 1 else f"{number} others have"
            yield Finding(
                f"node {name}: has GPU driver {driver}, and {others} {usual}; install the same, or the same machine image, on every node",
                False,
            )


def _temporary(name: str, disk: Disk | None) -> Iterator[Finding]:
    if disk is None:
        return
    advice = "free some, or start Ray there with --temp-dir on a larger disk"
    used, free = 1 - disk["free"] / disk["total"], _size(disk["free"])
    if used >= SPILL_LIMIT:
        yield Finding(
            f"node {name}: the disk of {disk['path']} is {used:.0%} full ({free} free), and Ray stops writing to it at "
            f"{SPILL_LIMIT:.0%}; {advice}", True,
        )
    elif disk["free"] < LITTLE_DISK:
        yield Finding(f"node {name}: {free} are free on the disk of {disk['path']}, where Ray spills objects; {advice}", False)


def _shared_memory(name: str, disk: Disk | None) -> Iterator[Finding]:
    if disk and disk["total"] < LITTLE_SHARED_MEMORY:
        yield Finding(
            f"node {name}: {disk['path']} holds {_size(disk['total'])}, too little for Ray's objects, NCCL and loader processes; start its "
            f"container with --shm-size=8g (in Kubernetes mount an emptyDir of medium Memory there)", disk["total"] < NO_SHARED_MEMORY,
        )


def _open_files(name: str, limit: int) -> Iterator[Finding]:
    if 0 <= limit < FEW_OPEN_FILES:  # -1: no limit
        advice = "run `ulimit -n 65536` before `ray start` there"
        yield Finding(f"node {name}: a process may open only {limit:,} files; {advice}", limit < NO_OPEN_FILES)


def _clock(name: str, offset_s: float | None) -> Iterator[Finding]:
    if offset_s is not None and abs(offset_s) > MAX_CLOCK_OFFSET_S:
        way, breaks = "ahead of" if offset_s > 0 else "behind", abs(offset_s) > BROKEN_CLOCK_OFFSET_S
        yield Finding(f"node {name}: its clock is {abs(offset_s):.1f} s {way} the driver's; let chrony or systemd-timesyncd set it", breaks)


def judge_storage(shared: Shared) -> Iterator[Finding]:
    """What is wrong with a place that all nodes should share."""
    path = shared.path
    for name, failure in shared.failures.items():
        yield Finding(f"node {name}: cannot use {path} ({failure}); mount the shared storage there, at the same path and writable", True)
    for name, reading in shared.reading.items():
        if missing := ", ".join(reading["missing"]):
            yield Finding(f"node {name}: does not see in {path} what {missing} wrote; mount the same storage there on all nodes", True)
    slow = {name: speed for name, speed in shared.writing.items() if speed < SLOW_STORAGE_MB_PER_S}
    if slow:
        worst = min(slow, key=slow.__getitem__)
        yield Finding(
            f"{path}: {len(slow)} of {len(shared.writing)} nodes write at less than {SLOW_STORAGE_MB_PER_S:.0f} MB/s "
            f"({worst}: {slow[worst]:.1f}), which makes checkpoints slow; take faster storage, or raise logging.save_interval", False,
        )
    space = shared.space
    if space and space["free"] < LITTLE_DISK:
        free, advice = _size(space["free"]), "free some, or set logging.keep_checkpoints"
        yield Finding(f"{path}: {free} are free there, for checkpoints and data; {advice}", space["free"] < NO_DISK)


def judge_links(links: Links | None, gpu_failures: Mapping[str, str]) -> Iterator[Finding]:
    """What is wrong with GPUs in use, and with sums over all processes; `gpu_failures` are by node."""
    for name, failure in gpu_failures.items():
        yield Finding(
            f"node {name}: torch cannot compute on the GPUs that Ray hands out there ({failure}); install the build of torch that fits the "
            f"driver (nvidia-smi shows its CUDA version)", True,
        )
    if links is None:
        return
    interface = f"{links.backend.upper()}_SOCKET_IFNAME"
    if links.failure:
        yield Finding(
            f"{links.num_ranks} processes cannot sum by {links.backend} ({links.failure}); set {interface} to the network interface that "
            f"joins the nodes, before `ray start` on each", True,
        )
    elif links.gb_per_s is not None and links.gb_per_s < SLOW_LINK_GB_PER_S[links.backend]:
        yield Finding(
            f"{links.num_ranks} processes sum at {links.gb_per_s:.3f} GB/s by {links.backend}, so that every step waits; set {interface} "
            f"to the fastest interface, or raise training.gradient_accumulation_steps", False,
        )


def _gpu_count(number: int) -> str:
    return f"{number} GPU{'s' * (number != 1)}"


def _size(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.0f} MB"
