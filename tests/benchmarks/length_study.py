"""Does a curriculum of sequence lengths help, and does the best learning rate carry over between model sizes: sweeps, and their tables.

    hyena-glt preprocess race.yaml --input 20.fa.gz --output DATA/chr20
    hyena-glt preprocess tests/benchmarks/study/study.yaml --input BACTERIA --output DATA/bacteria
    python tests/benchmarks/length_study.py run DATA OUT      # sweeps by the command line, each as `hyena-glt sweep`
    python tests/benchmarks/length_study.py table OUT         # results/length_study.{json,md} with what they left

BACTERIA are one FASTA file each of Escherichia coli K-12 MG1655 (NC_000913.2), Helicobacter pylori G27 (NC_011333.1), Staphylococcus
aureus N315 (NC_002745.2) and Vibrio cholerae O395 (CP001235.1 and CP001236.1). A trial takes the same rows in the same order whatever its
lengths, and is compared by its last validation, at the full length, on the first 64 held-out rows. At equal tokens all trials take as many
steps, five at a time on a GPU; at equal time, where the nine trials of a genome share it at once (90 GB of its memory), as many as fit the
time by a probe: that of training steps, without compiling and validation.
Intervals are 95 % by Student's t; differences are taken seed by seed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from operator import itemgetter
from pathlib import Path
from textwrap import dedent
from typing import Any

from equal_time import STUDY, run_arms, training_seconds
from page import write_report
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
TIMED = {"time_chr20": "chr20", "time_bacteria": "bacteria"}
CLOSE = 0.05
"""Times further apart than this are not called equal."""
Record = dict[str, Any]


def run(data: Path, out: Path, names: Iterable[str], settings: list[str], seconds: float, seeds: int) -> None:
    """Each sweep goes on where an earlier start of it ended."""
    for name in names:
        if name in TIMED:
            found = run_timed(data, out / name, TIMED[name], settings, seconds, seeds)
        else:
            found = run_sweep(data, out, name, settings)
        (out / f"{name}.json").write_text(json.dumps(found, indent=1))


def run_sweep(data: Path, out: Path, name: str, settings: list[str]) -> list[Record]:
    """One sweep of trials with as many tokens each."""
    dataset, space, own = SWEEPS[name]
    given = [f"data.train_path={data / dataset}", f"tune.output_dir={out / name}", *own, *settings]
    command = [
        sys.executable, "-m", "hyena_glt.cli", "sweep", str(STUDY / "study.yaml"), "--space", str(STUDY / f"{space}.yaml"),
        *{setting.split("=")[0]: setting for setting in given}.values(),
    ]
    subprocess.run(command, check=True)
    return records(out / name)


def run_timed(data: Path, out: Path, dataset: str, settings: list[str], seconds: float, seeds: int) -> list[Record]:
    """All arms side by side, for the same time each; the lengths of an arm stand beside its trials' own settings."""
    out.mkdir(exist_ok=True)
    arms = run_arms(out, [f"data.train_path={data / dataset}", *settings], seconds=seconds, seeds=seeds)
    return [one | {"settings": {LENGTHS: lengths, **one["settings"]}} for folder, lengths in arms for one in records(folder)]


def records(folder: Path) -> list[Record]:
    """What the tables need of each trial: its settings and its validation curve."""
    return [record(folder, row) for row in read_sweep(folder).rows]


