"""Kill a preprocessing run of half a minute at many moments, each time go on, and compare the bytes with those of an unbroken run.

    python tests/long/kill_preprocessing.py data/genomes/ecoli_K12_MG1655.fa.gz --moments 20

Moments lie evenly between the first shard and the manifest: one in each of as many equal parts of that time, where a seed puts it.
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

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from hyena_glt.data.manifest import MANIFEST  # noqa: E402
from tests.interrupted_run import POLL_S, Command, assert_damaged_or_whole, contents, num_written  # noqa: E402

JOB = ["preprocessing.max_length=1024", "preprocessing.split.by=tail", "tokenization.kind=char", "cluster.num_cpus=2"]
LEAST_S = 30.0


def from_first_shard_to_manifest(given: list[str], folder: Path) -> tuple[float, float, dict[str, str]]:
    """Seconds that an unbroken run takes between the two, and in all without Ray's start; what it leaves, which is removed."""
    output, command = folder / "out", Command(given, folder)
    wait_for_shard(command, output)
    started = time.monotonic()
    while command.process.poll() is None and not (output / MANIFEST).exists():
        time.sleep(POLL_S)
    seconds = time.monotonic() - started
    job_s = float(str(command.result()["seconds"]))
    whole = contents(output)
    shutil.rmtree(output)
    return seconds, job_s, whole


def wait_for_shard(command: Command, output: Path) -> None:
    while command.process.poll() is None and not num_written(output):
        time.sleep(POLL_S)


def kill_and_go_on(given: list[str], folder: Path, after_s: float, whole: Mapping[str, str]) -> str:
    """Kill a run so many seconds after its first shard, look, go on to the end, look again; a sentence about it."""
    output, command = folder / "out", Command(given, folder)
    wait_for_shard(command, output)
    at = time.monotonic() + after_s
    command.kill_when(lambda: time.monotonic() >= at)
    shards, had_manifest = num_written(output), (output / MANIFEST).exists()
    damage = assert_damaged_or_whole(output, whole)
    started = time.monotonic()
    Command(given, folder).result()
    assert contents(output) == whole, f"the run that went on after {after_s:.2f} s gave other bytes"
    shutil.rmtree(output)
    state = f"{shards} shards recorded, {'a' if had_manifest else 'no'} manifest, {'not valid' if damage else 'valid and right'}"
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
        seconds, job_s, whole = from_first_shard_to_manifest(given, folder)
        print(f"unbroken: {job_s:.1f} s, {seconds:.1f} from the first shard to the manifest, {len(whole)} files", flush=True)
        if job_s < LEAST_S:
            raise SystemExit(f"the job is too short for this machine, {job_s:.1f} s of {LEAST_S:.0f}: give more input or a smaller stride")
        draw = random.Random(args.seed)
        for number in range(args.moments):
            after_s = (number + draw.random()) / args.moments * seconds
            print(f"{number + 1:3} of {args.moments}, after {after_s:5.2f} s: {kill_and_go_on(given, folder, after_s, whole)}", flush=True)


if __name__ == "__main__":
    main()
