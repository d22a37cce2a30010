"""Send the probes of `hyena_glt.training.preflight` to every node of the running Ray, and gather what they find. Runs on the driver.

One actor a node, without a share in its CPUs, so that a busy cluster answers too; for GPUs one a GPU.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hyena_glt.errors import ClusterError
from hyena_glt.training import preflight
from hyena_glt.training.gang import Gang, await_gang

from .findings import Finding, Links, Node, Shared

ANSWER_S = 120.0
"""Until a node counts as silent; an actor's process must start and import."""
NUM_ROUND_TRIPS = 5
FILE_BYTES = 64 << 20


@ray.remote(num_cpus=0)
class _Prober:
    """Runs probes, by name, on the node where it was put."""

    def probe(self, name: str, *arguments: Any) -> Any:
        return getattr(preflight, name)(*arguments)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a probe found, or why it failed."""

    value: Any = None
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class Post:
    """A node to probe: its name and address, its id and session folder in Ray, its GPUs, and the prober there."""

    name: str
    host: str
    node_id: str
    session: str
    num_gpus: int
    prober: Any


@dataclass(frozen=True, slots=True)
class Examination:
    """All that was found out about a cluster."""

    nodes: list[Node]
    shared: list[Shared]
    links: Links | None
    """None where there is a single process, and where nodes cannot reach each other anyway."""
    gpu_failures: dict[str, str]
    """Node -> why its GPUs do not compute."""
    gpus_busy: bool
    """Others hold GPUs, so that none was tried."""


def await_nodes(gang: Gang, *, timeout_s: float) -> Finding | None:
    """Wait until a cluster that grows has the nodes that a run would get, so that they are examined; what is missing if they do not come.

    Nodes that are there and busy are not waited for, as the probes need no room.
    """
    if _holds(gang):
        return None
    try:
        await_gang(gang, timeout_s=timeout_s)
    except ClusterError as error:
        return Finding(str(error), True)
    return None


def _holds(gang: Gang) -> bool:
    """Whether the nodes that there are could hold all workers, were they idle."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    rooms = [min(node.get(name, 0.0) / amount for name, amount in gang.resources.items()) for node in nodes]
    return sum(int(room + 1e-6) for room in rooms) >= gang.workers  # shares such as 0.1 are no exact numbers


def examine(places: Sequence[str], inputs: Sequence[str]) -> Examination:
    """Probe every node: `places` are folders that all must share, `inputs` paths that all must see."""
    posts = _posts()
    try:
        nodes = _examine_nodes(posts, inputs)
        awake = [post for post, node in zip(posts, nodes, strict=True) if node.failure is None]
        shared = [_examine_storage(awake, place) for place in places] if awake else []
        busy = ray.available_resources().get("GPU", 0) < sum(post.num_gpus for post in awake)
        gpu_failures, links = _examine_links(awake, try_gpus=not busy, try_links=not any(node.unreachable for node in nodes))
        return Examination(nodes, shared, links, gpu_failures, busy)
    finally:
        for post in posts:
            ray.kill(post.prober)


def _posts() -> list[Post]:
    """A post for each node alive, the driver's first."""
    here = ray.get_runtime_context().get_node_id()
    alive = sorted((node for node in ray.nodes() if node["Alive"]), key=lambda node: (node["NodeID"] != here, node["NodeManagerAddress"]))
    names = _names(alive)
    return [
        Post(
            name, node["NodeManagerAddress"], node["NodeID"], str(Path(node["ObjectStoreSocketName"]).parents[1]),
            int(node["Resources"].get("GPU", 0)), _prober(node["NodeID"]),
        )
        for name, node in zip(names, alive, strict=True)
    ]


def _names(nodes: Sequence[dict[str, Any]]) -> list[str]:
    """The address of each, with the start of its id where several nodes share one."""
    numbers = Counter(node["NodeManagerAddress"] for node in nodes)
    return [
        node["NodeManagerAddress"] + (f" ({node['NodeID'][:6]})" if numbers[node["NodeManagerAddress"]] > 1 else "") for node in nodes
    ]


def _prober(node_id: str, num_gpus: int = 0) -> Any:
    return _Prober.options(num_gpus=num_gpus, scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False)).remote()


def _ask(probers: Sequence[Any], name: str, arguments: Sequence[tuple[Any, ...]], limit_s: float = ANSWER_S) -> list[Answer]:
    """The same probe of all at once, each with its arguments; a failure is a short line."""
    refs = [prober.probe.remote(name, *given) for prober, given in zip(probers, arguments, strict=True)]
    ready, _ = ray.wait(refs, num_returns=len(refs), timeout=limit_s)
    return [_answer(ref) if ref in ready else Answer(failure=f"no answer within {limit_s:.0f} s") for ref in refs]


def _answer(ref: Any) -> Answer:
    try:
        return Answer(ray.get(ref))
    except RayError as error:  # what the probe raised, or the death of its process
        return Answer(failure=_short(error))


