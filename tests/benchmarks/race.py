"""Held-out bits per base of a human chromosome after the same training time: ours, HyenaDNA's published code, a rotary Transformer.

    hyena-glt preprocess --input chr20.fa.gz --output DATA preprocessing.max_length=32768 tokenization.kind=char \\
        preprocessing.split.by=tail preprocessing.split.val=0.1 preprocessing.split.test=0
    python tests/benchmarks/race.py DATA --hyenadna hyena-dna/standalone_hyenadna.py [--seconds 480] [--run "ours dropout=0.1" ...]

Each contestant trains for --seconds on one device, all on the same rows in the same order with the same augmentation, in bf16 and
compiled. The time runs from its first step; compiling (each length and dropout, training and evaluating) comes before it, evaluations
are left out.
Each scores the same held-out bases, in pieces as long as it was last trained on. A contestant is a process of its own, one a GPU at a
time, as many at once as there are GPUs. `markov` counts on the CPU. Rows go to NAME.{json,md} below --out after each evaluation.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from page import own_command
from race_loop import Setup, run
from race_markov import markov_row
from race_recipes import CONTESTANTS, contestant
from race_report import write

RESULTS = Path(__file__).parent / "results"
EVALUATE_AT = (0.25, 0.5, 0.75, 1.0)
Row = dict[str, Any]


def race(args: argparse.Namespace) -> None:
    """All contestants, and the report as it grows."""
    args.out.mkdir(parents=True, exist_ok=True)
    devices = [f"cuda:{n}" for n in range(torch.cuda.device_count())] or ["cpu"]
    with tempfile.TemporaryDirectory() as folder:
        files = {words: Path(folder) / f"{number}.json" for number, words in enumerate(args.run)}
        waiting, running = list(args.run), {}
        while waiting or running:
            while waiting and len(running) < len(devices):
                device = next(d for d in devices if d not in running)
                words = waiting.pop(0)
                running[device] = start(args, words, device, files[words])
            time.sleep(1.0)
            running = {device: process for device, process in running.items() if process.poll() is None}
            write(report(args, list(files.values())), args.out, args.name)
        if args.markov:  # last, because it takes minutes of a CPU that feeds the others
            files["markov"] = Path(folder) / "markov.json"
            files["markov"].write_text(json.dumps(markov_row(args.data, args.markov)))
        write(report(args, list(files.values())), args.out, args.name)


def start(args: argparse.Namespace, words: str, device: str, row: Path) -> subprocess.Popen[bytes]:
    """This script for one contestant; its output goes to a log below --out."""
    log = args.out / f"{args.name}_{row.stem}.log"
    command = [sys.executable, *sys.argv, "--one", words, "--device", device, "--row", str(row)]
    with log.open("wb") as stream:
        return subprocess.Popen(command, stdout=stream, stderr=stream)


def one(args: argparse.Namespace) -> None:
    """A single contestant, its row kept in --row."""
    label, recipe = contestant(args.one)
    if args.device.startswith("cuda"):
        torch.cuda.set_device(args.device)
    setup = Setup(
        data=args.data, budget_s=args.seconds, evaluate_at=tuple(args.evaluate_at), eval_rows=args.eval_rows, seed=args.seed,
        reverse_complement=args.reverse_complement, max_shift=args.max_shift, loader_workers=args.loader_workers,
        hyenadna=args.hyenadna, device=args.device,
    )

    def save(row: Row) -> None:
        partial = args.row.with_suffix(".partial")
        partial.write_text(json.dumps(row))
        partial.rename(args.row)
        last = row["evaluations"][-1]
        print(f"{label}: {last['seconds']} s, {last['bits_per_base']:.4f} bits per base, {row['tokens_per_s']:,} tokens/s", flush=True)

    run(label, recipe, setup, save)


def report(args: argparse.Namespace, rows: list[Path]) -> Row:
    """The rows there are so far, and what they were measured on."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "cpu"
    return {
        "command": own_command(),
        "machine": f"{torch.cuda.device_count()} x {device}, {os.cpu_count()} CPUs",
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": version("numpy")},
        "seconds": args.seconds, "reverse_complement": args.reverse_complement, "max_shift": args.max_shift, "eval_rows": args.eval_rows,
        "rows": [json.loads(path.read_text()) for path in rows if path.exists()],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--hyenadna", type=Path, help="standalone_hyenadna.py of HazyResearch/hyena-dna")
    parser.add_argument("--run", nargs="*", default=list(CONTESTANTS), metavar="NAME [as=LABEL] [setting=value ...]",
                        help=f"contestants: {', '.join(CONTESTANTS)}, each with settings changed")
    parser.add_argument("--seconds", type=float, default=480.0, help="training time of each contestant")
    parser.add_argument("--evaluate-at", nargs="+", type=float, default=list(EVALUATE_AT), help="shares of the time")
    parser.add_argument("--eval-rows", type=int, help="held-out rows that are scored, from the first; default: all")
    parser.add_argument("--markov", type=int, default=0, metavar="ORDER", help="also count Markov models up to this order")
    parser.add_argument("--reverse-complement", type=float, default=0.5)
    parser.add_argument("--max-shift", type=int, default=8192)
    parser.add_argument("--loader-workers", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="race")
    parser.add_argument("--out", type=Path, default=RESULTS)
    for hidden in ("--one", "--device"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--row", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    one(args) if args.one else race(args)


if __name__ == "__main__":
    main()
