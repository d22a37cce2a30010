"""FASTA in, tokenized shards out: start Ray, run the stages, report. Runs on the driver."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from cluster.paths import placed
from hyena_glt.config import ClusterConfig, Config, dump_config
from hyena_glt.data.manifest import Manifest
from hyena_glt.data.plan import DataPlan, prepare
from hyena_glt.data.preprocess import plan_only
from hyena_glt.data.preprocess import preprocess as run_stages
from hyena_glt.data.resume import claim, refuse_other_run
from hyena_glt.data.storage import Location
from hyena_glt.errors import DataError
from hyena_glt.training.gang import Gang, await_gang

from ._command import run_as
from ._progress import ProgressBar
from ._ray import is_local, start_ray

Result = dict[str, object]


def preprocess(cfg: Config, *, dry_run: bool = False) -> Result:
    """Preprocess as the tree says; the result is plain JSON: the folder, rows, tokens and bases a split, what was dropped, the speed.

    The same call on a finished folder gives its result again, on an interrupted one goes on. Raises ConfigError for settings that
    cannot work and for an output folder of another run, DataError for inputs that cannot be used; DataError too when a file cannot
    be read or written (a full disk): then the same call goes on where it stopped.
    """
    cfg = placed(cfg, "preprocess")
    progress = ProgressBar("bases", {"checksums": "bytes", "reading": "bytes"})
    try:
        return _dry_run(cfg, progress) if dry_run else _run(cfg, progress)
    except OSError as error:
        raise DataError(f"a file could not be read or written ({error}); when that is cured, the same command goes on") from error
    finally:
        progress.close()


def _dry_run(cfg: Config, progress: ProgressBar) -> Result:
    run = prepare(cfg, progress)
    refuse_other_run(run.output, run.destination, run.identity)
    print(dump_config(cfg), file=sys.stderr)
    with _ray_with_a_cpu(cfg.cluster):
        return describe_plan(plan_only(run, progress))


def _run(cfg: Config, progress: ProgressBar) -> Result:
    run = prepare(cfg, progress)
    manifest = claim(run.output, run.destination, run.identity)
    if manifest:
        return describe(run.destination, manifest, None)
    with _ray_with_a_cpu(cfg.cluster):
        started = time.monotonic()  # the speed is that of the work, without Ray's start
        manifest = run_stages(run, progress)
        return describe(run.destination, manifest, time.monotonic() - started)


@contextmanager
def _ray_with_a_cpu(cluster: ClusterConfig) -> Iterator[None]:
    """A running Ray that has a CPU free: on a cluster that has none Ray Data would wait for ever, and not say so."""
    with start_ray(cluster.address, cluster.num_cpus):
        if not is_local(cluster.address):
            await_gang(Gang(1, {"CPU": 1.0}), timeout_s=cluster.start_timeout_s)
        yield


def describe(output: Location, manifest: Manifest, seconds: float | None) -> Result:
    """The result of a finished run; `bases_per_s` counts the bases of all inputs. No time if nothing was left to do."""
    splits = {name: {"rows": split.rows, "tokens": split.tokens, "bases": split.bases} for name, split in manifest.splits.items()}
    speed = seconds and {"seconds": round(seconds, 2), "bases_per_s": round(sum(item.bases for item in manifest.inputs) / seconds)}
    return {"path": str(output), "splits": splits, "dropped": manifest.dropped, **(speed or {"seconds": None, "bases_per_s": None})}


def describe_plan(plan: DataPlan) -> Result:
    """What a run would do; windows and shards are counted before the filters."""
    splits = {name: {"windows": regions.num_windows, "shards": 0} for name, regions in plan.job.regions.items() if regions.num_windows}
    for task in plan.tasks:
        splits[task.split]["shards"] += 1
    return {
        "path": str(plan.job.destination),
        "inputs": len(plan.inputs),
        "records": sum(item.records for item in plan.inputs),
        "bases": plan.num_bases,
        "width": plan.job.row_format.width,
        "tokenizer": plan.job.tokenizer.to_dict(),
        "splits": splits,
        "dropped": plan.dropped,
    }


if __name__ == "__main__":
    run_as("preprocess")
