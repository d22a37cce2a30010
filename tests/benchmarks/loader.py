"""How fast the training loader is by itself, and how long a training step waits for it.

    hyena-glt preprocess --input GENOME --output DATA tokenization.kind=char preprocessing.split.by=tail
    python tests/benchmarks/loader.py DATA [--workers 0 1 2 4 8] [--seconds 5] [--train] [--out DIR]

Each row is one loader of a single training worker: its processes, the objective, whether two datasets are mixed and rows are turned
and shifted; tokens per second over --seconds after its first batches. With --train, `hyena-glt pretrain` then runs the small size for
60 steps with the largest of --workers, and the median share of a step that it waited is read from its metrics. Rows go to
loader.{json,md} below --out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from page import own_command, write_report

from hyena_glt.config import config_from_dict
from pipelines.debug_data import open_batches, time_loader

RESULTS = Path(__file__).parent / "results"
TOKENS_PER_STEP = 131_072
SEQUENCE_LENGTH = 1024
CASES: dict[str, dict[str, Any]] = {
    "causal": {"tasks": {"causal_lm": {}}},
    "masked": {"tasks": {"masked_lm": {}}},
    "masked, two datasets, turned and shifted": {"tasks": {"masked_lm": {}}, "data": {"reverse_complement": 0.5, "max_shift": 64}},
}
Row = dict[str, Any]


def settings(data: str, case: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Settings of a run on `data`; the case with two datasets reads the same one twice, under another name in `folder`."""
    paths: list[str] | str = data
    if "data" in case:
        twin = folder / "twin"
        if not twin.exists():
            twin.symlink_to(Path(data).resolve())
        paths = [data, str(twin)]
    return {
        "data": {"train_path": paths, "sequence_length": SEQUENCE_LENGTH, **case.get("data", {})}, "tasks": case["tasks"],
        "model": {"max_position_embeddings": SEQUENCE_LENGTH},
        "training": {"batch_size": TOKENS_PER_STEP // SEQUENCE_LENGTH, "max_steps": 1},
    }


def loader_rows(data: str, workers: list[int], seconds: float, folder: Path) -> list[Row]:
    rows = []
    for name, case in CASES.items():
        for num_workers in workers:
            first = open_batches(config_from_dict(settings(data, case, folder)))
            found = time_loader(first, num_workers=num_workers, step_ms=None, seconds=seconds)
            rows.append({"case": name, "processes": num_workers, "tokens_per_s": round(found["tokens_per_s"])})
            print(json.dumps(rows[-1]), flush=True)
    return rows


def wait_row(data: str, num_workers: int, folder: Path) -> Row:
    """The small size for 60 steps: median tokens/s and share of a step waited, the first two log lines left out."""
    tree = settings(data, CASES["masked"], folder) | {
        "model": {"num_layers": 12, "hidden_size": 768, "num_attention_heads": 12, "mixers": ["se", "mr", "li"],
                  "max_position_embeddings": SEQUENCE_LENGTH},
        "hardware": {"compile_model": True, "num_workers": num_workers, "pin_memory": True},
        "cluster": {"train_workers": 1, "cpus_per_worker": 4, "max_failures": 0},
        "logging": {"log_interval": 4, "save_interval": 1000},
    }
    tree["training"] |= {"max_steps": 60, "output_dir": str(folder / "run")}
    (folder / "case.yaml").write_text(json.dumps(tree))
    subprocess.run([sys.executable, "-m", "hyena_glt.cli", "pretrain", str(folder / "case.yaml")], check=True)
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    train = [line for line in lines if line["kind"] == "train"][2:]
    return {
        "case": "masked, in a training step of the small size", "processes": num_workers,
        "tokens_per_s": round(statistics.median(line["tokens_per_s"] for line in train)),
        "wait_share": round(statistics.median(line["loader_wait_share"] for line in train), 5),
    }


def write(rows: list[Row], out: Path) -> None:
    machine = f"{os.cpu_count()} CPUs ({platform.machine()})"
    if torch.cuda.is_available():
        machine += f", {torch.cuda.get_device_name()}"
    head = {"machine": machine, "command": own_command(), "torch": torch.__version__}
    table = ["| case | processes | tokens/s | waited, share of a step |", "|---|---|---|---|"]
    table += [f"| {row['case']} | {row['processes']} | {row['tokens_per_s']:,} | {_percent(row.get('wait_share'))} |" for row in rows]
    where = f"{head['machine']}; torch {head['torch']}; `{head['command']}`"
    text = f"# The training loader\n\n{where}\n\nRows of {SEQUENCE_LENGTH:,} tokens.\n\n"
    write_report(out, "loader", head | {"rows": rows}, text + "\n".join(table))


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.2%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2, 4, 8])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="loader_") as name:
        rows = loader_rows(args.data, args.workers, args.seconds, Path(name))
        write(rows, args.out)
        if args.train:
            write([*rows, wait_row(args.data, max(args.workers), Path(name))], args.out)


if __name__ == "__main__":
    main()
