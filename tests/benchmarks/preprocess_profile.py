"""Where the time of preprocessing goes: a whole run, its work without Ray, and the same stages of Ray Data without the work.

    python tests/benchmarks/preprocess_profile.py 20.fa.gz

Plain FASTA of the genome, one core, windows of 1,024, the char tokenizer, the default codec. Two cases take turns, and medians are kept:

- the whole run: `ours` of preprocess.py with one worker, by the stages that the progress lines tell;
- its parts (preprocess_parts.py), in another process bound to the same core: the same run with every stage's function called in that
  process; then each of its stages of Ray Data, of as many tasks and blocks, with tasks that do nothing; then with tasks that spend as much
  CPU time as the real ones and do nothing, which shows what Ray's own processes take of the core for as long as tasks run.

What the parts together leave of the whole is a column of its own. Results go to preprocess_profile.{json,md} below --out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
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


def cases(data: Genomes, work: Path) -> tuple[Case, Case]:
    """The whole run and its parts."""
    whole = our_case(data, work, WINDOW, workers=1)
    arguments = {name: whole.arguments[name] for name in ("settings", "output", "warm_up")}
    return whole, replace(whole, what="parts", script=PARTS, arguments=arguments)


def measure_all(args: argparse.Namespace, work: Path) -> Row:
    """The whole report."""
    facts = machine_facts(sys.argv, OURS)
    synthetic(work / "warm_up.fa", 1_000_000)
    data = plain_genomes("genome", [args.genome], work, savanna=False)
    rows: list[Row] = [case.key | {"runs": []} for case in cases(data, work)]
    for _ in range(args.repeats):
        for row, case in zip(rows, cases(data, work), strict=True):
            row["runs"].append(run(case, work, args))
            print(json.dumps(row["runs"][-1]), flush=True)
    whole, parts = (row["runs"] for row in rows)
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
    return "\n".join([
        *heading("Where the time of preprocessing goes", report),
        f"\n{bases:,} bases as plain FASTA, windows of {WINDOW:,}, one token a base, zstd; each of {len(report['rows'][0]['runs'])} runs "
        f"bound to one core, and so were those of its parts; medians. {others_too(report | {'rows': report['rows'][:1]})}\n",
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
    parser.add_argument("genome", help="plain, gzip or bgzip FASTA")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--work", help="where a temporary folder of some GB is made")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="preprocess_profile_", dir=args.work) as work:
        report = measure_all(args, Path(work))
    write_report(args.out, "preprocess_profile", report, markdown(report))


if __name__ == "__main__":
    main()
