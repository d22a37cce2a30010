"""The tables of `scale`: its rows in, scale.json and scale.md out. The notes of the page are kept."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from page import write_report

Row = dict[str, Any]


def write(report: Row, out: Path) -> None:
    """The report as JSON and as tables."""
    text = [*_head(report), *_plan(report), *(_actors(report) if "actors" in report else []), *_commit(report), *_decode(report)]
    write_report(out, "scale", report, "\n".join(text))


def _head(report: Row) -> list[str]:
    return [
        "# Many shards, many workers\n",
        f"{report['machine']}, load {report['load']:.1f} at the start; Python {report['python']}, pyarrow {report['pyarrow']}; "
        f"`{report['command']}`\n",
        "Synthetic data sets: manifest and index are real, the shards are not there. Rows of 1,024 bases, 2^20 tokens a row group. "
        "Growth is the factor for ten times as many.\n",
    ]


def _plan(report: Row) -> list[str]:
    """What planning takes by number of shards, and how it grows."""
    large = report["large"]
    names = {
        "write_s": "write manifest and index, s", "shards.parquet_mb": "index, MB", "plan_s": "plan, s", "above": "memory for it, MB",
        "peak_mb": "peak of the process, MB",
    }
    rows = [row | {"above": row["peak_mb"] - row["import_mb"]} for row in (*report["plan"], large)]
    text = [
        "## Planning\n",
        "A process of its own: what `hyena-glt pretrain` does between its imports, which take "
        f"{large['import_s']:.1f} s and {large['import_mb']:.0f} MB, and the start of Ray's workers. The last row is 10 TB of tokens.\n",
        "| shards | row groups | tokens | " + " | ".join(names.values()) + " |", "|" + "---|" * (3 + len(names)),
    ]
    text += [
        f"| {row['shards']:,} | {row['row_groups']:,} | {row['tokens']:.2g} | " + " | ".join(_number(row[name]) for name in names) + " |"
        for row in rows
    ]
    growth = [_growth(rows[:-1], "shards", name) for name in names]
    return [*text, "| growth per tenfold | | | " + " | ".join(growth) + " |", ""]


def _actors(report: Row) -> list[str]:
    row = report["actors"]
    tokens = row["rows"] * 1024
    return [
        "## Workers\n",
        f"{row['actors']} Ray actors on this machine, together {row['ranks']:,} ranks, on the 10 TB of tokens. CPU seconds are those of "
        "one actor, wall seconds of all of them here.\n",
        "| | |", "|---|---|",
        f"| all actors started and imported, wall | {row['start_s']:.1f} s |",
        f"| imports of one, CPU | {row['import_cpu_s']:.2f} s |",
        f"| opening the data set and planning by one, CPU | {row['open_cpu_s']:.2f} s |",
        f"| the rows of {row['steps']:,} steps by one rank, CPU | {row['rank_cpu_s']:.2f} s |",
        f"| the same by the first rank of a process, which also orders the epoch, CPU | {row['first_rank_cpu_s']:.2f} s |",
        f"| both by all actors and ranks, a few actors at a time, wall | {row['read_s']:.1f} s |",
        f"| memory that an actor does not share: after its imports, with the data set and its order | "
        f"{row['import_mb']:.0f} MB, {row['own_mb']:.0f} MB |",
        f"| a call of all actors and back, as a driver polls them | {1000 * row['round_s']:.0f} ms |",
        f"| row groups that a rank opens in {row['steps']:,} steps, for {row['rows']:,.0f} rows | {row['groups_opened']:,.0f} |",
        f"| tokens read for each that is trained on | {row['groups_opened'] * 2**20 / tokens:,.0f} |",
        "",
    ]


def _commit(report: Row) -> list[str]:
    names = {"commit_s": "list and commit, s", "find_s": "find the newest whole one of three, s", "prune_s": "delete two, s"}
    text = [
        "## Committing a checkpoint\n",
        "On a local disk, when all ranks have written; files of 1,000 bytes, one a rank.\n",
        "| rank files | " + " | ".join(names.values()) + " |", "|" + "---|" * (1 + len(names)),
    ]
    text += [f"| {row['rank_files']:,} | " + " | ".join(_number(row[name]) for name in names) + " |" for row in report["commit"]]
    growth = [_growth(report["commit"], "rank_files", name) for name in names]
    return [*text, "| growth per tenfold | " + " | ".join(growth) + " |", ""]


def _decode(report: Row) -> list[str]:
    row = report["decode"]
    return [
        "## Reading\n",
        f"One process reads and unpacks a row group of 2^20 bases ({row['group_bytes'] / 1e6:.2f} MB) in {1000 * row['group_s']:.1f} ms: "
        f"{row['tokens_per_s'] / 1e6:,.0f} million tokens a second.\n",
    ]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _growth(rows: list[Row], size: str, name: str) -> str:
    """Between the two largest sizes, as for tenfold."""
    if len(rows) < 2:
        return ""
    before, after = rows[-2:]
    return f"{(after[name] / before[name]) ** (1 / math.log10(after[size] / before[size])):.1f}"
