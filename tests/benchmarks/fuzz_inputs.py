"""Mutate real inputs and read them: success, or one DataError that names the file, and the line where the format has lines.

    python tests/benchmarks/fuzz_inputs.py [NUMBER [FIRST_SEED]]

Each seed is one mutated file, the same on every machine. Exits with 1, and prints the seeds, if one ended in any other way.
"""

from __future__ import annotations

import gzip
import io
import random
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from hyena_glt.data.fasta import BGZF_END, LETTERS, Record, Span, is_compressed, read_fasta, refuse_repeated_names
from hyena_glt.data.sources.features import SUFFIXES
from hyena_glt.data.sources.go_terms import read_go_terms
from hyena_glt.data.sources.haplotypes import Region, apply_edits
from hyena_glt.data.sources.population import read_haplotypes
from hyena_glt.data.sources.regions import read_regions
from hyena_glt.data.sources.structures import read_structure
from hyena_glt.data.sources.variants import contigs, sample_names
from hyena_glt.errors import DataError

DATA = Path(__file__).parents[1] / "data"
GENOMES = Path(__file__).parents[2] / "pipelines" / "genomes"
START_BYTES = 6_000
"""Of each file: its start is where the formats differ from line to line, and small files make many runs."""
CONTIG = "chr20_2.34M"

TOKENS = [
    *b"\t|\n|\r|\r\n|\0|\xff|\xc3|\x85|\x1c|\x0b|-1|0|99999999999999999999|1e5|nan|.|+|-|?|;|=|\"|%|%ZZ|#|##|>|>x|@|!| |,|:".split(b"|"),
    *b"##FASTA ##contig=<ID=1> #CHROM ##fileformat=VCFv4.2 track browser !gaf-version:9 GO: NOT 0|1 1/. ./. 7|7 GT:DP <DEL> * N".split(),
    *b"ATOM HETATM SEQRES MODEL ENDMDL TER END loop_ _entity_poly. data_x save_ ? _atom_site. MODRES ACGTN acgt- RYK".split(),
    b"A" * 5000, "é".encode(), "٣".encode(), b"\xef\xbb\xbf", b"\x1f\x8b", b"|",
]
NAMES_NO_LINE = re.compile(
    r"empty|cut short|damaged|holds no|no region has|no feature|no protein has|no type|no contig|no sample|no PDB|is none of|"
    r"is not inside contig|is not in the reference|record \d+|cannot read"
)
"""What is said of a whole file, or of a BCF record, has no line."""


