"""Story of `doctor`: start Ray or join the cluster, probe every node, say what to mend. Runs on the driver."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from glob import has_magic
from typing import Any

import ray

from cluster.doctor import Examination, await_nodes, examine
from cluster.findings import Finding, Node, judge_links, judge_nodes, judge_storage
from cluster.parcel import given_paths, require_given_places
from cluster.paths import INTERVALS, is_job, with_storage
from hyena_glt.config import Config
from hyena_glt.data.inputs import is_bed
from hyena_glt.data.mixture import as_paths
from hyena_glt.data.storage import absolute
from hyena_glt.training.gang import Gang
from hyena_glt.training.launch import GANG_SETTINGS, choose_workers
from hyena_glt.training.preflight import versions

from ._command import run_as
from ._ray import is_local, start_ray

WRITTEN = ("training.output_dir", "tune.output_dir", "output.path", "output.scratch_path")
"""The settings with folders that commands write to; those with other paths are read."""

log = logging.getLogger(__name__)


def doctor(cfg: Config) -> dict[str, Any]:
    """Probe the cluster that the settings name, or this machine, for a run by these settings.

    The result is plain JSON: the figures of each node, place and link, and the findings, a sentence each: `breaks` would end a run,
    `warnings` would slow it down or may end it later. Where the settings say how many workers a run has, a cluster gets
    `cluster.start_timeout_s` to grow for them first. ConfigError in a job for a relative path.
    """
    cfg = with_storage(cfg)
    if is_job():
        require_given_places(cfg)
    given = given_paths(cfg)
    places = written(given)
    with start_ray(cfg.cluster.address, cfg.cluster.num_cpus):
        missing = _await_workers(cfg)
        found = examine(places, read(given))
    if not places:
        log.info("note: storage was not tried, as none of %s is set", ", ".join(WRITTEN))
    if found.gpus_busy:
        log.info("note: GPUs were not tried, as others hold some; run doctor again when the cluster is idle")
    findings = [*([missing] if missing else []), *_judge(found)]
    print(*table(found), sep="\n", file=sys.stderr)
    for finding in sorted(findings, key=lambda finding: not finding.breaks):
        print(f"{'error' if finding.breaks else 'warning'}: {finding.sentence}", file=sys.stderr)
    return _result(found, findings)


def written(given: Mapping[str, str | Sequence[str] | None]) -> list[str]:
    """The folders, absolute and each once, that commands with these paths write to."""
    return _absolute(path for name in WRITTEN for path in as_paths(given[name]))


def read(given: Mapping[str, str | Sequence[str] | None]) -> list[str]:
    """What commands with these paths read, absolute and each once; of a glob the folder that all its matches lie below."""
    paths = ((name, path) for name, value in given.items() if name not in WRITTEN for path in as_paths(value))
    return _absolute(_without_glob(path) for name, path in paths if name not in INTERVALS or is_bed(path))


def _absolute(paths: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(str(absolute(path)) for path in paths))


def _without_glob(path: str) -> str:
    parts = path.split("/")
    depth = next((depth for depth, part in enumerate(parts) if has_magic(part)), None)
    return path if depth is None else "/".join(parts[:depth]) or ("/" if path.startswith("/") else ".")


def _await_workers(cfg: Config) -> Finding | None:
    """Wait until the cluster has grown for the fewest workers that the settings ask for, if they ask for any; what is missing then."""
    workers = cfg.cluster.train_workers
    if is_local(cfg.cluster.address) or (workers is None and cfg.hardware.num_gpus is None):
        return None
    most, use_gpu = choose_workers(cfg, num_gpus=int(ray.cluster_resources().get("GPU", 0)))
    resources = {"CPU": float(cfg.cluster.cpus_per_worker)} | ({"GPU": cfg.cluster.gpus_per_worker} if use_gpu else {})
    gang = Gang(workers[0] if isinstance(workers, tuple) else most, resources, GANG_SETTINGS)
    return await_nodes(gang, timeout_s=cfg.cluster.start_timeout_s)


def _judge(found: Examination) -> Iterator[Finding]:
    yield from judge_nodes(found.nodes, versions())
    for shared in found.shared:
        yield from judge_storage(shared)
    yield from judge_links(found.links, found.gpu_failures)


def table(found: Examination) -> list[str]:
    """The figures as lines: a row a node, then places and links."""
    rows = [("node", "host", "python", "torch", "GPUs", "clock", "temporary", "/dev/shm", "files"), *map(_row, found.nodes)]
    lines = _columns(rows)
    for shared in found.shared:
        speeds = [
            (name, f"{speed:.0f}", f"{reading['mb_per_s']:.0f}" if (reading := shared.reading.get(name)) and reading["mb_per_s"] else "-")
            for name, speed in shared.writing.items()
        ]
        lines += ["", *_columns([(shared.path, "write MB/s", "read MB/s"), *speeds])]
    if found.links and found.links.gb_per_s is not None:
        lines += ["", f"{found.links.num_ranks} processes sum at {found.links.gb_per_s:.3f} GB/s by {found.links.backend}"]
    return [*lines, ""]


def _row(node: Node) -> tuple[str, ...]:
    machine = node.machine
    if machine is None:
        return (node.name, *["-"] * 8)
    clock = "-" if node.clock_offset_s is None else f"{node.clock_offset_s:+.3f} s"
    disks = [f"{disk['free'] / 1e9:.1f} of {disk['total'] / 1e9:.1f} GB" if disk else "-"
             for disk in (machine["temporary"], machine["shared_memory"])]
    installed = machine["versions"]
    gpus = f"{len(machine['gpus'])} {machine['gpus'][0]['name']}" if machine["gpus"] else "0"
    return (
        node.name, machine["host"], installed["python"] or "-", installed["torch"] or "-", gpus, clock, *disks,
        f"{machine['open_files']:,}",
    )


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _result(found: Examination, findings: Sequence[Finding]) -> dict[str, Any]:
    breaks = [finding.sentence for finding in findings if finding.breaks]
    return {
        "status": "broken" if breaks else "healthy",
        "nodes": {
            node.name: {"machine": node.machine, "ray_gpus": node.num_gpus, "clock_offset_s": node.clock_offset_s, "failure": node.failure}
            for node in found.nodes
        },
        "storage": {
            shared.path: {
                name: {"write_mb_per_s": speed, "read_mb_per_s": shared.reading[name]["mb_per_s"] if name in shared.reading else None}
                for name, speed in shared.writing.items()
            }
            for shared in found.shared
        },
        "sums": found.links and {
            "backend": found.links.backend, "processes": found.links.num_ranks, "gb_per_s": found.links.gb_per_s,
        },
        "breaks": breaks, "warnings": [finding.sentence for finding in findings if not finding.breaks],
    }


if __name__ == "__main__":
    run_as("doctor")
