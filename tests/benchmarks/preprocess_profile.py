"""Where the time of preprocessing goes: a whole run, its work without Ray, and the same stages of Ray Data without the work.

    python tests/benchmarks/preprocess_profile.py 20.fa.gz
    python tests/benchmarks/preprocess_profile.py --name preprocess_profile_arabidopsis GENOME...

Plain FASTA of the genomes, windows of 1,024, the char tokenizer. The cases take turns, and medians are kept:

- the whole run: `ours` of preprocess.py with one worker on one core and the default codec, by the stages that the progress lines tell;
- its parts (preprocess_parts.py), in another process bound to the same core: the same run with every stage's function called in that
  process; then each of its stages of Ray Data, of as many tasks and blocks, with tasks that do nothing; then with tasks that spend as much
  CPU time as the real ones and do nothing, which shows what Ray's own processes take of the core for as long as tasks run;
- the whole run by two workers on two cores, and without compression.

What the parts together leave of the whole is a column of its own. Results go to NAME.{json,md} below --out, whose notes are kept.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from page import write_report
from preprocess import OURS, RESULTS, Case, Genomes, our_case, plain_genomes, run, synthetic
from preprocess_report import Row, heading, machine_facts, others_too

PARTS = Path(__file__).with_name("preprocess_parts.py")
WINDOW = 1024
COLUMNS = ("whole_s", "tasks_s", "driver_s", "idle_s", "meanwhile_s", "left_s")
"""Of a line: the whole run; without Ray, in the functions of stages and outside of them; stages that do nothing; what Ray takes beside
tasks as long as the real ones; what is left of the whole."""
OF_STAGES = ("work_s", "idle_s", "meanwhile_s")
"""The same of one stage of Ray Data; the first without Ray."""


def cases(data: Genomes, work: Path) -> tuple[Case, ...]:
    """The whole run, its parts, and the whole run with two workers and without compression."""
    whole = our_case(data, work, WINDOW, workers=1)
    arguments = {name: whole.arguments[name] for name in ("settings", "output", "warm_up")}
    parts = replace(whole, what="parts", script=PARTS, arguments=arguments)
    return whole, parts, our_case(data, work, WINDOW, workers=2), our_case(data, work, WINDOW, compress=False, workers=1)


def measure_all(args: argparse.Namespace, work: Path) -> Row:
    """The whole report."""
    facts = machine_facts(OURS)
    synthetic(work / "warm_up.fa", 1_000_000)
    data = plain_genomes("genome", args.genomes, work, savanna=False)
    rows: list[Row] = [case.key | {"runs": []} for case in cases(data, work)]
    for _ in range(args.repeats):
        for row, case in zip(rows, cases(data, work), strict=True):
            row["runs"].append(run(case, work, args))
            print(json.dumps(row["runs"][-1]), flush=True)
    whole, parts, *_ = (row["runs"] for row in rows)
    stages = ray_stages(parts)
    return facts | {"bases": data.bases, "rows": rows, "lines": lines(whole, parts, stages), "ray_stages": stages, "write_parts": {
        what: median(parts, lambda one, what=what: one["write_parts"][what]) for what in parts[0]["write_parts"]
    }}


def median(runs: list[Row], figure: Callable[[Row], float]) -> float:
    return statistics.median(map(figure, runs))


def ray_stages(parts: list[Row]) -> list[Row]:
    """The stages of Ray Data in order, medians of their seconds, and by which progress line each is over."""
    found = []
    for number, first in enumerate(parts[0]["ray_stages"]):
        figures = {name: median(parts, lambda one, at=number, name=name: one["ray_stages"][at][name]) for name in ("work_s", "idle_s")}
        meanwhile_s = median(parts, lambda one, at=number: meanwhile(one["ray_stages"][at]))
        shown = {name: first[name] for name in ("function", "tasks", "blocks")}
        found.append(shown | figures | {"meanwhile_s": meanwhile_s, "line": line_at(first["began_s"], parts[0]["stages"])})
    return found


def meanwhile(stage: Row) -> float:
    """Seconds that a stage with tasks of the real ones' CPU time takes on top of that time and of a stage with tasks that do nothing."""
    return stage["busy_s"] - stage["cpu_s"] - stage["idle_s"]


def line_at(moment_s: float, stages: dict[str, float]) -> str:
    """The progress line that comes next at a moment of a run; `stages` are seconds a line, in order."""
    ended_s = 0.0
    for line, seconds in stages.items():
        ended_s += seconds
        if moment_s < ended_s:
            return line
    return list(stages)[-1]


