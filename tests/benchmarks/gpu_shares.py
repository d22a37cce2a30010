"""Whether trials that a sweep stops give their share of a GPU back.

    python tests/benchmarks/gpu_shares.py DATA [--trials 16] [--out DIR]

ASHA stops most trials early, four at a time have room on the one GPU, so a later one begins only in the place of an earlier one. Ray's
free share of the GPU and the memory in use on it are read every half second, from before the sweep until after it. The result goes to
gpu_shares.{json,md} below --out.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from equal_time import STUDY
from page import own_command, write_report

from hyena_glt.config import load_config
from hyena_glt.evaluation.sweep_folder import read_sweep
from pipelines._ray import start_ray
from pipelines.sweep import sweep

RESULTS = Path(__file__).parent / "results"
AT_ONCE = 4
SPACE = {
    "settings": {"training.learning_rate": {"loguniform": [1e-4, 3e-2]}}, "search": "random",
    "scheduler": {"kind": "asha", "grace_fraction": 0.25, "reduction_factor": 2},
}
SMALL = [
    "model.hidden_size=128", "model.num_layers=4", "data.sequence_length=1024", "training.batch_size=64", "training.max_steps=120",
    "curriculum=null", "logging.eval_interval=15", "hardware.compile_model=false", f"cluster.gpus_per_worker={1 / AT_ONCE}",
]
SETTLED_S = 15.0
"""After which a trial that has ended holds nothing."""


@contextmanager
def watched() -> Iterator[list[dict[str, float]]]:
    """Readings of every half second, the first before the block and the last behind it."""
    rows, ended = list[dict[str, float]](), threading.Event()

    def read() -> None:
        while not ended.wait(0.5):
            rows.append(reading())

    with ThreadPoolExecutor(1) as pool:
        rows.append(reading())
        reader = pool.submit(read)
        try:
            yield rows
        finally:
            ended.set()
        reader.result()
        rows.append(reading())


def reading() -> dict[str, float]:
    """Now; this process's own context on the GPU is in use throughout."""
    import ray  # not before `pipelines`, which asks for the token that Ray reads then

    free, total = torch.cuda.mem_get_info()
    return {"at": time.monotonic(), "free_share": ray.available_resources().get("GPU", 0.0), "used_mib": (total - free) / 2**20}


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The sweep's trials, and the readings."""
    import ray

    (folder / "space.yaml").write_text(yaml.safe_dump(SPACE | {"num_trials": args.trials}))
    own = [f"data.train_path={args.data.resolve()}", f"tune.space={folder / 'space.yaml'}", f"tune.output_dir={folder / 'sweep'}"]
    with start_ray("local", None):
        with watched() as readings:
            sweep(load_config(STUDY / "study.yaml", [*SMALL, *own]))
            time.sleep(SETTLED_S)
        groups = Counter(group["state"] for group in ray.util.placement_group_table().values())
    trials = [{"id": row.id, "status": row.status, "step": row.step} for row in read_sweep(folder / "sweep").rows]
    return {
        "command": own_command(), "device": torch.cuda.get_device_name(),
        "placement_groups": dict(groups), "trials": trials, "readings": readings,
    }


def markdown(report: dict[str, Any]) -> str:
    before, *during, after = report["readings"]
    trials = Counter(trial["status"] for trial in report["trials"])
    groups = ", ".join(f"{number} {state}" for state, number in report["placement_groups"].items())
    about = str(__doc__).split("\n\n")[2].strip()
    return "\n".join([
        "# Shares of a GPU that stopped trials give back\n", f"`{report['command']}` on {report['device']}.\n", about, "",
        "| | |", "|---|---|", f"| trials | {', '.join(f'{number} {status}' for status, number in trials.items())} |",
        f"| placement groups that Ray remembers after the sweep | {groups} |",
        f"| free share of the GPU: before, least, {SETTLED_S:.0f} s after | {before['free_share']:g}, "
        f"{min(row['free_share'] for row in during):g}, {after['free_share']:g} |",
        f"| memory in use, MiB: before, most, {SETTLED_S:.0f} s after | {before['used_mib']:,.0f}, "
        f"{max(row['used_mib'] for row in during):,.0f}, {after['used_mib']:,.0f} |",
        f"| seconds, those {SETTLED_S:.0f} included | {after['at'] - before['at']:.0f} |",
    ])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gpu_shares_") as folder:
        report = measure(args, Path(folder))
    write_report(args.out, "gpu_shares", report, markdown(report))


if __name__ == "__main__":
    main()
