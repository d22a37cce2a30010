"""From `hyena-glt submit` to the first optimizer step on a warm cluster, and where the time goes.

    python tests/benchmarks/submit.py [--repeats 3]

A real head with its job server on this machine; the first submission warms it up and is not counted. Moments are read from outside, by
what appears: a line in the job's log when its driver's process is started; in the run folder `environment.json` when the driver has
planned the run, `.owner` when it asks Ray Train for the workers, `metrics.jsonl` when the engine is built, its first line of training when
the first step is done. Rows go to submit.{json,md} below --out, whose notes are kept.
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
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from page import cpu_name, own_command, write_report  # noqa: E402

from hyena_glt.training.metrics import METRICS_FILE  # noqa: E402
from hyena_glt.training.orders import OWNER_FILE  # noqa: E402
from tests.cluster.head import Head, finish, running_head  # noqa: E402
from tests.tiny_run import write_lambda_data  # noqa: E402
from tests.waiting import wait_until  # noqa: E402

RESULTS = Path(__file__).parent / "results"
SETTINGS = [
    "model.hidden_size=16", "model.num_layers=2", "model.mixers=[se,li]", "model.max_position_embeddings=64", "tasks.causal_lm.weight=1",
    "training.max_steps=3", "training.batch_size=4", "training.eval_max_rows=8", "logging.log_interval=1", "logging.use_tensorboard=false",
]
PARTS = {
    "sent": "client: Python, Ray's client, settings checked, code packed and sent",
    "started": "Ray's job server: a supervisor and the driver's process",
    "planned": "driver: Python, Ray, torch; data opened, run planned",
    "asked": "driver: room for the workers awaited",
    "built": "Ray Train: controller and workers; there torch and DeepSpeed imported, model and engine built",
    "stepped": "first step",
}
"""What the time before each moment went to."""
Row = dict[str, Any]


def submission(head: Head, data: Path, name: str) -> Row:
    """Seconds of each part."""
    run, began, last = head.storage / "runs" / name, time.monotonic(), 0.0
    words = ["pretrain", *SETTINGS, f"data.train_path={data}", f"training.output_dir={run}"]
    job = head.start("submit", name, "--address", head.dashboard, "--", *words)
    assert job.stderr
    while "follows it" not in job.stderr.readline():
        assert job.poll() is None
    parts, metrics, log = {}, run / METRICS_FILE, head.session / "logs" / f"job-driver-{name}.log"
    moments: dict[str, Callable[[], bool]] = {
        "sent": lambda: True, "started": lambda: "Running entrypoint" in log.read_text(),
        "planned": (run / "environment.json").exists, "asked": (run / OWNER_FILE).exists, "built": metrics.exists,
        "stepped": lambda: '"train"' in metrics.read_text(),
    }
    for part, has_come in moments.items():
        wait_until(has_come, process=job)
        now = time.monotonic() - began
        parts[part], last = now - last, now
    assert finish(job)[0] == 0
    return parts | {"whole": last}


def write(report: Row, out: Path) -> None:
    """The rows as JSON and as a page."""
    rows = report["rows"]
    text = [
        "# From submission to the first step\n", f"`{report['command']}`\non {report['machine']}; python {platform.python_version()}, "
        f"torch {version('torch')}, ray {version('ray')}, deepspeed {version('deepspeed')}; load average before: {report['load']:.1f}.\n",
        "\n".join(str(__doc__).splitlines()[4:]).strip(), "", "| part | median, s | each |", "|---|---|---|",
    ]
    for name, part in (PARTS | {"whole": "altogether"}).items():
        seconds = [row[name] for row in rows]
        text.append(f"| {part} | {statistics.median(seconds):.1f} | {', '.join(f'{one:.1f}' for one in seconds)} |")
    write_report(out, "submit", report, "\n".join(text))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    command, load = own_command(), os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="head") as folder:
        data = write_lambda_data(Path(folder) / "data", {"kind": "char"}, max_length=64)
        with running_head(Path(folder)) as head:
            rows = [submission(head, data, f"run{number}") for number in range(args.repeats + 1)][1:]
    write({"command": command, "machine": cpu_name(), "load": load, "rows": rows}, args.out)


if __name__ == "__main__":
    main()
