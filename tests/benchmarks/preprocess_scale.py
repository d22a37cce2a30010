"""Peak memory and time of preprocessing where a record is long, its windows alike, or records many, and of each way in and out.

    python tests/benchmarks/preprocess_scale.py 20.fa.gz
    python tests/benchmarks/preprocess_scale.py 20.fa.gz --cases haplotypes hdf5 --out elsewhere

Every case is `ours` of preprocess.py with two workers bound to two cores, the char tokenizer and the default codec:

- one record of 250 Mb of random letters, all settings but the split's default;
- one record of 250 Mb made of the given genome: its whole windows, then copies of them in which one letter in 500 is another, so that
  about a third of the copies stays below the threshold of `near_duplicates`; with it and `split.max_leakage`, at long and at short windows;
- the genome's records end to end, cut evenly into 1, 5,000 and 50,000 contigs, all of it for train;
- one record of 250 Mb of random letters, of which stretches of 1 to 600 are lower-case, every second one: cut out, and weighted;
- random letters again, packed by gzip and by bgzip, and written as HDF5;
- such a record as the reference of two samples, with a variant about every 1,000 bases, a fifth of them insertions and deletions of up
  to 20.

The bases that each case must find are known from how its input is made. `--cases` runs some of them, for a page elsewhere (`--out`).
Memory is sampled every tenth of a second, which costs some of the time. Results go to preprocess_scale.{json,md} below --out.
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pysam
from page import write_report
from preprocess import DEFAULTS, LINE, OURS, RESULTS, Case, Genomes, our_case, plain_genomes, run, synthetic
from preprocess_report import Row, heading, machine_facts

BASES = 250_000_000
CHANGED = 500
"""One letter in so many is another in a copy."""
CONTIGS = (1, 5_000, 50_000)
COMPARED = [*DEFAULTS, "preprocessing.near_duplicates.threshold=0.9", "preprocessing.split.max_leakage=1"]
ALL_TRAIN = ["tokenization.kind=char", "preprocessing.split.val=0", "preprocessing.split.test=0"]
"""A tail of a short contig would be less than a window."""
LONGEST_STRETCH = 600
"""Of one case: RepeatMasker's stretches in a human genome are about 300 bases long, half of the genome."""
SAMPLES = ("A", "B")
VARIANT_EVERY, LONGEST_INDEL = 1000, 20
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


def random_letters() -> np.ndarray:
    """BASES letters, uint8."""
    return np.frombuffer(b"ACGT", np.uint8)[np.random.default_rng(0).integers(0, 4, BASES, np.uint8)]


def soft_masked(letters: np.ndarray) -> np.ndarray:
    """The same with every second stretch in lower case."""
    lengths = np.random.default_rng(1).integers(1, LONGEST_STRETCH + 1, 4 * len(letters) // LONGEST_STRETCH)
    is_lower = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)[: len(letters)]
    return letters | (is_lower.astype(np.uint8) << 5)


def write_variants(path: Path, letters: np.ndarray) -> tuple[Path, int]:
    """A VCF of SAMPLES on contig_0, compressed and with an index; how many bases more than the reference their haplotypes have in all.

    Variants lie so far apart that none overlaps another. Each is carried by one haplotype of four at least.
    """
    rng, growth = np.random.default_rng(2), 0
    position = np.arange(0, len(letters) - VARIANT_EVERY, VARIANT_EVERY)
    position += rng.integers(1, VARIANT_EVERY - 2 * LONGEST_INDEL, len(position))
    with path.open("w") as sink:
        columns = ["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT", *SAMPLES]
        sink.write(f"##fileformat=VCFv4.2\n##contig=<ID=contig_0,length={len(letters)}>\n")
        sink.write('##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">\n' + "\t".join(columns) + "\n")
        for at in position.tolist():
            ref, alt = alleles(letters[at : at + LONGEST_INDEL + 1].tobytes().decode(), rng)
            carriers = int(rng.integers(1, 16))  # a bit a haplotype
            calls = [f"{carriers >> 2 * sample & 1}|{carriers >> 2 * sample + 1 & 1}" for sample in range(len(SAMPLES))]
            sink.write("\t".join(["contig_0", str(at + 1), ".", ref, alt, ".", "PASS", ".", "GT", *calls]) + "\n")
            growth += carriers.bit_count() * (len(alt) - len(ref))
    return Path(pysam.tabix_index(str(path), preset="vcf", force=True)), growth


