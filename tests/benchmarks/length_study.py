"""Does a curriculum of sequence lengths help, and does the best learning rate carry over between model sizes: sweeps, and their tables.

    hyena-glt preprocess race.yaml --input 20.fa.gz --output DATA/chr20
    hyena-glt preprocess tests/benchmarks/study/study.yaml --input BACTERIA --output DATA/bacteria
    python tests/benchmarks/length_study.py run DATA OUT      # four sweeps by the command line, each as `hyena-glt sweep`
    python tests/benchmarks/length_study.py table OUT         # results/length_study.{json,md} from what they left

A trial takes the same rows in the same order whatever its lengths; it is compared at equal tokens, by its last validation.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from textwrap import dedent
from typing import Any

from page import write_page
from scipy.stats import t as student

from hyena_glt.evaluation.run_folder import reports_that_count
from hyena_glt.evaluation.sweep_folder import Row, read_sweep
from hyena_glt.training.metrics import METRICS_FILE, read_reports
from hyena_glt.training.trials import run_folder

HERE = Path(__file__).parent
LENGTHS, SEED, RATE = "curriculum.sequence_length.values", "training.seed", "training.learning_rate"
FLAT = ["curriculum=null"]
SIZES = {"128 x 4": ["model.hidden_size=128", "model.num_layers=4"], "256 x 8": []}
SWEEPS = {
    "lengths_chr20": ("chr20", "lengths", []), "lengths_bacteria": ("bacteria", "lengths", []),
    "rates_small": ("chr20", "rates", [*FLAT, *SIZES["128 x 4"]]), "rates_large": ("chr20", "rates", [*FLAT, *SIZES["256 x 8"]]),
}
Record = dict[str, Any]


def run(data: Path, out: Path, names: Iterable[str], settings: list[str]) -> None:
    """Each sweep goes on where an earlier start of it ended."""
    for name in names:
        dataset, space, own = SWEEPS[name]
        given = [f"data.train_path={data / dataset}", f"tune.output_dir={out / name}", *own, *settings]
        command = [
            sys.executable, "-m", "hyena_glt.cli", "sweep", str(HERE / "study" / "study.yaml"),
            "--space", str(HERE / "study" / f"{space}.yaml"), *{setting.split("=")[0]: setting for setting in given}.values(),
        ]
        subprocess.run(command, check=True)
        (out / f"{name}.json").write_text(json.dumps(records(out / name), indent=1))


def records(folder: Path) -> list[Record]:
    """What the tables need of each trial: its settings and its validation curve."""
    return [record(folder, row) for row in read_sweep(folder).rows]


def record(folder: Path, row: Row) -> Record:
    reports = reports_that_count(read_reports(run_folder(folder, row.id) / METRICS_FILE))
    measured = [report for report in reports if report["kind"] == "eval"]
    speeds = [report["tokens_per_s"] for report in reports if report["kind"] == "train"][1:]
    start = next((report for report in reports if report["kind"] == "start"), {})
    return {
        "settings": row.settings, "status": row.status, "error": row.error, "tokens": row.tokens, "device": start.get("device"),
        "parameters": start.get("parameters"), "tokens_per_s": statistics.median(speeds) if speeds else None,
        "curve": [[report["elapsed_s"], report["tokens"], report["bits_per_base"]] for report in measured],
    }


# Tables


def interval(values: list[float]) -> str:
    """Mean and 95 % confidence interval by Student's t."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:.4f}"
    half = student.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:.4f} ± {half:.4f}"


