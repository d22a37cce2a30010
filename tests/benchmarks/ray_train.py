"""Tokens per second of the same training loop under Ray Train and under torchrun, and how long it stands still for checkpoints.

    hyena-glt preprocess --input GENOME --output DATA preprocessing.max_length=32768 tokenization.kind=char \\
        preprocessing.split.by=tail
    python tests/benchmarks/ray_train.py DATA [--workers 1] [--steps 500] [--repeats 3] [section.key=value ...]

The small size (12 layers, 768 wide) on rows cut to 1,024 bases, AdamW, ZeRO-1, bf16, blocks compiled, a checkpoint every 100 steps;
everywhere the same settings, data and order. Both ways take turns, each in processes of its own. Rate and standstill run from the line
behind the first checkpoint, for which the host's memory is locked, to the last line, other checkpoints included. Rows go to
ray_train.{json,md} below --out, whose notes are kept.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from gpu_small import where  # noqa: E402
from page import own_command, write_report  # noqa: E402

from hyena_glt.training.orders import OWNER_FILE  # noqa: E402

RESULTS = Path(__file__).parent / "results"
LENGTH, ROWS = 1024, 64
OWNER = "benchmark"
"""Of the run folder, in place of a start's token."""
LIMIT_S = 400.0
Row = dict[str, Any]


def settings(data: Path, run: Path, args: argparse.Namespace) -> Row:
    """Of either way."""
    return {
        "model": {"name": "small", "hidden_size": 768, "num_layers": 12, "num_attention_heads": 12,
                  "mixers": ["se", "mr", "li", "attention"], "max_position_embeddings": LENGTH},
        "data": {"train_path": str(data), "sequence_length": LENGTH},
        "training": {"output_dir": str(run), "batch_size": ROWS, "max_steps": args.steps, "warmup_steps": 10, "eval_max_rows": 8},
        "tasks": {"causal_lm": {}},
        "hardware": {"compile_model": True, "zero_stage": 1, "num_workers": 2, "pin_memory": True},
        "cluster": {"train_workers": args.workers, "cpus_per_worker": 4, "max_failures": 0},
        "logging": {"log_interval": args.save_interval, "save_interval": args.save_interval, "eval_interval": args.steps,
                    "use_tensorboard": False, "keep_checkpoints": 1},
    }


def by_ray(config: Path, run: Path, args: argparse.Namespace) -> list[str]:
    """The user's command."""
    return [sys.executable, "-m", "hyena_glt.cli", "pretrain", str(config), *args.overrides]


def by_torchrun(config: Path, run: Path, args: argparse.Namespace) -> list[str]:
    """The same loop in processes of torch's launcher, on the folder that it expects."""
    (run / "checkpoints").mkdir(parents=True)
    (run / OWNER_FILE).write_text(OWNER)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={args.workers}"]
    return [*launcher, __file__, "--worker", str(config), *args.overrides]


RAY, TORCHRUN = "Ray Train", "torchrun"
WAYS = {RAY: by_ray, TORCHRUN: by_torchrun}


def work(config: str, overrides: list[str]) -> None:
    """One process of torchrun."""
    import torch
    import torch.distributed as dist

    from hyena_glt.config import load_config
    from hyena_glt.training.loop import train
    from hyena_glt.training.worker import Worker

    cfg = load_config(config, overrides)
    rank, world, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    device = torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    torch.set_num_threads(cfg.cluster.cpus_per_worker)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    train(cfg, Worker(rank, world, device, Path(str(cfg.training.output_dir)), OWNER))
    dist.destroy_process_group()


def measure(way: str, data: Path, folder: Path, args: argparse.Namespace) -> Row:
    """One run."""
    run, config = folder / "run", folder / "config.yaml"
    config.write_text(json.dumps(settings(data, run, args)))
    environment = {
        **os.environ, "OMP_NUM_THREADS": "4", "MKL_NUM_THREADS": "4", "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1",  # as Ray's workers have it
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    began = time.monotonic()
    with (args.out / f"ray_train_{way.split()[0].lower()}.log").open("w") as log:
        done = subprocess.run(WAYS[way](config, run, args), stdout=log, stderr=log, timeout=LIMIT_S, env=environment)
    if done.returncode:
        raise SystemExit(f"{way} failed; see {log.name}")
    row = {"way": way, "wall_s": round(time.monotonic() - began, 1)}
    return row | figures(run / "metrics.jsonl") | where(run / "environment.json")


def figures(metrics: Path) -> Row:
    """From the line behind the first checkpoint to the last: tokens/s, and the share of that time in which training stood still.

    A checkpoint comes behind the line of its own step, so the next line has its standstill.
    """
    reports = [json.loads(line) for line in metrics.read_text().splitlines()]
    lines = [report for report in reports if report["kind"] == "train"]
    start = next(report for report in reports if report["kind"] == "start")
    first, last = lines[1], lines[-1]
    seconds = last["elapsed_s"] - first["elapsed_s"]
    return {
        "device": start["device"], "parameters": start["parameters"], "tokens_per_s": (last["tokens"] - first["tokens"]) / seconds,
        "first_stalled_s": first["save_stalled_s"], "stalled_share": sum(line["save_stalled_s"] for line in lines[2:]) / seconds,
        "writing_s": statistics.median(report["writing_s"] for report in reports if report["kind"] == "save"),
        "last_loss": last["loss"],
    }


def write(report: Row, out: Path) -> None:
    """The rows as JSON and as a page."""
    rows = report["rows"]
    found = next((row for row in rows if "cpu" in row), {})
    versions = ", ".join(f"{name} {version}" for name, version in found.get("versions", {}).items())
    text = [
        "# Ray Train against torchrun, and the price of checkpoints\n",
        f"`{report['command']}`\non {rows[0].get('device')}, {found.get('cpu')}; {versions}.\n", str(__doc__).split("\n\n")[2], "",
        "| | tokens/s | stood still for the first checkpoint, s | for others | a checkpoint's writing, s | whole command, s |",
        "|---|---|---|---|---|---|",
    ]
    text += [
        f"| {row['way']} | {row['tokens_per_s']:,.0f} | {row['first_stalled_s']:.2f} | {row['stalled_share']:.2%} | "
        f"{row['writing_s']:.1f} | {row['wall_s']:.0f} |"
        for row in rows
    ]
    medians = {way: statistics.median(found) for way in WAYS if (found := [row["tokens_per_s"] for row in rows if row["way"] == way])}
    if len(medians) == len(WAYS):
        counts = " and ".join(str(sum(row["way"] == way for row in rows)) for way in WAYS)
        text += ["", f"Medians of {counts} runs: Ray Train has {medians[RAY] / medians[TORCHRUN]:.2%} of torchrun's tokens/s."]
    write_report(out, "ray_train", report, "\n".join(text))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("overrides", nargs="*", help="settings for every run, section.key=value")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--save-interval", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_intermixed_args()
    if args.worker:
        return work(args.data, args.overrides)
    args.out.mkdir(parents=True, exist_ok=True)
    report: Row = {"command": own_command(), "rows": []}
    for _ in range(args.repeats):
        for way in WAYS:
            with tempfile.TemporaryDirectory(prefix="ray_train_") as folder:
                report["rows"].append(measure(way, Path(args.data).resolve(), Path(folder), args))
            write(report, args.out)
            print(report["rows"][-1], flush=True)


if __name__ == "__main__":
    main()