def alleles(found: str, rng: np.random.Generator) -> tuple[str, str]:
    """REF and ALT where the reference reads `found`: four times of five another base, else an insertion or a deletion."""
    kind, length = int(rng.integers(10)), int(rng.integers(1, LONGEST_INDEL + 1))
    if kind == 0:
        return found[: length + 1], found[0]
    if kind == 1:
        return found[0], found[0] + "".join(rng.choice(list("ACGT"), length))
    return found[0], "ACGT"["ACGT".index(found[0]) - int(rng.integers(1, 4))]


Cases = Iterator[tuple[str, Case]]
"""What it is -> the case; each input is written just before."""


def random_case(genome: Genomes, work: Path) -> Cases:
    record = Genomes("record", [synthetic(work / "record.fa", BASES)], BASES, {})
    yield "one record, random letters", our_case(record, work, 1024, workers=2)


def copies_cases(genome: Genomes, work: Path) -> Cases:
    letters = letters_of(genome)
    for window in (1024, 128):
        alike = Genomes("record", [write_records(work / "record.fa", [with_copies(letters, window)])], BASES, {})
        yield "one record with copies, near-duplicates and leakage", our_case(alike, work, window, workers=2, settings=COMPARED)


def contigs_cases(genome: Genomes, work: Path) -> Cases:
    letters = letters_of(genome)
    for number in CONTIGS:
        cut = Genomes("contigs", [write_records(work / "record.fa", np.array_split(letters, number))], len(letters), {})
        yield f"the genome in {number:,} contig{'s' if number > 1 else ''}", our_case(cut, work, 1024, workers=2, settings=ALL_TRAIN)


def soft_masked_cases(genome: Genomes, work: Path) -> Cases:
    record = Genomes("record", [write_records(work / "record.fa", [soft_masked(random_letters())])], BASES, {})
    for what, settings in (
        ("cut out", ["preprocessing.soft_masked=drop"]),
        ("weighted", ["preprocessing.soft_masked=weight", "preprocessing.soft_masked_weight=0.1"]),
    ):
        yield f"one record, half of it lower-case, {what}", our_case(record, work, 1024, workers=2, settings=[*DEFAULTS, *settings])


def gzip_case(genome: Genomes, work: Path) -> Cases:
    plain, packed = synthetic(work / "record.fa", BASES), work / "record.fa.gz"
    with plain.open("rb") as source, gzip.open(packed, "wb", compresslevel=1) as sink:
        shutil.copyfileobj(source, sink, 1 << 20)
    yield "one record, gzip", our_case(Genomes("record", [packed], BASES, {}), work, 1024, workers=2)


def bgzip_case(genome: Genomes, work: Path) -> Cases:
    packed = work / "record.fa.gz"
    pysam.tabix_compress(str(synthetic(work / "record.fa", BASES)), str(packed), force=True)
    yield "one record, bgzip", our_case(Genomes("record", [packed], BASES, {}), work, 1024, workers=2)


def hdf5_case(genome: Genomes, work: Path) -> Cases:
    record = Genomes("record", [synthetic(work / "record.fa", BASES)], BASES, {})
    yield "one record, written as HDF5", our_case(record, work, 1024, workers=2, settings=[*DEFAULTS, "output.format=hdf5"])


def haplotypes_case(genome: Genomes, work: Path) -> Cases:
    letters = random_letters()
    variants, growth = write_variants(work / "variants.vcf", letters)
    bases = (1 + 2 * len(SAMPLES)) * BASES + growth  # a haplotype counts as an input
    built = Genomes("record", [write_records(work / "record.fa", [letters])], bases, {})
    settings = [*DEFAULTS, f"preprocessing.variants.path={variants}"]
    yield f"one record, {2 * len(SAMPLES)} haplotypes by a VCF", our_case(built, work, 1024, workers=2, settings=settings)


CASES: dict[str, Callable[[Genomes, Path], Cases]] = {
    "random": random_case, "copies": copies_cases, "contigs": contigs_cases, "soft_masked": soft_masked_cases, "gzip": gzip_case,
    "bgzip": bgzip_case, "hdf5": hdf5_case, "haplotypes": haplotypes_case,
}


def measure_all(args: argparse.Namespace, work: Path) -> Row:
    """The whole report."""
    facts, rows = machine_facts(OURS), []
    synthetic(work / "warm_up.fa", 1_000_000)
    genome = plain_genomes("genome", [args.genome], work, savanna=False)
    for name in args.cases:
        for what, case in CASES[name](genome, work):
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
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--work", help="where a temporary folder of some GB is made")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="preprocess_scale_", dir=args.work) as work:
        report = measure_all(args, Path(work))
    write_report(args.out, "preprocess_scale", report, markdown(report))


if __name__ == "__main__":
    main()
