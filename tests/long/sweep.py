"""A sweep of many short real trials on two CPU cores, whose driver is killed once in the middle.

    python tests/long/sweep.py --trials 64

Each trial is a pretraining of its own on phage lambda, by Ray Train and DeepSpeed. SIGKILL goes to the driver once a third of the trials
have ended; the same command then goes on. Ends with status 1 unless every trial is in the result, none ran twice to its end, those that
had ended were not touched again, nothing failed, and ASHA left out at least half of the steps of a full grid.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from hyena_glt.training.metrics import METRICS_FILE, read_reports  # noqa: E402
from hyena_glt.training.trials import Trial, read_trials, run_folder  # noqa: E402
from tests.interrupted_run import Command  # noqa: E402
from tests.tiny_run import write_lambda_data  # noqa: E402

SPACE = """
settings:
  training.learning_rate: {loguniform: [1e-5, 3e-2]}
  training.weight_decay: {choice: [0.0, 0.1]}
  model.dropout: {uniform: [0.0, 0.2]}
num_trials: %d
scheduler: {kind: asha, grace_fraction: 0.037, reduction_factor: 3}
"""
SETTINGS = [
    "model.name=tiny", "model.hidden_size=16", "model.num_layers=2", "model.num_attention_heads=2", "model.max_position_embeddings=64",
    "model.mixers=[se,li]", "tasks.causal_lm.weight=1", "training.max_steps=81", "training.batch_size=4", "training.eval_max_rows=16",
    "logging.use_tensorboard=false", "logging.eval_interval=3", "logging.log_interval=3", "cluster.num_cpus=2", "cluster.train_workers=1",
]


def ended(sweep: Path) -> list[Trial]:
    return [trial for trial in read_trials(sweep) if trial.has_ended]


def kill_driver_when(command: Command, sweep: Path, number: int) -> dict[str, float]:
    """SIGKILL to the driver once so many trials have ended; when the files of those were last written."""
    while command.process.poll() is None and len(ended(sweep)) < number:
        time.sleep(0.5)
    assert command.process.poll() is None, f"the sweep ended before it could be killed: {command.said()}"
    os.kill(command.process.pid, signal.SIGKILL)
    command.process.wait()
    before = {trial.id: metrics(sweep, trial.id).stat().st_mtime for trial in ended(sweep)}
    command.kill()  # what of its Ray is still there
    return before


def metrics(sweep: Path, trial: str) -> Path:
    return run_folder(sweep, trial) / METRICS_FILE


def times_to_the_end(sweep: Path, trial: str) -> int:
    return sum(report["kind"] == "end" and report["reason"] == "finished" for report in read_reports(metrics(sweep, trial)))


def check(sweep: Path, result: dict, before: dict[str, float], number: int) -> None:
    table = pq.read_table(sweep / "sweep.parquet").to_pylist()
    assert len(table) == len({row["id"] for row in table}) == number, "a trial was lost"
    assert {row["status"] for row in table} <= {"finished", "stopped"}, Counter(row["status"] for row in table)
    ends = {row["id"]: times_to_the_end(sweep, row["id"]) for row in table}
    assert all(ends[row["id"]] == (row["status"] == "finished") for row in table), ends
    touched = [trial for trial, written in before.items() if metrics(sweep, trial).stat().st_mtime != written]
    assert not touched, f"trials that had ended were run again: {touched}"
    assert result["share_of_full_grid"] <= 0.5, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--work", help="where a temporary folder is made")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sweep_", dir=args.work) as work:
        folder = Path(work)
        sweep, data = folder / "sweep", write_lambda_data(folder / "data", {"kind": "char"}, max_length=64)
        (folder / "space.yaml").write_text(SPACE % args.trials)
        words = ["sweep", "--space", str(folder / "space.yaml"), "--output_dir", str(sweep), f"data.train_path={data}", *SETTINGS]
        print(f"{platform.machine()}, {os.cpu_count()} CPUs; {args.trials} trials", flush=True)
        began = time.monotonic()
        before = kill_driver_when(Command(words, folder), sweep, args.trials // 3)
        print(f"{time.monotonic() - began:.0f} s: driver killed with {len(before)} trials ended and "
              f"{sum(trial.status == 'running' for trial in read_trials(sweep))} running; the same command again", flush=True)
        result = Command(words, folder).result()
        print((folder / "stderr").read_text(), flush=True)
        print(json.dumps(result, indent=1), flush=True)
        check(sweep, result, before, args.trials)
        print(f"{time.monotonic() - began:.0f} s in all: no trial lost, none run twice to its end, "
              f"{result['share_of_full_grid']:.1%} of a full grid's steps", flush=True)


if __name__ == "__main__":
    main()
