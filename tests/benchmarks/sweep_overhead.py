"""What a sweep adds to a pretraining: the wall time of a sweep of one trial over that of the same run by `pretrain`, on one running Ray.

    python tests/benchmarks/sweep_overhead.py --repeats 3

Pairs of both, one after the other; the median of their differences. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from hyena_glt.config import load_config  # noqa: E402
from pipelines._ray import start_ray  # noqa: E402
from pipelines.pretrain import pretrain  # noqa: E402
from pipelines.sweep import sweep  # noqa: E402
from tests.tiny_run import write_lambda_data  # noqa: E402

SPACE = "settings: {training.learning_rate: {choice: [3e-3]}}\nnum_trials: 1\n"
SETTINGS = [
    "model.name=tiny", "model.hidden_size=16", "model.num_layers=2", "model.num_attention_heads=2", "model.max_position_embeddings=64",
    "model.mixers=[se,li]", "tasks.causal_lm.weight=1", "training.max_steps=60", "training.batch_size=4", "training.eval_max_rows=16",
    "logging.use_tensorboard=false", "logging.eval_interval=20", "cluster.train_workers=1", "training.learning_rate=3e-3",
]


def seconds(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work, start_ray("local", 2):
        folder = Path(work)
        data = write_lambda_data(folder / "data", {"kind": "char"}, max_length=64)
        (folder / "space.yaml").write_text(SPACE)
        given = [*SETTINGS, f"data.train_path={data}"]
        pretrain(load_config(None, [*given, f"training.output_dir={folder}/first"]))  # Ray's own first start of a worker
        print(f"{platform.machine()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f} at the start", flush=True)
        more = []
        for number in range(args.repeats):
            plain = load_config(None, [*given, f"training.output_dir={folder}/plain{number}"])
            swept = load_config(None, [*given, f"tune.space={folder}/space.yaml", f"tune.output_dir={folder}/sweep{number}"])
            alone, with_tune = seconds(lambda cfg=plain: pretrain(cfg)), seconds(lambda cfg=swept: sweep(cfg))
            more.append(with_tune - alone)
            print(f"pretrain {alone:.1f} s, a sweep of one trial {with_tune:.1f} s: {more[-1]:.1f} s more", flush=True)
        print(f"median of {args.repeats}: {statistics.median(more):.1f} s more", flush=True)


if __name__ == "__main__":
    main()
