"""Peak memory and time of preprocessing where a record is long, where its windows are alike, and where records are many.

    python tests/benchmarks/preprocess_scale.py 20.fa.gz

Every case is `ours` of preprocess.py with two workers bound to two cores, the char tokenizer and the default codec:

- one record of 250 Mb of random letters, all settings but the split's default;
- one record of 250 Mb made of the given genome: its whole windows, then copies of them in which one letter in 500 is another, so that
  about a third of the copies stays below the threshold of `near_duplicates`; with it and `split.max_leakage`, at long and at short windows;
- the genome's records end to end, cut evenly into 1, 5,000 and 50,000 contigs, all of it for train.

Memory is sampled every tenth of a second, which costs some of the time. Results go to preprocess_scale.{json,md} below --out.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from page import write_page
from preprocess import DEFAULTS, LINE, OURS, RESULTS, Case, Genomes, our_case, plain_genomes, run, synthetic
from preprocess_report import Row, heading, machine_facts

BASES = 250_000_000
CHANGED = 500
"""One letter in so many is another in a copy."""
CONTIGS = (1, 5_000, 50_000)
COMPARED = [*DEFAULTS, "preprocessing.near_duplicates.threshold=0.9", "preprocessing.split.max_leakage=1"]
ALL_TRAIN = ["tokenization.kind=char", "preprocessing.split.val=0", "preprocessing.split.test=0"]
"""A tail of a short contig would be less than a window."""
WANTED_MIB = 1024
KINDS = ("worker", "worker, private", "driver", "driver, private")


def letters_of(genome: Genomes) -> np.ndarray:
    """The letters of all records end to end, uint8."""
    lines = (line.strip() for file in genome.files for line in file.open("rb") if not line.startswith(b">"))
    return np.frombuffer(b"".join(lines), np.uint8)


def write_records(path: Path, records: Sequence[np.ndarray]) -> Path:
    """Each as lines of LINE letters."""
    with path.open("wb") as sink:
        for number, letters in enumerate(records):
            sink.write(b">contig_%d\n" % number)
            whole = letters[: len(letters) // LINE * LINE].reshape(-1, LINE)
            sink.write(np.pad(whole, ((0, 0), (0, 1)), constant_values=ord("\n")).tobytes())
            sink.write(letters[whole.size :].tobytes() + b"\n" * (whole.size < len(letters)))
    return path


def with_copies(letters: np.ndarray, window: int) -> np.ndarray:
    """BASES letters: the whole windows, and changed copies of them, which so begin where windows do."""
    rng, whole = np.random.default_rng(0), letters[: len(letters) // window * window]
    copies = np.resize(whole, BASES)
    places = len(whole) + rng.integers(0, BASES - len(whole), (BASES - len(whole)) // CHANGED)
    copies[places] = np.frombuffer(b"ACGT", np.uint8)[rng.integers(0, 4, len(places))]
    return copies


def cases(genome: Genomes, work: Path) -> Iterator[tuple[str, Case]]:
    """What it is -> the case; each input is written just before."""
    letters = letters_of(genome)
    record = Genomes("record", [synthetic(work / "record.fa", BASES)], BASES, {})
    yield "one record, random letters", our_case(record, work, 1024, workers=2)
    for window in (1024, 128):
        alike = Genomes("record", [write_records(work / "record.fa", [with_copies(letters, window)])], BASES, {})
        yield "one record with copies, near-duplicates and leakage", our_case(alike, work, window, workers=2, settings=COMPARED)
    for number in CONTIGS:
        cut = Genomes("contigs", [write_records(work / "record.fa", np.array_split(letters, number))], len(letters), {})
        yield f"the genome in {number:,} contig{'s' if number > 1 else ''}", our_case(cut, work, 1024, workers=2, settings=ALL_TRAIN)


def measure_all(args: argparse.Namespace, work: Path) -> Row:
    """The whole report."""
    facts, rows = machine_facts(sys.argv, OURS), []
    synthetic(work / "warm_up.fa", 1_000_000)
    for what, case in cases(plain_genomes("genome", [args.genome], work, savanna=False), work):
        rows.append({"case": what, "window": case.window} | run(case, work, args, memory=True))
        print(json.dumps(rows[-1]), flush=True)
    return facts | {"rows": rows}


def markdown(report: Row) -> str:
    """The page."""
    others = max(row["other_cores"] for row in report["rows"])
    return "\n".join([
        *heading("Preprocessing at scale: memory, and many contigs", report),
        f"\nTwo workers on two cores, zstd, one token a base. Other processes kept at most {others:.2f} cores busy while a case ran. "
        f"MiB: highest resident memory of any process of a kind (mapped files and shared memory included), and its private part, sampled. "
        f"Wanted: at most {WANTED_MIB:,} MiB a worker.\n",
        "| case | window | bases | seconds | Mbp/s | rows | " + " | ".join(f"{kind}, MiB" for kind in KINDS) + " | |",
        "|---" * (7 + len(KINDS)) + "|",
        *map(line_of, report["rows"]),
        "\n## Seconds a stage\n",
        *map(stage_line, report["rows"]),
    ])


def line_of(row: Row) -> str:
    peaks, verdict = row["peak_mib"], "reached" if row["peak_mib"]["worker"] <= WANTED_MIB else "**missed**"
    return (f"| {row['case']} | {row['window']:,} | {row['bases']:,} | {row['seconds']:.1f} | {row['bases'] / row['seconds'] / 1e6:.1f} "
            f"| {row['rows']:,} | " + " | ".join(f"{peaks[kind]:,}" for kind in KINDS) + f" | {verdict} |")


def stage_line(row: Row) -> str:
    return f"- {row['case']}, {row['window']:,}: " + ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in row["stages"].items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("genome", help="plain, gzip or bgzip FASTA")
    parser.add_argument("--work", help="where a temporary folder of some GB is made")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="preprocess_scale_", dir=args.work) as work:
        report = measure_all(args, Path(work))
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "preprocess_scale.json").write_text(json.dumps(report, indent=1) + "\n")
    write_page(args.out / "preprocess_scale.md", markdown(report))


if __name__ == "__main__":
    main()