def lines(whole: list[Row], parts: list[Row], stages: list[Row]) -> list[Row]:
    """A row a progress line (COLUMNS), and their sum."""
    found = []
    for line in whole[0]["stages"]:
        of_line = [stage for stage in stages if stage["line"] == line]
        row = {name: sum(stage[name] for stage in of_line) for name in ("idle_s", "meanwhile_s")}
        row |= {"whole_s": median(whole, lambda one, line=line: one["stages"][line]), "tasks_s": sum(stage["work_s"] for stage in of_line)}
        row["driver_s"] = median(parts, lambda one, line=line: one["stages"][line]) - row["tasks_s"]
        row["left_s"] = row["whole_s"] - sum(row[name] for name in COLUMNS[1:-1])
        found.append({"line": line} | {name: row[name] for name in COLUMNS})
    return [*found, {"line": "sum"} | {name: sum(row[name] for row in found) for name in COLUMNS}]


def markdown(report: Row) -> str:
    """The page; others' cores are those of the whole runs, because the Ray of the parts ends while they are watched."""
    bases, total = report["bases"], report["lines"][-1]
    whole_runs = [row for row in report["rows"] if row["what"] == "ours"]
    return "\n".join([
        *heading("Where the time of preprocessing goes", report),
        f"\n{bases:,} bases as plain FASTA, windows of {WINDOW:,}, one token a base, zstd; each of {len(report['rows'][0]['runs'])} runs "
        f"bound to one core, and so were those of its parts; medians. {others_too(report | {'rows': whole_runs})}\n",
        "## Seconds\n",
        "By the lines that tell the progress: the whole run; the same work without Ray, in the tasks of stages and in the driver outside "
        "of them; Ray Data's stages with tasks that do nothing; what such stages take more, beside their tasks, when those take the CPU "
        "time of the real ones; and what is left of the whole.\n",
        "| line | whole run | work in tasks | in the driver | idle stages | more while tasks run | left | left, % of the whole run |",
        "|---" * 8 + "|",
        *(cells(row["line"], *(f"{row[name]:.2f}" for name in COLUMNS), f"{100 * row['left_s'] / total['whole_s']:.1f}")
          for row in report["lines"]),
        "\n## Speed\n",
        "| what | seconds | Mbp/s | times the whole run's |",
        "|---" * 4 + "|",
        *(cells(what, f"{seconds:.2f}", f"{bases / seconds / 1e6:.1f}", f"{total['whole_s'] / seconds:.2f}")
          for what, seconds in speeds(total)),
        "\n## Other whole runs\n",
        "Seconds by progress line, and of CPU in all processes; two workers have two cores.\n",
        cells("workers", "codec", *whole_runs[0]["runs"][0]["stages"], "whole run", "CPU"),
        "|---" * (len(whole_runs[0]["runs"][0]["stages"]) + 4) + "|",
        *map(whole_run, whole_runs),
        "\n## The stages of Ray Data\n",
        "| function | line | tasks | blocks | work, s | idle, s | more while tasks run, s |",
        "|---" * 7 + "|",
        *(cells(f"`{row['function']}`", row["line"], row["tasks"], row["blocks"], *(f"{row[name]:.2f}" for name in OF_STAGES))
          for row in report["ray_stages"]),
        "\n## Inside `write_task`\n",
        "In a further run without Ray, under cProfile.\n",
        "| part | seconds | ns a base |",
        "|---|---|---|",
        *(cells(what, f"{seconds:.3f}", f"{seconds / bases * 1e9:.2f}") for what, seconds in report["write_parts"].items()),
    ])


def whole_run(row: Row) -> str:
    """A row of the table of whole runs."""
    runs = row["runs"]
    by_line = [f"{median(runs, lambda one, line=line: one['stages'][line]):.2f}" for line in runs[0]["stages"]]
    seconds, cpu_s = (f"{median(runs, lambda one, name=name: one[name]):.2f}" for name in ("seconds", "cpu_s"))
    return cells(row["workers"], "zstd" if row["compress"] else "none", *by_line, seconds, cpu_s)


def speeds(total: Row) -> Iterator[tuple[str, float]]:
    """What would be reached without some of the whole's seconds."""
    yield "the whole run", total["whole_s"]
    yield "without the idle stages", total["whole_s"] - total["idle_s"]
    yield "the work without Ray", total["tasks_s"] + total["driver_s"]


def cells(*values: object) -> str:
    """A row of a table."""
    return f"| {' | '.join(map(str, values))} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("genomes", nargs="+", help="plain, gzip or bgzip FASTA")
    parser.add_argument("--name", default="preprocess_profile", help="of the results")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--work", help="where a temporary folder of some GB is made")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="preprocess_profile_", dir=args.work) as work:
        report = measure_all(args, Path(work))
    write_report(args.out, args.name, report, markdown(report))


if __name__ == "__main__":
    main()