def _short(error: RayError) -> str:
    """What the probe raised, or the last line that names an error in what Ray says."""
    cause = getattr(error, "cause", None)
    if cause is not None:
        return f"{type(cause).__name__}: {str(cause).splitlines()[0] if str(cause) else ''}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in reversed(lines) if "Error:" in line), lines[0] if lines else type(error).__name__)


# Nodes


def _examine_nodes(posts: Sequence[Post], inputs: Sequence[str]) -> list[Node]:
    probers = [post.prober for post in posts]
    machines = _ask(probers, "machine", [(post.session,) for post in posts])
    nodes = [
        Node(name=post.name, num_gpus=post.num_gpus, failure=answer.failure, machine=answer.value)
        for post, answer in zip(posts, machines, strict=True)
    ]
    awake = [number for number, node in enumerate(nodes) if node.failure is None]
    sights = _ask([probers[number] for number in awake], "sees", [(list(inputs),)] * len(awake))
    cut_off = _unreachable([posts[number] for number in awake])
    for number, sight in zip(awake, sights, strict=True):
        nodes[number] = replace(
            nodes[number], failure=sight.failure, unseen=sight.value or [], unreachable=cut_off[posts[number].name],
            clock_offset_s=_clock_offset(probers[number]),
        )
    return nodes


def _clock_offset(prober: Any) -> float | None:
    """Seconds by which its clock is ahead of this one, from the round trip that took least; None if it does not answer."""
    offsets = []
    for _ in range(NUM_ROUND_TRIPS):
        before = time.time()
        [answer] = _ask([prober], "now", [()])
        after = time.time()
        if answer.failure:
            return None
        offsets.append((after - before, answer.value - (before + after) / 2))
    return min(offsets)[1]


def _unreachable(posts: Sequence[Post]) -> dict[str, list[str]]:
    """Node -> the others that take no connection from it."""
    probers = [post.prober for post in posts]
    ports = _ask(probers, "listen", [(post.host,) for post in posts])
    doors = {post.name: (post.host, answer.value) for post, answer in zip(posts, ports, strict=True) if answer.failure is None}
    others = [({name: door for name, door in doors.items() if name != post.name},) for post in posts]
    answers = _ask(probers, "unreachable", others)
    return {post.name: answer.value or [] for post, answer in zip(posts, answers, strict=True)}


# Storage


def _examine_storage(posts: Sequence[Post], place: str) -> Shared:
    """All write a file each, then all read what all wrote."""
    first, names = posts[0], [post.name for post in posts]
    [made] = _ask([first.prober], "make_probe_folder", [(place, secrets.token_hex(4))])
    if made.failure:
        return Shared(path=place, failures={first.name: made.failure}, writing={}, reading={})
    try:
        written = _ask([post.prober for post in posts], "write_file", [(made.value, name, FILE_BYTES) for name in names])
        failures = {name: answer.failure for name, answer in zip(names, written, strict=True) if answer.failure}
        writing = {name: answer.value for name, answer in zip(names, written, strict=True) if not answer.failure}
        writers = [post for post in posts if post.name in writing]
        sources = [[name for name in writing if name != post.name] or list(writing) for post in writers]
        read = _ask([post.prober for post in writers], "read_files", [(made.value, others) for others in sources])
        failures |= {post.name: answer.failure for post, answer in zip(writers, read, strict=True) if answer.failure}
        reading = {post.name: answer.value for post, answer in zip(writers, read, strict=True) if not answer.failure}
        [space] = _ask([first.prober], "free_space", [(made.value,)])
        return Shared(path=place, failures=failures, writing=writing, reading=reading, space=space.value)
    finally:
        _ask([first.prober], "remove_probe_folder", [(made.value,)])


# Links


def _examine_links(posts: Sequence[Post], *, try_gpus: bool, try_links: bool) -> tuple[dict[str, str], Links | None]:
    """Why GPUs do not compute, by node; and sums over all GPUs, or over one process a node where GPUs are not to be had."""
    places = [post for post in posts for _ in range(post.num_gpus)] if try_gpus else []
    probers = [_prober(post.node_id, num_gpus=1) for post in places]
    try:
        answers = _ask(probers, "multiply", [()] * len(probers)) if probers else []
        failures = {post.name: answer.failure for post, answer in zip(places, answers, strict=True) if answer.failure}
        if not try_links:
            return failures, None
        if probers and not failures:
            return {}, _sum(places, probers, "nccl")
        return failures, _sum(posts, [post.prober for post in posts], "gloo")
    finally:
        for prober in probers:
            ray.kill(prober)


def _sum(posts: Sequence[Post], probers: Sequence[Any], backend: str) -> Links | None:
    """None with a single process, which has nobody to sum with."""
    if len(posts) < 2:
        return None
    [port] = _ask(probers[:1], "free_port", [(posts[0].host,)])
    arguments = [(rank, len(posts), posts[0].host, port.value, backend) for rank in range(len(posts))]
    answers = _ask(probers, "sum_speed", arguments, ANSWER_S + preflight.GROUP_S)
    failure = next((answer.failure for answer in answers if answer.failure), None)
    return Links(backend=backend, num_ranks=len(posts), gb_per_s=None if failure else min(a.value for a in answers), failure=failure)
