"""The race's tables: the rows of `race` in, NAME.json and NAME.md out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from page import write_report
from race_recipes import Recipe

Row = dict[str, Any]


def write(report: Row, out: Path, name: str) -> None:
    """The report as JSON, and as tables of results, of bits per base over time, and of settings."""
    rows = [row for row in report["rows"] if "evaluations" in row]
    text = [*_head(report), *_results(report, rows), *_curves(rows), *_settings(rows)]
    write_report(out, name, report, "\n".join(text))


def _head(report: Row) -> list[str]:
    held = "all held-out rows" if report["eval_rows"] is None else f"the first {report['eval_rows']} held-out rows"
    return [
        f"# Bits per base after {report['seconds']:g} s of training on human chr20\n",
        f"`{report['command']}`",
        f"on {report['machine']}; {', '.join(f'{name} {number}' for name, number in report['versions'].items())}.\n",
        "One GPU for each; the same rows in the same order for all, from the other strand with probability "
        f"{report['reverse_complement']}, shifted by up to\n{report['max_shift']:,} bases. The time is that of training steps; compiling "
        f"before and evaluating between are left out. Scored: {held}.\n",
    ]


def _results(report: Row, rows: list[Row]) -> list[str]:
    text = ["| | bits per base | parameters | tokens/s | tokens seen, M | steps | peak GB | training, s | before it, s |", "|" + "---|" * 9]
    for row in rows:
        last = row["evaluations"][-1]
        finished = "" if last["share"] == 1.0 else f" at {last['share']:.0%}"
        text.append(
            f"| {row['label']} | {last['bits_per_base']:.4f}{finished} | {row['parameters']:,} | {row['tokens_per_s']:,} "
            f"| {row['tokens'] / 1e6:,.0f} | {row['steps']:,} | {row['peak_memory_gb']} | {row['train_s']} | {row['warmup_s']} |")
    for row in report["rows"]:
        if "markov" in row:
            bits = row["markov"]
            best = min(bits, key=lambda order: bits[order])
            text.append(f"| Markov, order {best}, the best of 0 to {max(map(int, bits))} | {bits[best]:.4f} |" + " |" * 7)
    return [*text, ""]


def _curves(rows: list[Row]) -> list[str]:
    """Held-out and training bits per base at each evaluation."""
    text = _header("held out (training rows since the last figure)", rows)
    for share in sorted({e["share"] for row in rows for e in row["evaluations"]}):
        found = [next((e for e in row["evaluations"] if e["share"] == share), None) for row in rows]
        text.append(f"| {share:.1%} of the time | " + " | ".join(
            f"{e['bits_per_base']:.4f} ({e['train_bits_per_base']:.4f}) at {e['length']:,}" if e else "-" for e in found) + " |")
    return [*text, ""]


def _settings(rows: list[Row]) -> list[str]:
    """The settings in which the contestants differ, then those that they share."""
    names = list(Recipe.__dataclass_fields__)
    shared = {n for n in names if len({json.dumps(row["recipe"][n]) for row in rows}) == 1}
    text = _header("setting", rows)
    for name in names:
        values = [_shown(row["recipe"][name]) for row in rows]
        if name not in shared:
            text.append(f"| {name} | " + " | ".join(values) + " |")
    return [*text, "", "Alike: " + ", ".join(f"{n} {_shown(rows[0]['recipe'][n])}" for n in names if n in shared) + "." if rows else ""]


def _header(first: str, rows: list[Row]) -> list[str]:
    """A table with a column for each contestant."""
    return [f"| {first} | " + " | ".join(row["label"] for row in rows) + " |", "|" + "---|" * (1 + len(rows))]


def _shown(value: Any) -> str:
    """A setting as a table shows it."""
    if isinstance(value, list):
        return ", ".join(f"{v[1]:,.10g} from {v[0]:.0%}" if isinstance(v, list) else str(v) for v in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
