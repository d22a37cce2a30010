"""Whole slices of the 1000 Genomes Project applied to human chromosome 20, and some of the haplotypes beside those of bcftools.

    python tests/benchmarks/haplotypes.py DATA

DATA is a folder with the groups `vcf` and `human` of fetch_data.sh: 3 Mb of 300 people, phased (bgzip with its index), the same 3 Mb of
203 others with some unphased calls (here as plain text), and GRCh37's chromosome 20. Each case is the command `hyena-glt preprocess
population.yaml`, its seconds from its start to its end, Ray's start among them. What went in must be what came out and what was dropped,
base by base; and the rows of the people compared must spell what `bcftools consensus` (apt-get install bcftools tabix) makes of the same
calls, letter by letter. Results go to haplotypes.{json,md} below --out.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pysam
from meters import Peaks
from page import shown, write_report
from preprocess_report import Row, heading, machine_facts, output_of

from hyena_glt.data.manifest import Manifest, read_manifest

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parent / "results"
OURS = {"hyena-glt": (ROOT, Path(sys.executable), ("ray", "pyarrow", "numpy", "pysam"))}
FASTA, PHASED, MIXED = "human/20.fa.gz", "vcf/kgp_chr20_1-4Mb_300samples_phased.vcf.gz", "vcf/kgp_chr20_1-4Mb_203samples.vcf.gz"
CONTIG, REGION = "20", (1_000_000, 4_000_000)
SETTINGS = [
    "preprocessing.max_length=1024", 'preprocessing.split.val_intervals=["20:3,400,001-3,700,000"]',
    'preprocessing.split.test_intervals=["20:3,700,001-4,000,000"]',
]
LETTERS = np.frombuffer(b"....NACGT", np.uint8)
"""Of the ids of the char tokenizer; 4 stands for what is none of the four."""
NUM_PEOPLE = 5
"""Compared, of a file."""
ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class Case:
    """Samples of a file, all where none are named, on a region or all of the chromosome; `people` are compared."""

    what: str
    vcf: Path
    packed: Path
    """The same file for bcftools, which needs bgzip and an index."""
    names: Sequence[str]
    people: Sequence[str]
    region: tuple[int, int] | None

    def command(self, fasta: Path, output: Path) -> list[str]:
        stretch = f"{CONTIG}:{self.region[0] + 1}-{self.region[1]}" if self.region else CONTIG
        variants = {"path": str(self.vcf), "samples": f"[{','.join(self.names)}]", "regions": f'["{stretch}"]'}
        settings = [f"preprocessing.variants.{name}={value}" for name, value in variants.items()]
        return ["hyena-glt", "preprocess", "population.yaml", "--input", str(fasta), "--output", str(output), *SETTINGS, *settings]


def cases(data: Path, work: Path) -> Iterator[Case]:
    phased, mixed = (Path(shutil.copy(data / name, work)) for name in (PHASED, MIXED))
    for vcf in (phased, mixed):
        pysam.tabix_index(str(vcf), preset="vcf", csi=True, force=True)
    plain = work / "203samples.vcf"
    plain.write_bytes(gzip.decompress(mixed.read_bytes()))
    for what, vcf, packed in (("bgzip with its index, phased", phased, phased), ("plain text, partly unphased", plain, mixed)):
        names = pysam.VariantFile(str(vcf)).header.samples
        people = [names[at] for at in np.linspace(0, len(names) - 1, NUM_PEOPLE).astype(int)]
        yield Case(what, vcf, packed, (), people, REGION)
    few = list(pysam.VariantFile(str(phased)).header.samples)[:4]
    yield Case("four people on the whole chromosome", phased, phased, few, few, None)


def measure(case: Case, fasta: Path, work: Path) -> Row:
    """Run a case, count its bases, compare some of its people."""
    output = work / "haplotypes"
    command = case.command(fasta, output)
    figures = run(command, work)
    manifest = read_manifest(output)
    row = {"case": case.what, "command": shown(command)} | figures | counts(manifest)
    if shutil.which("bcftools"):
        row["compared"] = [compare(case, sample, number, fasta, output, manifest) for sample in case.people for number in (1, 2)]
    shutil.rmtree(output)
    return row


def run(command: Sequence[str], work: Path) -> Row:
    """Seconds and peak memory of a command of ours; what it says goes to a file."""
    started = time.perf_counter()
    with (work / "stderr").open("w") as log:
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        ours = [sys.executable, "-m", "hyena_glt.cli", *command[1:]]
        process = subprocess.Popen(ours, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=log, text=True)
    peaks = Peaks(process.pid)
    process.stdout.read()  # ends with the process, which is gone only once it was waited for
    seconds, peak_mib = time.perf_counter() - started, peaks.stop()
    if process.wait():
        raise SystemExit(f"{' '.join(command)} failed:\n{(work / 'stderr').read_text()[-4000:]}")
    return {"seconds": seconds, "peak_mib": peak_mib}


def counts(manifest: Manifest) -> Row:
    """Bases in, in the rows, and dropped by reason: they must add up. The records and bases of the VCF are those of its haplotypes."""
    reference, variants = manifest.inputs
    rows, dropped = sum(split.bases for split in manifest.splits.values()), {why: what["bases"] for why, what in manifest.dropped.items()}
    total, left = reference.bases + variants.bases, sum(dropped.values())
    if total != rows + left:
        raise SystemExit(f"{total:,} bases went in, {rows:,} into rows and {left:,} were dropped")
    return {
        "haplotypes": variants.records, "bases": total, "row_bases": rows, "dropped": dropped, "variants": dict(manifest.variants),
        "rows": {name: split.rows for name, split in manifest.splits.items()},
    }


def compare(case: Case, sample: str, number: int, fasta: Path, output: Path, manifest: Manifest) -> Row:
    """One haplotype: its bases as bcftools has them, those in its rows, and how many of these are other letters."""
    source = f"{sample}.{number}"
    wanted, stored, different = consensus(case, sample, number, fasta, output.parent), 0, 0
    for split in manifest.splits:
        columns = ["input_ids", "start", "length"]
        table = pq.read_table(output / split, columns=columns, filters=[("source", "=", source)])
        for batch in table.to_batches(max_chunksize=ROWS_AT_ONCE):
            letters = LETTERS[manifest.row_format.packings["input_ids"].unpack(batch["input_ids"])]
            place = batch["start"].to_numpy()[:, None] + np.arange(letters.shape[1])
            is_base = np.arange(letters.shape[1]) < batch["length"].to_numpy()[:, None]
            stored += int(is_base.sum())
            different += int((wanted.take(place, mode="clip") != letters)[is_base].sum())
    return {"haplotype": source, "bases": len(wanted), "row_bases": stored, "different": different}


def consensus(case: Case, sample: str, number: int, fasta: Path, work: Path) -> np.ndarray:
    """The letters that bcftools gives, uint8, upper case; it writes the first and the second allele of a call, phased or not."""
    start, end = case.region or (0, None)
    letters = pysam.FastaFile(str(fasta)).fetch(CONTIG, start, end)
    stretch = work / "stretch.fa"
    stretch.write_text(f">{CONTIG}:{start + 1}-{start + len(letters)}\n{letters}\n")
    text = output_of("bcftools", "consensus", "-f", str(stretch), "-s", sample, "-H", str(number), str(case.packed))
    found = np.frombuffer(text.partition("\n")[2].replace("\n", "").upper().encode(), np.uint8)
    return np.where(np.isin(found, LETTERS[5:]), found, ord("N"))


def markdown(report: Row) -> str:
    """The page."""
    return "\n".join([
        *heading("Haplotypes of whole slices of the 1000 Genomes Project", report),
        "\nSeconds hold Ray's start; MiB is the highest resident memory of any process of a kind, mapped files and shared memory included. "
        "Bases of all haplotypes and of the reference go in; each is in a row or was dropped for a reason that is named.\n",
        "| case | haplotypes | bases in | bases in rows | seconds | Mbp/s | worker, MiB | driver, MiB |",
        "|---" * 8 + "|",
        *map(line_of, report["rows"]),
        *(line for row in report["rows"] for line in section(row)),
    ])


def line_of(row: Row) -> str:
    peaks = row["peak_mib"]
    return (f"| {row['case']} | {row['haplotypes']:,} | {row['bases']:,} | {row['row_bases']:,} | {row['seconds']:.1f} "
            f"| {row['bases'] / row['seconds'] / 1e6:.1f} | {peaks['worker']:,} | {peaks['driver']:,} |")


def section(row: Row) -> list[str]:
    """What became of one case's bases and variants, and the haplotypes that were compared."""
    dropped, variants = (", ".join(f"{name} {count:,}" for name, count in row[key].items() if count) for key in ("dropped", "variants"))
    rows = ", ".join(f"{split} {count:,}" for split, count in row["rows"].items())
    head = [f"\n## {row['case'].capitalize()}\n", f"`{row['command']}`\n", f"- rows: {rows}", f"- bases dropped: {dropped}",
            f"- variants: {variants}"]
    if "compared" not in row:
        return [*head, "- not compared: bcftools is not there"]
    lines = [f"| {one['haplotype']} | {one['bases']:,} | {one['row_bases']:,} | {one['different']:,} |" for one in row["compared"]]
    return [*head, "\n| haplotype | bases by bcftools | bases in rows | of them other letters than bcftools' |", "|---" * 4 + "|", *lines]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a folder with the groups `vcf` and `human` of fetch_data.sh")
    parser.add_argument("--work", help="where a temporary folder of some GB is made")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    report = machine_facts(OURS) | {"rows": []}
    if shutil.which("bcftools"):
        report["versions"]["bcftools"] = output_of("bcftools", "--version").split()[1]
    with tempfile.TemporaryDirectory(prefix="haplotypes_", dir=args.work) as folder:
        for case in cases(args.data.absolute(), Path(folder)):
            report["rows"].append(measure(case, args.data.absolute() / FASTA, Path(folder)))
            print(json.dumps(report["rows"][-1]), flush=True)
    write_report(args.out, "haplotypes", report, markdown(report))


if __name__ == "__main__":
    main()