def record(folder: Path, row: Row) -> Record:
    reports = reports_that_count(read_reports(run_folder(folder, row.id) / METRICS_FILE))
    measured = [report for report in reports if report["kind"] == "eval"]
    lines = [report for report in reports if report["kind"] == "train"]
    speeds = [line["tokens_per_s"] for line in lines[1:]]
    start = next((report for report in reports if report["kind"] == "start"), {})
    return {
        "settings": row.settings, "status": row.status, "error": row.error, "tokens": row.tokens, "device": start.get("device"),
        "parameters": start.get("parameters"), "tokens_per_s": statistics.median(speeds) if speeds else None,
        "training_s": training_seconds(lines) if lines else None,
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


def length_rows(trials: list[Record], seconds: Callable[[Record], float]) -> list[list[str]]:
    """A row for each choice of lengths; differences are from the full length throughout."""
    choices: dict[str, dict[int, Record]] = defaultdict(dict)
    for one in trials:
        if one["status"] == "finished":
            choices["-".join(map(str, dict.fromkeys(one["settings"][LENGTHS])))][seed(one)] = one
    full = max(choices, key=lambda name: (name.count("-") == 0, int(name.split("-")[0])))
    rows = []
    for name, seeds in choices.items():
        ordered = [one for _, one in sorted(seeds.items())]
        tokens = f"{statistics.fmean(one['curve'][-1][1] for one in ordered) / 1e6:.1f}"
        rows.append([name, str(len(seeds)), *compared(seeds, choices[full]), tokens, ", ".join(f"{seconds(one):.0f}" for one in ordered)])
    return rows


def compared(seeds: dict[int, Record], base: dict[int, Record]) -> tuple[str, str]:
    """Bits per base, and what they are more than those of `base`, seed by seed."""
    more = [bits(one) - bits(base[number]) for number, one in seeds.items() if number in base]
    return interval([bits(one) for one in seeds.values()]), "-" if seeds is base or not more else interval(more)


def apart(trials: list[Record]) -> str:
    """Whether the arms of a comparison at equal time really took the same."""
    by_arm: dict[str, list[float]] = defaultdict(list)
    for one in trials:
        if one["status"] == "finished":
            by_arm[str(one["settings"][LENGTHS])].append(one["training_s"])
    means = [statistics.fmean(seconds) for seconds in by_arm.values()]
    share = max(means) / min(means) - 1
    verdict = "" if share <= CLOSE else f", more than {CLOSE:.0%}: **this is no comparison at equal time**"
    return f"The slowest arm trained {share:.1%} longer than the fastest (means of the seeds){verdict}."


def all_seconds(one: Record) -> float:
    """From the start of training to the last validation, with compiling and validation."""
    return float(one["curve"][-1][0])


def bits(one: Record) -> float:
    """Bits per base at the last validation."""
    return float(one["curve"][-1][2])


def seed(one: Record) -> int:
    """That of the trial; the configuration's where the sweep has no seeds."""
    return int(one["settings"].get(SEED, 0))


def rate_rows(trials: list[Record]) -> list[list[str]]:
    """A row for each rate; differences are from the rate that is best in the mean."""
    rates: dict[float, dict[int, Record]] = defaultdict(dict)
    for one in trials:
        if one["status"] == "finished":
            rates[one["settings"][RATE]][seed(one)] = one
    best = min(rates.values(), key=lambda seeds: statistics.fmean(map(bits, seeds.values())))
    failed = Counter(one["settings"][RATE] for one in trials if one["status"] == "failed")
    return [
        [f"{rate:g}", str(len(rates[rate])), *(compared(rates[rate], best) if rates[rate] else "--"), str(failed[rate])]
        for rate in sorted({one["settings"][RATE] for one in trials})
    ]


def markdown(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *rows))


def table(out: Path, results: Path) -> None:
    """length_study.{json,md} in `results`, with the records in `out` in the place of those of the same sweeps before."""
    known = results / "length_study.json"
    found = json.loads(known.read_text()) if known.exists() else {}
    found |= {path.stem: json.loads(path.read_text()) for path in sorted(out.glob("*.json"))}
    _, commands, about = str(__doc__).strip().split("\n\n")
    parts = ["# Curriculum of lengths, and the learning rate at two sizes", f"```sh\n{dedent(commands)}\n```", about]
    for name, trials in sorted(found.items()):
        kind, _, what = name.partition("_")
        if kind == "rates":
            size = dict(zip(("small", "large"), SIZES, strict=True))[what]
            header = ["rate", "seeds", "bits per base", "more than the best", "failed"]
            parts += [f"## Learning rate, {size}", _facts(trials), markdown(header, rate_rows(trials))]
        else:
            header = ["lengths", "seeds", "bits per base", "more than the full length", "million tokens"]
            if kind == "lengths":
                equal, took, note, seconds = "tokens", "seconds, seed by seed", [], all_seconds
            else:
                equal, took, note, seconds = "time", "seconds of training, seed by seed", [apart(trials)], itemgetter("training_s")
            rows = length_rows(trials, seconds)
            parts += [f"## Lengths at equal {equal}, {what}", _facts(trials), markdown([*header, took], rows), *note]
    if missing := [name for name in (*SWEEPS, *TIMED) if name not in found]:
        parts.append(f"Not run: {', '.join(missing)}.")
    write_report(results, "length_study", found, "\n\n".join(parts))


def _facts(trials: list[Record]) -> str:
    devices = ", ".join(sorted({str(one["device"]) for one in trials if one["device"]}))
    parameters = ", ".join(f"{n:,}" for n in sorted({one["parameters"] for one in trials if one["parameters"]}))
    tokens = max(one["tokens"] for one in trials)
    seconds = statistics.median(one["curve"][-1][0] for one in trials if one["curve"])
    return f"{devices}; {parameters} parameters, up to {tokens:,} tokens, {seconds:.0f} s a trial (median)."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("folders", nargs="+", type=Path, metavar="[DATA] OUT")
    parser.add_argument("--sweeps", nargs="*", default=[*SWEEPS, *TIMED], choices=[*SWEEPS, *TIMED])
    parser.add_argument("--set", nargs="*", default=[], metavar="section.key=value", help="further settings of every trial")
    parser.add_argument("--seconds", type=float, default=120, help="of training, for each trial at equal time")
    parser.add_argument("--seeds", type=int, default=3, help="trials of each arm at equal time")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="where the table goes")
    args = parser.parse_args()
    if args.what == "run":
        data, out = args.folders
        out.mkdir(parents=True, exist_ok=True)
        run(data, out, args.sweeps, args.set, args.seconds, args.seeds)
    else:
        table(args.folders[0], args.results)


if __name__ == "__main__":
    main()
