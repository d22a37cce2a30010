"""Tokens per second and peak memory of the small size on one GPU, through the real training loop, at four sequence lengths.

    hyena-glt preprocess --input GENOMES --output DATA preprocessing.max_length=131077 preprocessing.min_length=131077 \\
        tokenization.kmer_stride=1 preprocessing.split.val=0 preprocessing.split.test=0
    python tests/benchmarks/gpu_small.py DATA [--mixers se,mr,li attention] [--lengths 1024 ...] [section.key=value ...]

DATA has rows of the longest length, which shorter cases cut, and no validation split, so that nothing else is timed.
Each case is one `hyena-glt pretrain` in a process of its own (Ray Train, DeepSpeed ZeRO-1, blocks compiled), so that a case which
hangs or fails costs its time limit and no more. All cases have the same number of tokens in a step. Rows go to gpu_small.{json,md}
below --out after each case; the rate is the median of the run's log lines, the first ones, in which blocks are compiled, left out.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from page import own_command, write_report

RESULTS = Path(__file__).parent / "results"
LENGTHS = (1024, 8192, 32768, 131072)
TOKENS_PER_STEP = 131072
LOG_INTERVAL, LINES_TO_WARM_UP = 4, 2
Row = dict[str, Any]


def settings(data: Path, run: Path, mixers: list[str], length: int, *, steps: int, longest: int) -> Row:
    """The small size (12 layers, 768 wide) on next-token prediction, one step of `TOKENS_PER_STEP` tokens without accumulation."""
    return {
        "model": {"name": "small", "hidden_size": 768, "num_layers": 12, "num_attention_heads": 12, "mixers": mixers,
                  "max_position_embeddings": longest},
        "data": {"train_path": str(data), "sequence_length": length},
        "training": {"output_dir": str(run), "batch_size": TOKENS_PER_STEP // length, "max_steps": steps, "warmup_steps": 10},
        "tasks": {"causal_lm": {}},
        "hardware": {"precision": "auto", "compile_model": True, "zero_stage": 1, "num_workers": 2, "pin_memory": True},
        "cluster": {"train_workers": 1, "cpus_per_worker": 4, "max_failures": 0},
        "logging": {"log_interval": LOG_INTERVAL, "save_interval": steps},
    }


def run_case(data: Path, mixers: list[str], length: int, overrides: list[str], *, steps: int, limit_s: float, logs: Path) -> Row:
    """One row: the case, how it ended, and its figures if it got far enough."""
    name = f"{'-'.join(mixers)}_{length}"
    folder = Path(tempfile.mkdtemp(prefix="gpu_small_"))
    run = folder / "run"
    (folder / "case.yaml").write_text(json.dumps(settings(data, run, mixers, length, steps=steps, longest=max(LENGTHS))))
    command = [sys.executable, "-m", "hyena_glt.cli", "pretrain", str(folder / "case.yaml"), *overrides]
    started = time.monotonic()
    with (logs / f"{name}.log").open("w") as log:
        try:
            status = "ok" if subprocess.run(command, stdout=log, stderr=log, timeout=limit_s).returncode == 0 else "failed"
        except subprocess.TimeoutExpired:
            status = f"stopped after {limit_s:.0f} s"
    row = {"mixers": " ".join(mixers), "length": length, "status": status, "wall_s": round(time.monotonic() - started, 1)}
    row |= figures(run / "metrics.jsonl") | where(run / "environment.json")
    shutil.rmtree(folder)
    return row


def where(environment: Path) -> Row:
    """Machine, versions and data of a run."""
    if not environment.exists():
        return {}
    found = json.loads(environment.read_text())
    return {"cpu": found["cpu"], "versions": {"python": found["python"], **found["versions"]}, "data": [i["path"] for i in found["inputs"]]}


def figures(metrics: Path) -> Row:
    """Medians over the run's train lines, and what its start line says."""
    reports = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []
    start = next((r for r in reports if r["kind"] == "start"), {})
    lines = [r for r in reports if r["kind"] == "train"]
    measured = lines[LINES_TO_WARM_UP:]
    row = {key: start[key] for key in ("device", "precision", "parameters", "accumulation_steps", "global_rows") if key in start}
    if not measured:
        return row
    rates = [r["tokens_per_s"] for r in measured]
    peaks = [r["gpu_memory_gb"] for r in measured if "gpu_memory_gb" in r]
    return row | {
        "tokens_per_s": round(statistics.median(rates)), "slowest": round(min(rates)), "fastest": round(max(rates)),
        "lines": len(rates), "steps": lines[-1]["step"], "seconds_to_first_line": round(lines[0]["elapsed_s"], 1),
        "peak_memory_gb": round(peaks[-1], 2) if peaks else None, "mfu": lines[-1].get("mfu"),
        "first_loss": lines[0]["loss"], "last_loss": lines[-1]["loss"],
    }


