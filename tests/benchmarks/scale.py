"""What many shards and many workers cost before and beside training: planning, opening, slicing, committing a checkpoint.

    python tests/benchmarks/scale.py [--shards 1000 10000 100000 1000000] [--actors 64] [--ranks 16] [--steps 1000] [--out DIR]

The data sets are synthetic: manifest and index are real, the shards do not exist, as nothing here reads a row. `plan` runs in a process of
its own what `hyena-glt pretrain` does before it starts Ray's workers. `actors` starts so many Ray actors on this machine, each of which
opens the data set once and then works out, for each of its ranks, which rows the rank reads in so many steps; a few actors at a time, as
together they would need more memory than a small machine has. `commit` makes a whole checkpoint of as many small files as there are ranks.
`decode` reads one row group of a real shard. Rows go to scale.{json,md} below --out; what stands there from `## Notes` on is kept.
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
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from page import cpu_name, own_command  # noqa: E402
from scale_report import Row, write  # noqa: E402

from hyena_glt.config import config_from_dict  # noqa: E402
from hyena_glt.data import parquet  # noqa: E402
from hyena_glt.data.manifest import InputFile, Manifest, SplitManifest, write_manifest  # noqa: E402
from hyena_glt.data.readers import read_row_group  # noqa: E402
from hyena_glt.data.resume import sections  # noqa: E402
from hyena_glt.data.row_format import RowFormat  # noqa: E402
from hyena_glt.data.shard_index import COLUMNS, Shards  # noqa: E402
from hyena_glt.tokenizers import Tokenizer, build_tokenizer  # noqa: E402
from hyena_glt.tokenizers.base import NUM_SPECIAL  # noqa: E402
from tests.data.made_folder import settings  # noqa: E402

RESULTS = Path(__file__).parent / "results"
WIDTH = 1024
GROUP_ROWS = 1024
"""2^20 tokens in a row group, as preprocessing writes them."""
GROUPS = 16
"""Row groups in a shard of 2^24 bases."""
LARGE = 100_000, 96
"""Shards and row groups in each of 10 TB of tokens."""
SHARDS_PER_INPUT = 10
BATCH_SIZE, WORKERS = 8, 1024
AT_ONCE = 2
"""Actors that have the data set open at a time."""
RANK_FILES = (16, 128, 1024, 8192)


# Synthetic data


def write_data_set(folder: Path, num_shards: int, groups: int = GROUPS) -> Row:
    """A folder with a manifest and an index of `num_shards` shards that do not exist; what writing them took."""
    tokenizer = build_tokenizer("dna", settings().tokenization)
    shards = synthetic_shards(num_shards, groups, np.random.default_rng(0))
    rows = int(shards.columns["rows"].to_numpy().sum())
    (folder / "train").mkdir(parents=True)
    manifest = synthetic_manifest(tokenizer, shards, rows)
    began = time.perf_counter()
    write_manifest(folder, manifest)
    seconds = time.perf_counter() - began
    sizes = {f"{name}_mb": (folder / f"{name}").stat().st_size / 1e6 for name in ("manifest.json", "shards.parquet")}
    return {"shards": num_shards, "row_groups": num_shards * groups, "tokens": rows * WIDTH, "write_s": seconds, **sizes}


def synthetic_shards(num_shards: int, groups: int, rng: np.random.Generator) -> Shards:
    """Row groups of nearly equal size, as filters leave them; sizes and checksums that do not compress."""
    sizes = rng.integers(GROUP_ROWS - 24, GROUP_ROWS + 1, (num_shards, groups)).astype(np.int32)
    rows, digests = sizes.sum(axis=1).astype(np.int64), rng.bytes(32 * num_shards)
    return Shards(pa.table({
        "path": [f"train/part-{number:05d}.parquet" for number in range(num_shards)],
        "rows": rows, "tokens": rows * WIDTH, "size": (rows * WIDTH * rng.uniform(0.27, 0.31, num_shards)).astype(np.int64),
        "sha256": [digests[32 * number : 32 * number + 32] for number in range(num_shards)],
        "row_groups": pa.ListArray.from_arrays(np.arange(0, sizes.size + 1, groups, dtype=np.int32), sizes.ravel()),
    }, COLUMNS))


def synthetic_manifest(tokenizer: Tokenizer, shards: Shards, rows: int) -> Manifest:
    """Of one split, with an input for every so many shards."""
    row_format = RowFormat(width=WIDTH, id_bits=4)
    inputs = tuple(
        InputFile(path=f"genome_{number:06d}.fa.gz", size=1 << 28, sha256=f"{number:064x}", records=1, bases=10**9)
        for number in range(-(-len(shards) // SHARDS_PER_INPUT))
    )
    return Manifest(
        config=sections(settings()), tokenizer=tokenizer.to_dict(), tokenizer_sha256="0" * 64, width=WIDTH, id_bits=4, inputs=inputs,
        columns=tuple(row_format.schema.names), dropped={},
        splits={"train": SplitManifest(rows=rows, tokens=rows * WIDTH, bases=rows * WIDTH, shards=shards)},
    )


def run_settings(folder: Path) -> dict[str, Any]:
    """One epoch on 1,024 workers."""
    return {
        "data": {"train_path": str(folder), "sequence_length": WIDTH}, "tasks": {"causal_lm": {}},
        "model": {"max_position_embeddings": WIDTH}, "cluster": {"train_workers": WORKERS},
        "training": {"batch_size": BATCH_SIZE, "num_epochs": 1, "output_dir": str(folder / "run")},
    }


# Planning


def plan_row(num_shards: int, groups: int, folder: Path) -> Row:
    """Write a data set, and plan a run over it in a process of its own."""
    written = write_data_set(folder, num_shards, groups)
    done = subprocess.run([sys.executable, __file__, "--plan", str(folder)], capture_output=True, text=True, check=True)
    return written | json.loads(done.stdout.splitlines()[-1])


def plan(folder: Path) -> Row:
    """What `hyena-glt pretrain` does from its settings to its plan; the peak is that of the whole process."""
    began = time.perf_counter()
    from hyena_glt.training.plan import plan_run
    from pipelines.pretrain import planned_domains, resolve

    imported, import_mb = time.perf_counter(), peak_mb()
    cfg, mixture = resolve(config_from_dict(run_settings(folder)))
    planned = plan_run(cfg, mixture, world_size=WORKERS)
    domains = planned_domains(cfg, planned, mixture)
    checksum = mixture.checksum()
    assert planned.total_steps and domains and checksum
    seconds = time.perf_counter() - imported
    return {"import_s": imported - began, "import_mb": import_mb, "plan_s": seconds, "peak_mb": peak_mb(), "steps": planned.total_steps}


def peak_mb() -> float:
    """The most memory that this process has had, MB (not by getrusage, which remembers the parent's across exec)."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6


# Actors


class Machine:
    """The worker processes of one machine, simulated one after the other in one process."""

    def imports(self) -> float:
        """CPU seconds of this process until it can begin."""
        from hyena_glt.training import feed, plan

        assert feed and plan
        return time.process_time()

    def read(self, folder: Path, ranks: range, steps: int) -> Row:
        """Open the data set and plan, as each worker does; then which rows each of `ranks` reads, and how many row groups that opens."""
        from hyena_glt.data.batches import TrainingBatches
        from hyena_glt.data.mixture import open_training
        from hyena_glt.objectives import CausalLM
        from hyena_glt.training.feed import Course
        from hyena_glt.training.plan import plan_run

        before, began, cfg = own_mb(), time.process_time(), config_from_dict(run_settings(folder))
        mixture = open_training(cfg.data)
        course = Course(plan_run(cfg, mixture, world_size=WORKERS), mixture, cfg.data, cfg.training.seed)
        batches = TrainingBatches(mixture, CausalLM(), cfg.training.seed, cfg.data.shuffle_row_groups)
        seconds, opened = [time.process_time() - began], []
        for rank in ranks:
            began = time.process_time()
            places = [batches.places(request)[1] for step in range(steps) for request in course.requests(step, rank)]
            seconds.append(time.process_time() - began)
            opened.append(len(np.unique(np.searchsorted(mixture.rows[0].group_starts, np.concatenate(places), side="right"))))
        return {
            "open_cpu_s": seconds[0], "first_rank_cpu_s": seconds[1], "rank_cpu_s": statistics.median(seconds[2:]),
            "rows": BATCH_SIZE * steps, "groups_opened": statistics.median(opened), "import_mb": before, "own_mb": own_mb(),
        }


def own_mb() -> float:
    """Memory that no other process shares, MB."""
    import psutil

    return psutil.Process().memory_full_info().uss / 1e6


def actor_rows(folder: Path, num_actors: int, ranks: int, steps: int) -> Row:
    """Start the actors, then let each open the data set and work out its ranks' rows."""
    import ray

    from pipelines._ray import start_ray

    with start_ray("local", 2):
        began = time.perf_counter()
        machines = [ray.remote(num_cpus=1 / 64)(Machine).remote() for _ in range(num_actors)]
        imports = ray.get([machine.imports.remote() for machine in machines])
        row: Row = {"actors": num_actors, "ranks": num_actors * ranks, "steps": steps, "start_s": time.perf_counter() - began}
        row["import_cpu_s"] = statistics.median(imports)
        row["round_s"] = median_s(lambda: ray.get([machine.imports.remote() for machine in machines]), 20)
        began = time.perf_counter()
        running, rows = [], list[Row]()
        for number, machine in enumerate(machines):
            running.append(machine.read.remote(folder, range(number * ranks, (number + 1) * ranks), steps))
            if len(running) == AT_ONCE:
                (done,), running = ray.wait(running)
                rows.append(ray.get(done))
        rows += ray.get(running)
        row["read_s"] = time.perf_counter() - began
    return row | {name: statistics.median(own[name] for own in rows) for name in rows[0]}


# Checkpoints


def commit_row(folder: Path, num_files: int) -> Row:
    """Commit a checkpoint of one small file a rank, and find it again."""
    from hyena_glt.training.checkpoint import CheckpointInfo, Progress, newest_whole
    from hyena_glt.training.commit import ALONE, commit, empty_staging_folder, list_part, prune

    row: Row = {"rank_files": num_files}
    for step in (1, 2, 3):
        staged = empty_staging_folder(folder, step, ALONE)
        shards = staged / "optimizer"
        shards.mkdir()
        for rank in range(num_files):
            (shards / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt").write_bytes(bytes(1000))
        info = CheckpointInfo(progress=Progress(step=step), world_size=num_files, zero_stage=1, global_rows=1, data_checksum="0")
        row["commit_s"] = median_s(lambda info=info, staged=staged: (list_part(staged), commit(folder, staged, info)), 1)
    warnings: list[str] = []
    row["find_s"] = median_s(lambda: newest_whole(folder, warnings), 5)
    row["prune_s"] = median_s(lambda: prune(folder, keep=1), 1)
    assert not warnings
    return row


def median_s(work: Callable[[], object], times: int) -> float:
    found = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return statistics.median(found)


# Reading


def decode_row(folder: Path) -> Row:
    """How fast one process reads and unpacks a row group of bases."""
    row_format, path, number = RowFormat(width=WIDTH, id_bits=4), folder / "part-00000.parquet", np.arange(GROUP_ROWS)
    packing, ids = row_format.packings["input_ids"], np.random.default_rng(0).integers(NUM_SPECIAL, NUM_SPECIAL + 4, (GROUP_ROWS, WIDTH))
    columns = [packing.pack(ids.astype(np.uint8)), ["a.fa"] * GROUP_ROWS, ["chr1"] * GROUP_ROWS, number * WIDTH, number * 0 + WIDTH]
    with parquet.writer(path, row_format.schema, compress=True) as writer:
        writer.write_table(pa.table(dict(zip(row_format.schema.names, columns, strict=True)), row_format.schema))
    seconds = median_s(lambda: read_row_group(path, 0, GROUP_ROWS, "input_ids", packing), 20)
    return {"group_bytes": path.stat().st_size, "group_s": seconds, "tokens_per_s": GROUP_ROWS * WIDTH / seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--actors", type=int, default=64)
    parser.add_argument("--ranks", type=int, default=16, help="in each actor")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--plan", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.plan:
        print(json.dumps(plan(args.plan)))
        return
    report: Row = {
        "machine": cpu_name(), "command": own_command(),
        "python": platform.python_version(), "pyarrow": pa.__version__, "load": os.getloadavg()[0],
    }
    with tempfile.TemporaryDirectory(prefix="scale_") as name:
        work = Path(name)
        report["plan"] = [plan_row(shards, GROUPS, work / f"data{shards}") for shards in args.shards]
        report["large"] = plan_row(*LARGE, work / "large")
        report["commit"] = [commit_row(work / f"run{files}", files) for files in RANK_FILES]
        report["decode"] = decode_row(work)
        write(report, args.out)
        report["actors"] = actor_rows(work / "large", args.actors, args.ranks, args.steps)
    write(report, args.out)


if __name__ == "__main__":
    main()
