"""A checkpoint of every ZeRO stage goes on with other numbers of GPUs: how far losses and weights are from those of the undisturbed run.

    hyena-glt preprocess --input GENOME --output DATA preprocessing.max_length=32768 tokenization.kind=char \\
        preprocessing.split.by=tail
    python tests/benchmarks/gpu_worlds.py DATA [--before 2] [--after 1 4] [--steps 40]

6 layers, 256 wide, float32 without TF32, next-token prediction on rows cut to 1,024 bases, 48 rows a step, AdamW; through `pretrain` on Ray
Train with NCCL. The undisturbed run has --before workers; each other one begins with its checkpoint of half the steps. GPUs add in an order
that is not fixed, so "again" shows how far the same command with the same workers comes from itself. Rows go to gpu_worlds.{json,md}
below --out, whose notes are kept.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import ray  # noqa: E402
from gpu_small import where  # noqa: E402
from page import own_command, write_report  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from hyena_glt.config import config_from_dict  # noqa: E402
from hyena_glt.training.checkpoint import CHECKPOINTS, CONFIG_FILE, LATEST, WEIGHTS_FILE, resolve_checkpoint, step_name  # noqa: E402
from hyena_glt.training.metrics import METRICS_FILE, read_reports  # noqa: E402
from pipelines.pretrain import pretrain  # noqa: E402

RESULTS = Path(__file__).parent / "results"
GLOBAL_ROWS = 48
Row = dict[str, Any]


def settings(data: Path, run: Path, stage: int, workers: int, steps: int) -> Row:
    """Of one run."""
    return {
        "model": {"name": "worlds", "hidden_size": 256, "num_layers": 6, "num_attention_heads": 4, "dropout": 0.0,
                  "mixers": ["se", "mr", "li", "attention", "hyena"], "max_position_embeddings": 1024},
        "data": {"train_path": str(data), "val_path": str(data), "sequence_length": 1024},
        "training": {"output_dir": str(run), "batch_size": 4, "gradient_accumulation_steps": GLOBAL_ROWS // workers // 4,
                     "max_steps": steps, "warmup_steps": 5, "learning_rate": 1e-3, "eval_max_rows": 48},
        "tasks": {"causal_lm": {}},
        "hardware": {"precision": "fp32", "zero_stage": stage},
        "cluster": {"train_workers": workers, "cpus_per_worker": 2, "max_failures": 0},
        "logging": {"log_interval": 1, "eval_interval": steps // 2, "save_interval": steps // 2, "use_tensorboard": False},
    }


def train(data: Path, run: Path, stage: int, workers: int, args: argparse.Namespace) -> dict[int, float]:
    """Loss of each step."""
    pretrain(config_from_dict(settings(data, run, stage, workers, args.steps)))
    return {report["step"]: report["loss"] for report in read_reports(run / METRICS_FILE) if report["kind"] == "train"}


def distance(run: Path, other: Path) -> float:
    """The largest difference between two weights of the last checkpoints."""
    one, two = (load_file(resolve_checkpoint(each / CHECKPOINTS / LATEST) / WEIGHTS_FILE) for each in (run, other))
    return max(float((one[name] - two[name]).abs().max()) for name in one)


def measure(data: Path, folder: Path, stage: int, args: argparse.Namespace) -> list[Row]:
    """One undisturbed run, and those that go on from its middle."""
    whole = folder / f"whole_{stage}"
    wanted, half = train(data, whole, stage, args.before, args), args.steps // 2
    rows = []
    for workers in (args.before, *args.after):
        run = folder / f"{stage}_{workers}"
        shutil.copytree(whole / CHECKPOINTS / step_name(half), run / CHECKPOINTS / step_name(half))
        shutil.copy(whole / CONFIG_FILE, run)
        found = train(data, run, stage, workers, args)
        if sorted(found) != list(range(half + 1, args.steps + 1)):
            raise SystemExit(f"ZeRO {stage}, {workers} workers: logged the steps {sorted(found)}")
        rows.append({
            "stage": stage, "before": args.before, "after": workers, "learned": wanted[1] - wanted[args.steps],
            "loss": max(abs(found[step] - wanted[step]) for step in found), "weight": distance(run, whole),
            **where(run / "environment.json"), "device": next(iter(read_reports(run / METRICS_FILE)))["device"],
        })
        print(rows[-1], flush=True)
    return rows


def write(report: Row, out: Path) -> None:
    """The rows as JSON and as a page."""
    rows = report["rows"]
    versions = ", ".join(f"{name} {version}" for name, version in rows[0]["versions"].items())
    text = [
        "# Checkpoints on another number of GPUs\n",
        f"`{report['command']}`\non {rows[0]['device']}, {rows[0]['cpu']}; {versions}.\n", str(__doc__).split("\n\n")[2], "",
        "| ZeRO stage | GPUs | largest difference of a step's loss, nats | of a weight | loss learned, nats |", "|---|---|---|---|---|",
    ]
    for row in rows:
        gpus = f"{row['before']}, again" if row["after"] == row["before"] else f"{row['before']} to {row['after']}"
        text.append(f"| {row['stage']} | {gpus} | {row['loss']:.1e} | {row['weight']:.1e} | {row['learned']:.2f} |")
    write_report(out, "gpu_worlds", report, "\n".join(text))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--before", type=int, default=2)
    parser.add_argument("--after", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--stages", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--cpus", type=int, help="of the local Ray")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    ray.init(num_cpus=args.cpus, include_dashboard=False, log_to_driver=False)
    report: Row = {"command": own_command(), "rows": []}
    with tempfile.TemporaryDirectory(prefix="gpu_worlds_") as folder:
        for stage in args.stages:
            report["rows"] += measure(args.data.resolve(), Path(folder), stage, args)
            write(report, args.out)


if __name__ == "__main__":
    main()
