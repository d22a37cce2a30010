"""Ways to read a FASTA file to its letters: ours, pysam's and Biopython's; CPU time and peak memory of a process each.

    python tests/benchmarks/fasta_readers.py 20.fa.gz [--repeats 3]

Each reader goes through the file, plain and as it was given, from the page cache, and hands on every record's letters as bytes, which are
thrown away. Ours looks at each letter and makes it upper case; for the others that is done here, in the same way, in the rows that say so.
Prints Markdown: the page results/fasta_readers.md, with the machine and the command.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from preprocess import OURS
from preprocess_report import heading, machine_facts


class Counted(io.RawIOBase):
    """Takes bytes and keeps their number."""

    size = 0

    def write(self, letters: bytes) -> int:
        self.size += len(letters)
        return len(letters)


def ours(path: str, *, find_lower_case: bool = False) -> int:
    from hyena_glt.data.fasta import read_fasta

    sink = Counted()
    read_fasta(Path(path), "dna", sink, find_lower_case=find_lower_case)
    return sink.size


def pysam_stream(path: str, *, check: bool = False) -> int:
    import pysam

    with pysam.FastxFile(path) as records:
        return sum(number_of(record.sequence, check) for record in records)


def biopython(path: str, *, check: bool = False) -> int:
    from Bio.SeqIO.FastaIO import SimpleFastaParser

    with (gzip.open if path.endswith(".gz") else open)(path, "rt") as file:
        return sum(number_of(letters, check) for _, letters in SimpleFastaParser(file))


def number_of(text: str, check: bool) -> int:
    """How many letters there are, once each is looked at if that is asked for."""
    letters = text.encode()
    if check:
        letters = letters.translate(UPPER)
        assert b"\0" not in letters
    return len(letters)


UPPER = bytes(letter if letter in b"ACGTUNRYSWKMBDHV" else 0 for letter in bytes(range(256)).upper())
READERS: dict[str, Callable[[str], int]] = {
    "ours": ours, "ours, lower-case stretches too": partial(ours, find_lower_case=True),
    "pysam.FastxFile": pysam_stream, "pysam.FastxFile, letters looked at": partial(pysam_stream, check=True),
    "Biopython, SimpleFastaParser": biopython, "Biopython, letters looked at": partial(biopython, check=True),
}


def one(name: str, path: str) -> None:
    """In a process of its own: bases, CPU seconds of the reading, MiB that it took beyond what the imports had."""
    READERS[name](str(Path(path).with_name("small.fa")))  # imports
    before, mib = os.times(), peak_mib()
    bases = READERS[name](path)
    after = os.times()
    print(bases, after.user + after.system - before.user - before.system, peak_mib() - mib)


def peak_mib() -> float:
    """The most memory that this process has had."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024


def measure(name: str, path: Path, repeats: int) -> str:
    """A line of the table, with the run that took the least."""
    command = [sys.executable, __file__, "--one", name, str(path)]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    runs = [subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout.split() for _ in range(repeats)]
    bases, seconds, mib = min(runs, key=lambda run: float(run[1]))
    kind = "gzip" if path.suffix == ".gz" else "plain"
    return f"| {name} | {kind} | {float(seconds):.2f} | {int(bases) / float(seconds) / 1e6:.0f} | {float(mib):.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("genome", help="gzip or bgzip FASTA")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    with contextlib.redirect_stdout(sys.stderr):
        facts = machine_facts(OURS)
    print("\n".join(heading("Readers of FASTA", facts)))
    print("\n| reader | file | CPU seconds | million bases a CPU second | MiB |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        plain, packed = Path(folder) / "genome.fa", Path(folder) / "genome.fa.gz"
        shutil.copyfile(args.genome, packed)
        plain.write_bytes(gzip.decompress(packed.read_bytes()))
        (Path(folder) / "small.fa").write_text(">a\nACGT\n")
        for path in (plain, packed):
            for name in READERS:
                print(measure(name, path, args.repeats), flush=True)


if __name__ == "__main__":
    one(*sys.argv[2:]) if sys.argv[1:2] == ["--one"] else main()