def start_of(path: Path) -> bytes:
    """The first whole lines of a file, uncompressed; of a PDB file from its sequence on."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        content = file.read()
    content = content[max(content.find(b"SEQRES"), 0) :][:START_BYTES]
    return content[: content.rfind(b"\n") + 1]


def bgzip(content: bytes) -> bytes:
    """Blocks of 500 bytes and the empty block behind them, as bgzip writes them."""
    out = bytearray()
    for at in range(0, len(content), 500):
        block = gzip.compress(content[at : at + 500], mtime=0)
        extra = b"BC\2\0" + (len(block) + 8 - 1).to_bytes(2, "little")
        out += block[:3] + b"\4" + block[4:10] + len(extra).to_bytes(2, "little") + extra + block[10:]
    return bytes(out) + BGZF_END


def seeds_of_fuzz() -> dict[str, bytes]:
    """Name of the file to write -> what is mutated."""
    files = {
        "a.fa": GENOMES / "phix174.fa", "b.fa": DATA / "annotations/SmikIFO1815_1.fna.gz", "c.faa": DATA / "annotations/yeast_proteins.faa",
        "d.vcf": DATA / "population/chr20_2.34M.vcf.gz", "e.gff3": DATA / "annotations/SmikIFO1815_1.gff.gz",
        "f.gtf": DATA / "annotations/SmikIFO1815_1.gtf.gz", "g.gaf": DATA / "annotations/goa_yeast.gaf.gz",
        "i.cif": DATA / "structures/1A8O.cif.gz", "j.pdb": DATA / "structures/2N0N.pdb.gz",
    }
    bed = b"browser position chr1:1-90\ntrack name=x\nchr1\t10\t20\talpha\t0\t+\nchr1 0 5 beta 7 -\nchr2\t89\t120\t.\t0\t-\n" * 3
    return {name: start_of(path) for name, path in files.items()} | {"h.bed": bed}


def reference_letters() -> np.ndarray:
    """The contig that the VCF file was called on, uint8."""
    with gzip.open(DATA / "population/chr20_2.34M.fa.gz") as file:
        return np.frombuffer(b"".join(file.read().split(b"\n")[1:]), np.uint8)


def mutate(content: bytes, draw: random.Random) -> bytes:
    """One to twenty small damages."""
    found = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 2, 5, 20))):
        at, kind = draw.randrange(len(found) + 1), draw.randrange(7)
        if kind == 0 and found:
            found[min(at, len(found) - 1)] = draw.randrange(256)
        elif kind == 1:
            del found[at : at + draw.choice((1, 2, 10, 100, 5000))]
        elif kind == 2:
            found[at:at] = draw.choice(TOKENS)
        elif kind == 3:
            other = draw.randrange(len(found) + 1)
            found[at:at] = found[other : other + draw.choice((5, 80, 500))]
        elif kind == 4 and draw.random() < 0.3:
            del found[at:]
        elif kind == 5:
            lines = found.split(b"\n")
            one, other = draw.randrange(len(lines)), draw.randrange(len(lines))
            lines[one], lines[other] = lines[other], lines[one]
            found = bytearray(b"\n".join(lines))
        else:
            found[at : at + 6] = draw.choice(TOKENS)
    return bytes(found)


def pack(content: bytes, name: str, draw: random.Random) -> tuple[str, bytes]:
    """Now and then compressed, and the compressed bytes damaged in turn."""
    how = draw.choice((None, None, None, None, partial(gzip.compress, mtime=0), bgzip))
    if how is None:
        return name, content
    packed = how(content)
    return f"{name}.gz", mutate(packed, draw) if draw.random() < 0.6 else packed


def read(path: Path, draw: random.Random, reference: np.ndarray) -> None:
    """Read a file as preprocessing does, and check what comes out of it."""
    suffix = Path(path.name.removesuffix(".gz")).suffix
    if suffix in (".fa", ".faa"):
        _check_fasta(path, "dna" if suffix == ".fa" else "protein", draw)
    elif suffix == ".vcf":
        _check_haplotypes(path, reference)
    elif suffix == ".gaf":
        read_go_terms(path, exclude_evidence=draw.choice(((), ("ND",))))
    elif suffix in SUFFIXES:
        _check_regions(path, suffix, draw)
    else:
        for polymer in read_structure(path, draw.choice(("protein", "protein", "dna"))):
            assert polymer.name and re.fullmatch("[A-Z]+", polymer.letters), polymer


def _check_fasta(path: Path, sequence_type: str, draw: random.Random) -> None:
    """A plain file also in two spans, which together must give what the whole gives."""
    letters, records = _fasta(path, sequence_type)
    refuse_repeated_names(path, records)
    assert set(letters) <= set(LETTERS[sequence_type]) and sum(record.length for record in records) == len(letters)
    if not is_compressed(path):
        end = path.stat().st_size
        cut = draw.randrange(end)
        parts = [_fasta(path, sequence_type, Span(*bounds)) for bounds in ((0, cut), (cut, end)) if bounds[0] < bounds[1]]
        assert b"".join(part for part, _ in parts) == letters
        assert [record.name for _, found in parts for record in found if record.name] == [record.name for record in records]


def _fasta(path: Path, sequence_type: str, span: Span | None = None) -> tuple[bytes, list[Record]]:
    """The clean letters and the records of a file, or of a span of it."""
    sink = io.BytesIO()
    records = read_fasta(path, sequence_type, sink, span=span, find_lower_case=True).records
    return sink.getvalue(), records


def _check_haplotypes(path: Path, reference: np.ndarray) -> None:
    samples, present = sample_names(path), contigs(path)
    if samples and CONTIG in present:
        region = Region(CONTIG, 0, len(reference))
        found = read_haplotypes(path, region, samples[:2], reference)
        for sample, haplotype in found.carried:
            letters = b"".join(bytes(piece) for piece in apply_edits(reference, region, found.edits_of(sample, haplotype)))
            assert set(letters) <= set(LETTERS["dna"])


def _check_regions(path: Path, suffix: str, draw: random.Random) -> None:
    options = {"anchor": draw.choice(("whole", "start")), "upstream": draw.choice((0, 1000))}
    if suffix != ".bed":
        options |= {"label_by": draw.choice((None, "name", "gene_biotype", "type")), "types": draw.choice(((), ("gene",), ("CDS", "exon")))}
    for found in read_regions(path, **options).values():
        assert len(found) == len(found.label_K) and (0 <= found.start_K).all() and (found.start_K < found.end_K).all()


def problem_of(seed: int, folder: Path, sources: dict[str, bytes], reference: np.ndarray, count: Callable[[str], None]) -> str | None:
    """What is wrong with how seed number `seed` ended; None if nothing. `count` is told of the end."""
    draw = random.Random(seed)
    name = draw.choice(sorted(sources))
    file, content = pack(mutate(sources[name], draw), name, draw)
    path = folder / file
    path.write_bytes(content)
    try:
        read(path, draw, reference)
        count(f"{name}: read")
    except DataError as error:
        count(f"{name}: refused")
        if file not in str(error):
            return f"the file is not named: {error}"
        if not re.search(r"line \d+", str(error)) and not NAMES_NO_LINE.search(str(error)):
            return f"no line is named: {error}"
        if "\n" in str(error):
            return f"more than one line: {error}"
    except Exception as error:
        count(f"{name}: broken")
        return f"{type(error).__name__}: {error}"
    finally:
        path.unlink()
    return None


def fuzz(number: int, first: int = 0) -> tuple[Counter[str], dict[int, str]]:
    """How `number` seeds ended, counted, and what is wrong with the others."""
    sources, reference, counts, problems = seeds_of_fuzz(), reference_letters(), Counter[str](), dict[int, str]()
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(first, first + number):
            if problem := problem_of(seed, Path(folder), sources, reference, lambda end: counts.update([end])):
                problems[seed] = problem
    return counts, problems


def table(counts: Counter[str]) -> list[str]:
    """How the files of each kind ended, in Markdown."""
    ends, names = ("read", "refused", "broken"), sorted({end.split(": ")[0] for end in counts})
    rows = [[name, *(counts[f"{name}: {end}"] for end in ends)] for name in names]
    total = ["all", *map(sum, zip(*(row[1:] for row in rows), strict=True))]
    lines = [f"| {row[0]} | " + " | ".join(f"{number:,}" for number in row[1:]) + " |" for row in [*rows, total]]
    return ["| file | read | refused by a DataError | ended otherwise |", "|---|---|---|---|", *lines]


def main() -> int:
    """Print what came of it; 1 if a seed ended badly."""
    numbers = [int(argument) for argument in sys.argv[1:]] or [10_000]
    counts, problems = fuzz(*numbers)
    print("\n".join(table(counts)))
    for seed, problem in sorted(problems.items()):
        print(f"seed {seed}: {problem[:400]}")
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