def length_rows(trials: list[Record]) -> list[list[str]]:
    """A row for each choice of lengths; differences are from the full length throughout, seed by seed."""
    by_lengths: dict[str, dict[int, Record]] = defaultdict(dict)
    for one in trials:
        if one["status"] == "finished":
            by_lengths["-".join(map(str, dict.fromkeys(one["settings"][LENGTHS])))][one["settings"][SEED]] = one
    full = max(by_lengths, key=lambda name: (name.count("-") == 0, int(name.split("-")[0])))
    base = {seed: bits(one) for seed, one in by_lengths[full].items()}
    rows = []
    for name, seeds in by_lengths.items():
        found = {seed: bits(one) for seed, one in sorted(seeds.items())}
        less = [found[seed] - base[seed] for seed in found if seed in base]
        seconds = ", ".join(f"{seeds[seed]['curve'][-1][0]:.0f}" for seed in found)
        rows.append([name, str(len(seeds)), interval(list(found.values())), "-" if name == full else interval(less), seconds])
    return rows


def bits(one: Record) -> float:
    """Bits per base at the last validation."""
    return float(one["curve"][-1][2])


def rate_rows(sizes: dict[str, list[Record]]) -> list[list[str]]:
    """A row for each rate, a column for each size."""
    rates = sorted({one["settings"][RATE] for trials in sizes.values() for one in trials})
    rows = []
    for rate in rates:
        cells = []
        for trials in sizes.values():
            found = [bits(one) for one in trials if one["settings"][RATE] == rate and one["status"] == "finished"]
            failed = sum(one["settings"][RATE] == rate and one["status"] == "failed" for one in trials)
            cells.append((interval(found) if found else "-") + (f" ({failed} failed)" if failed else ""))
        rows.append([f"{rate:g}", *cells])
    return rows


def markdown(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *rows))


def table(out: Path, results: Path) -> None:
    """results/length_study.{json,md} of the sweeps whose records lie in `out`."""
    found = {path.stem: json.loads(path.read_text()) for path in sorted(out.glob("*.json"))}
    header = ["lengths", "seeds", "bits per base, equal tokens", "less the full length", "seconds, seed by seed"]
    _, commands, about = str(__doc__).strip().split("\n\n")
    parts = ["# Curriculum of lengths, and the learning rate at two sizes", f"```sh\n{dedent(commands)}\n```", about]
    for name, trials in found.items():
        if name.startswith("lengths"):
            parts += [f"## Lengths, {name.removeprefix('lengths_')}", _facts(trials), markdown(header, length_rows(trials))]
    sizes = {size: found[name] for size, name in zip(SIZES, ("rates_small", "rates_large"), strict=True) if name in found}
    if sizes:
        parts += ["## Learning rate", _facts([one for trials in sizes.values() for one in trials]),
                  markdown(["rate", *(f"{size}, bits per base" for size in sizes)], rate_rows(sizes))]
    if missing := [name for name in SWEEPS if name not in found]:
        parts.append(f"Not run: {', '.join(missing)}.")
    (results / "length_study.json").write_text(json.dumps(found, indent=1) + "\n")
    write_page(results / "length_study.md", "\n\n".join(parts))


def _facts(trials: list[Record]) -> str:
    devices = ", ".join(sorted({str(one["device"]) for one in trials if one["device"]}))
    parameters = ", ".join(f"{n:,}" for n in sorted({one["parameters"] for one in trials if one["parameters"]}))
    tokens = max(one["tokens"] for one in trials)
    seconds = statistics.median(one["curve"][-1][0] for one in trials if one["curve"])
    return f"{devices}, five trials at a time; {parameters} parameters, {tokens:,} tokens, {seconds:.0f} s a trial (median)."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("folders", nargs="+", type=Path, metavar="[DATA] OUT")
    parser.add_argument("--sweeps", nargs="*", default=list(SWEEPS), choices=list(SWEEPS))
    parser.add_argument("--set", nargs="*", default=[], metavar="section.key=value", help="further settings of every trial")
    args = parser.parse_args()
    if args.what == "run":
        data, out = args.folders
        out.mkdir(parents=True, exist_ok=True)
        run(data, out, args.sweeps, args.set)
    else:
        table(args.folders[0], HERE / "results")


if __name__ == "__main__":
    main()