def write(report: Row, out: Path) -> None:
    """The report as JSON, and as a table of mixers by length."""
    rows = report["rows"]
    first = next((row for row in rows if "device" in row and "cpu" in row), {})
    text = [
        "# The small size on one GPU\n",
        f"`{report['command']}`\non one {first.get('device', 'device')}, {first.get('cpu')};",
        f"{', '.join(f'{name} {version}' for name, version in first.get('versions', {}).items())}.\n",
        f"12 layers, 768 wide, 6-mers (4,104 rows), AdamW, {first.get('precision')}, ZeRO-1 on one worker of Ray Train, blocks compiled, "
        f"next-token loss\non overlapping 6-mers of {', '.join(first.get('data', []))};\n{TOKENS_PER_STEP:,} tokens a step in one "
        f"micro-batch; medians of log lines of {LOG_INTERVAL} steps, the first {LINES_TO_WARM_UP} lines left out.\n",
        "| mixers | length | tokens/s | slowest to fastest | lines | peak GB | MFU (6N) | steps | loss, first to last line | status |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    write_report(out, "gpu_small", report, "\n".join([*text, *map(_table_row, rows)]))


def _table_row(row: Row) -> str:
    if "tokens_per_s" not in row:
        return f"| {row['mixers']} | {row['length']:,} | - | - | - | - | - | - | - | {row['status']} |"
    mfu = f"{row['mfu']:.1%}" if row["mfu"] else "-"
    return (f"| {row['mixers']} | {row['length']:,} | {row['tokens_per_s']:,} | {row['slowest']:,} to {row['fastest']:,} "
            f"| {row['lines']} | {row['peak_memory_gb'] or '-'} | {mfu} | {row['steps']} "
            f"| {row['first_loss']:.3f} to {row['last_loss']:.3f} | {row['status']} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("overrides", nargs="*", help="settings for every case, section.key=value")
    parser.add_argument("--mixers", nargs="+", default=["se,mr,li", "attention"])
    parser.add_argument("--lengths", nargs="+", type=int, default=list(LENGTHS))
    parser.add_argument("--steps", nargs="+", type=int, default=[60], help="steps of a case, one number or one for each length")
    parser.add_argument("--case-limit-s", type=float, default=200.0)
    parser.add_argument("--total-limit-s", type=float, default=3600.0, help="cases that would start later are left out")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_intermixed_args()
    args.out.mkdir(parents=True, exist_ok=True)
    report: Row = {"command": own_command(), "tokens_per_step": TOKENS_PER_STEP, "rows": []}
    steps = dict(zip(args.lengths, args.steps * (len(args.lengths) if len(args.steps) == 1 else 1), strict=True))
    started = time.monotonic()
    for mixers in args.mixers:
        for length in args.lengths:
            limit_s = min(args.case_limit_s, args.total_limit_s - (time.monotonic() - started))
            if limit_s <= 0:
                continue
            row = run_case(args.data, mixers.split(","), length, args.overrides, steps=steps[length], limit_s=limit_s, logs=args.out)
            report["rows"].append(row)
            write(report, args.out)
            print(_table_row(row), f"{row['wall_s']} s", flush=True)


if __name__ == "__main__":
    main()
