"""Ratios, targets and tables of the preprocessing benchmark: what it measured in, preprocess_cpu.{json,md} out."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
from page import cpu_name, own_command, write_report

QUIET_LOAD, QUIET_CORES = 0.5, 0.1
"""Load average before the start, and cores that others kept busy on average, above which a report says that the machine was busy."""
Row = dict[str, Any]
PEERS = {"HyenaDNA's way": 30.0, "savanna": 5.0}
"""How many times as fast as each we mean to be."""
FLOORS = ("floor, numpy", "floor, translate")
OF_FLOOR = {True: 1 / 3, False: 1 / 2}
"""The share of the floor's speed that we mean to reach, with compression and without."""
SECOND_WORKER = 1.8


def machine_facts(clones: Mapping[str, tuple[Path, Path, tuple[str, ...]]]) -> Row:
    """Machine, load, command and, of each clone with its Python, commit and versions; printed too."""
    facts = {
        "command": own_command(),
        "machine": f"{cpu_name()}, {psutil.virtual_memory().total / 2**30:.0f} GiB",
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "nice_of_ray_workers": int(os.environ.get("RAY_worker_niceness", "15")),
        "versions": {name: describe(*place) for name, place in clones.items()},
    }
    print("\n".join(f"{name}: {value}" for name, value in facts.items()), flush=True)
    if facts["load_average"][0] > QUIET_LOAD:
        print("WARNING: the machine is busy, and Ray's workers give way to others; the report will say so", flush=True)
    return facts


def describe(clone: Path, python: Path, packages: tuple[str, ...]) -> str:
    """A clone's commit, and the versions that its Python has."""
    commit = output_of("git", "-C", str(clone), "describe", "--always", "--dirty", "--abbrev=12")
    ask = f"import platform, importlib.metadata as m; print(platform.python_version(), *(m.version(p) for p in {packages}))"
    found = zip(("Python", *packages), output_of(str(python), "-c", ask).split(), strict=True)
    return ", ".join([f"commit {commit}", *(f"{name} {number}" for name, number in found)])


def output_of(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def ratios(rows: Sequence[Row]) -> list[Row]:
    """Our speed over the others', with the targets; the floor has no windows, so each of ours is held against the same."""
    rates = {tuple(row[key] for key in ("what", "data", "window", "compress", "workers")): row["mbp_per_s"] for row in rows}
    found = []
    for (what, data, window, compress, workers), rate in rates.items():
        if what != "ours":
            continue
        against = {("ours", data, window, compress, 1): SECOND_WORKER} if workers == 2 else {
            **{(peer, data, window, None, 1): target for peer, target in PEERS.items()},
            **{(floor, data, None, None, 1): OF_FLOOR[compress] for floor in FLOORS},
        }
        found += [
            {"data": data, "window": window, "compress": compress, "workers": workers, "against": other[0] if workers == 1 else "1 worker",
             "ratio": rate / rates[other], "target": target, "reached": rate / rates[other] >= target}
            for other, target in against.items() if other in rates
        ]
    return found


def write(report: Row, out: Path) -> None:
    """The report with its ratios as JSON, and as tables."""
    report = report | {"ratios": ratios(report["rows"])}
    write_report(out, "preprocess_cpu", report, "\n".join(markdown(report)))


def markdown(report: Row) -> list[str]:
    """The lines of the page."""
    return [
        *heading("Preprocessing on a CPU", report),
        f"\n{conditions(report)}\n",
        "## Speed\n",
        "Mbp/s: 10^6 input bases a second of wall time, medians; bytes/base: bytes on disk for each base that is in the rows.\n",
        "| data | what | window | workers | Mbp/s | slowest to fastest | runs | CPU s | bytes/base |",
        "|---|---|---|---|---|---|---|---|---|",
        *map(speed_line, sorted(report["rows"], key=lambda row: row["data"])),
        "\n## Ratios\n",
        "Our speed over the other's.\n",
        "| data | ours | window | against | ratio | wanted | |",
        "|---|---|---|---|---|---|---|",
        *map(ratio_line, report["ratios"]),
        "\n## Seconds a stage\n",
        "Our runs' first, as the progress lines show them.\n",
        *map(stage_line, (row for row in report["rows"] if row["what"] == "ours")),
    ]


def heading(title: str, report: Row) -> list[str]:
    """The first lines of a page: what was run, where, and which versions."""
    return [
        f"# {title}\n",
        f"`{report['command']}`\non {report['machine']}, load average before the start {' '.join(map(str, report['load_average']))}.\n",
        *(f"- {name}: {text}" for name, text in report["versions"].items()),
    ]


def conditions(report: Row) -> str:
    """What the figures hold under."""
    runs = [run for row in report["rows"] for run in row["runs"]]
    ray_s, warm_up_s = (max(run[key] for run in runs if key in run) for key in ("ray_s", "warm_up_s"))
    return (
        f"{others_too(report)} Each case is bound to as many "
        f"cores as it has workers. Left out of ours: at most {ray_s:.1f} s to start Ray and {warm_up_s:.1f} s for a first small run; left "
        "out of the others: imports, pyfaidx's index, savanna's JSON Lines. Inputs are plain FASTA in the page cache; nobody waits for the "
        "disk except by a sync of its own."
    )


def others_too(report: Row) -> str:
    """How busy others kept the machine, and a warning if that was too much."""
    runs = [run for row in report["rows"] for run in row["runs"]]
    others = sum(run["other_cores"] * run["seconds"] for run in runs) / sum(run["seconds"] for run in runs)
    busy = others > QUIET_CORES or report["load_average"][0] > QUIET_LOAD
    return (
        f"{'**The machine was busy: the figures are not to be trusted.** ' if busy else ''}While cases ran, other processes kept "
        f"{others:.2f} cores busy on average. Ray's workers ran at nice {report['nice_of_ray_workers']}."
    )


def name_of(row: Row) -> str:
    return row["what"] if row.get("compress") is None else f"ours, {'zstd' if row['compress'] else 'uncompressed'}"


def speed_line(row: Row) -> str:
    window = f"{row['window']:,}" if row["window"] else "-"
    size = f"{row['bytes_per_base']:.3f}" if row["bytes_per_base"] else "-"
    return (f"| {row['data']} | {name_of(row)} | {window} | {row['workers']} | {row['mbp_per_s']:.1f} "
            f"| {row['slowest']:.1f} to {row['fastest']:.1f} | {len(row['runs'])} | {row['cpu_s']:.2f} | {size} |")


def ratio_line(row: Row) -> str:
    ours = f"{'zstd' if row['compress'] else 'uncompressed'}{', 2 workers' if row['workers'] == 2 else ''}"
    return (f"| {row['data']} | {ours} | {row['window']:,} | {row['against']} | {row['ratio']:.2f} | {row['target']:.2f} "
            f"| {'reached' if row['reached'] else '**missed**'} |")


def stage_line(row: Row) -> str:
    stages = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in row["runs"][0]["stages"].items())
    return f"- {row['data']}, {name_of(row)}, {row['window']:,}, {row['workers']} worker{'s' if row['workers'] > 1 else ''}: {stages}"
