"""Kill a preprocessing run of half a minute at many moments, each time go on, and compare the bytes with those of an unbroken run.

    python tests/long/kill_preprocessing.py human/20.fa.gz --set tokenization.stride=48 output.chunk_size=4000

Moments lie evenly between the first shard and the manifest: by the number of shards that are recorded, which is a clock that does not
go by the load of the machine, and then up to the time of two shards later, where a seed puts it.
SIGKILL goes to every process of the command, Ray's included. What stands then must be damaged for `validate-data`, or whole and right;
the same command must then end with the bytes of the unbroken run. Ends with status 1 at the first that does not hold. One line a moment.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from hyena_glt.data.manifest import MANIFEST  # noqa: E402
from tests.interrupted_run import POLL_S, Command, assert_damaged_or_whole, contents, num_written  # noqa: E402

JOB = ["preprocess", "preprocessing.max_length=1024", "preprocessing.split.by=tail", "tokenization.kind=char", "cluster.num_cpus=2"]
LEAST_S = 30.0


class Unbroken(NamedTuple):
    """A run that nothing disturbs."""

    job_s: float
    """Without Ray's start."""
    writing_s: float
    """From the first shard to the manifest."""
    num_shards: int
    whole: dict[str, str]
    """What it leaves."""


def run_unbroken(given: list[str], folder: Path) -> Unbroken:
    """Time a run; what it left is removed."""
    output, command, shards = folder / "out", Command(given, folder), 1
    wait_for_shards(command, output, 1)
    started = time.monotonic()
    while command.process.poll() is None and not (output / MANIFEST).exists():
        shards = max(shards, num_written(output))
        time.sleep(POLL_S)
    writing_s = time.monotonic() - started
    job_s, whole = float(str(command.result()["seconds"])), contents(output)
    shutil.rmtree(output)
    return Unbroken(job_s, writing_s, shards, whole)


def wait_for_shards(command: Command, output: Path, shards: int) -> None:
    while command.process.poll() is None and num_written(output) < shards and not (output / MANIFEST).exists():
        time.sleep(POLL_S)


def kill_and_go_on(given: list[str], folder: Path, shards: int, later_s: float, whole: Mapping[str, str]) -> str:
    """Kill a run so many seconds after so many shards, look, go on to the end, look again; a sentence about it."""
    output, command = folder / "out", Command(given, folder)
    wait_for_shards(command, output, shards)
    at = time.monotonic() + later_s
    command.kill_when(lambda: time.monotonic() >= at)
    found, had_manifest = num_written(output), (output / MANIFEST).exists()
    damage = assert_damaged_or_whole(output, whole)
    started = time.monotonic()
    Command(given, folder).result()
    assert contents(output) == whole, "the run that went on gave other bytes"
    shutil.rmtree(output)
    state = f"{found} shards recorded, {'a' if had_manifest else 'no'} manifest, {'not valid' if damage else 'valid and right'}"
    return f"{state}; then whole in {time.monotonic() - started:.1f} s, the same bytes"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", nargs="+", help="FASTA files")
    parser.add_argument("--set", nargs="*", default=[], metavar="SETTING", help="more settings, such as output.format=hdf5")
    parser.add_argument("--moments", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", help="where a temporary folder is made")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="killed_", dir=args.work) as work:
        folder, inputs = Path(work), ", ".join(str(Path(path).absolute()) for path in args.input)
        given = [*JOB, f"preprocessing.input_path=[{inputs}]", f"output.path={folder}/out", *args.set]
        job_s, writing_s, num_shards, whole = run_unbroken(given, folder)
        print(f"unbroken: {job_s:.1f} s, {writing_s:.1f} from the first of {num_shards} shards to the manifest", flush=True)
        if job_s < LEAST_S:
            raise SystemExit(f"the job is too short for this machine, {job_s:.1f} s of {LEAST_S:.0f}: give more input or a smaller stride")
        draw = random.Random(args.seed)
        for number in range(args.moments):
            shards = 1 + round(number / max(1, args.moments - 1) * (num_shards - 1))
            later_s = draw.random() * 2 * writing_s / num_shards
            sentence = kill_and_go_on(given, folder, shards, later_s, whole)
            print(f"{number + 1:3} of {args.moments}, {later_s:.3f} s after {shards} of {num_shards} shards: {sentence}", flush=True)


if __name__ == "__main__":
    main()
