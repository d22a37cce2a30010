"""Apply variants to the reference: each haplotype of each sample becomes a record of its own. One Ray task a block of samples (workers).

A haplotype's letters lie beside those of the inputs, as one more file, with a `Lift` that carries positions on the reference over.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import ray.data

from ..config.preprocessing import VariantsConfig
from ..config.settings import suggest
from ..errors import ConfigError, DataError
from ..files import appearing, atomic_write, naming
from .coordinates import save_lift
from .index import RECORDS
from .manifest import canonical_json
from .scratch import SCRATCH, bases_file
from .sources.haplotypes import Edits, Lift, Region, apply_edits, parse_region
from .sources.population import read_haplotypes
from .sources.variants import contigs, sample_names
from .stages import Row, results, task_rows

SAMPLES_PER_TASK = 8
"""Samples that are built from one reading of the variants."""
MAX_PLOIDY = 8
PER_SITE = ("sites", "sites_without_genotypes")
"""Counts that each block of samples on one region has alike."""


class SampleBlock(NamedTuple):
    """Some samples on one region: a task."""

    vcf: str
    samples: list[str]
    contig: str
    start: int
    end: int
    first_file: int
    """Number of the first haplotype's file; each sample has room for MAX_PLOIDY."""
    reference_file: int
    offset: int
    length: int
    """Where the contig lies in the clean letters of its file."""
    is_first: bool
    """Of the blocks on this region."""

    @property
    def num_bases(self) -> int:
        """Bases to build, about, if all samples are diploid."""
        return 2 * len(self.samples) * (self.end - self.start)

    @property
    def record(self) -> str:
        """The record's name: the contig, or the region where it is not the whole."""
        whole = (self.start, self.end) == (0, self.length)
        return self.contig if whole else f"{self.contig}:{self.start + 1}-{self.end}"


def plan_blocks(cfg: VariantsConfig, vcfs: Sequence[Path], records: pa.Table, first_file: int) -> tuple[list[SampleBlock], tuple[str, ...]]:
    """The tasks, and the source name of each of their files: sample and haplotype, such as HG00096.1.

    Raises ConfigError for samples and regions that no file has, DataError for a contig that the reference lacks or has twice.
    """
    wanted = [parse_region(text) for text in cfg.regions]
    _refuse_unknown(cfg, vcfs, wanted)
    _refuse_overlap(wanted)
    blocks, sources, built_from = [], list[str](), dict[tuple[str, str], Path]()
    for vcf in vcfs:
        samples = [name for name in sample_names(vcf) if not cfg.samples or name in cfg.samples]
        present = contigs(vcf)
        regions = [region for region in wanted if region.contig in present] if wanted else [Region(contig) for contig in present]
        for region in regions:
            file, offset, length = _reference_of(region, records, vcf)
            inside = region.within({region.contig: length}, vcf)
            for sample in samples:
                _refuse_second_file(vcf, built_from.setdefault((sample, region.contig), vcf), sample, region.contig)
            for at in range(0, len(samples), SAMPLES_PER_TASK):
                some, first = samples[at : at + SAMPLES_PER_TASK], first_file + len(sources)
                place = region.contig, inside.start, inside.end
                blocks.append(SampleBlock(str(vcf), some, *place, first, file, offset, length, is_first=at == 0))
                sources += [f"{sample}.{haplotype}" for sample in some for haplotype in range(1, MAX_PLOIDY + 1)]
    return blocks, tuple(sources)


def _refuse_second_file(vcf: Path, first: Path, sample: str, contig: str) -> None:
    """DataError where the variants of one haplotype are in two files: each would be applied without the other's."""
    if vcf != first:
        raise DataError(
            f"{vcf}: sample {sample!r} has variants on contig {contig!r} in {first} too, and a haplotype is built from one file; "
            "put them together (bcftools concat -a), or choose other samples or regions"
        )


def _refuse_overlap(regions: Sequence[Region]) -> None:
    """ConfigError for regions with bases in common: a split of one would be found in another."""
    for before, after in pairwise(sorted(regions, key=lambda region: (region.contig, region.start))):
        if before.contig == after.contig and (before.end is None or after.start < before.end):
            raise ConfigError(f"preprocessing.variants.regions: two of {before.contig!r} have bases in common; join them")


def _refuse_unknown(cfg: VariantsConfig, vcfs: Sequence[Path], wanted: list[Region]) -> None:
    samples = {name for vcf in vcfs for name in sample_names(vcf)}
    present = {contig for vcf in vcfs for contig in contigs(vcf)}
    files = ", ".join(map(str, vcfs))
    problems = [
        f"preprocessing.variants.samples: no sample of {files} is named {name!r}{suggest(name, samples)}"
        for name in cfg.samples if name not in samples
    ]
    problems += [
        f"preprocessing.variants.regions: {files} has no variants on {region.contig!r}, only on {', '.join(sorted(present)) or 'nothing'}"
        for region in wanted if region.contig not in present
    ]
    if not samples:
        problems.append(f"preprocessing.variants.path: {files} holds sites without samples; take a file with genotypes")
    if not present:
        problems.append(f"preprocessing.variants.path: {files} holds no variant; take another file, or remove the section")
    if problems:
        raise ConfigError(*problems)


def _reference_of(region: Region, records: pa.Table, vcf: Path) -> tuple[int, int, int]:
    """File, offset and length of a contig among the records of the inputs."""
    names = records["name"].to_pylist()
    found = [number for number, name in enumerate(names) if name == region.contig]
    if not found:
        lengths = dict(zip(names, records["length"].to_pylist(), strict=True))
        region.within(lengths, vcf)  # says which contigs there are
    if len(found) > 1:
        raise DataError(f"{vcf}: contig {region.contig!r} is in {len(found)} inputs; leave one reference in preprocessing.input_path")
    row = records.slice(found[0], 1).to_pylist()[0]
    return row["file"], row["offset"], row["length"]


def haplotype_records(blocks: Sequence[SampleBlock], output: Path, done: Callable[[SampleBlock], None]) -> tuple[pa.Table, dict[str, int]]:
    """Build all haplotypes, those left out that stand already; their records, and what became of the variants."""
    for row in results(built(task_rows(block._asdict() for block in blocks), output)):
        done(SampleBlock(**row))
    reports = [json.loads(_report(output, block).read_text()) for block in blocks]
    rows = [record for report in reports for record in report["records"]]
    counts: Counter[str] = Counter()
    for block, report in zip(blocks, reports, strict=True):
        counts.update(report["counts"] if block.is_first else {k: n for k, n in report["counts"].items() if k not in PER_SITE})
    return pa.Table.from_pylist(rows, schema=RECORDS), dict(counts)


def built(blocks: ray.data.Dataset, output: Path) -> ray.data.Dataset:
    """Add the stage to the plan: one row a block in, the same row out when its haplotypes are stored."""
    return blocks.map(build_block, fn_kwargs={"output": output})


def build_block(row: Row, *, output: Path) -> Row:
    """Build the haplotypes of one block, unless they stand already."""
    block = SampleBlock(**row)
    if not _report(output, block).exists():
        reference = np.memmap(bases_file(output, block.reference_file), np.uint8, "r", block.offset, (block.length,))
        region = Region(block.contig, block.start, block.end)
        found = read_haplotypes(Path(block.vcf), region, block.samples, reference)
        numbers = _file_numbers(block, found.carried)
        records = [_store(output, number, block, reference, region, found.edits_of(*key)) for key, number in numbers.items()]
        _report(output, block).parent.mkdir(parents=True, exist_ok=True)
        with naming(_report(output, block)):
            atomic_write(_report(output, block), canonical_json({"records": records, "counts": asdict(found.counts)}))
    return row


def _file_numbers(block: SampleBlock, carried: Mapping[tuple[str, int], np.ndarray]) -> dict[tuple[str, int], int]:
    """(sample, haplotype) -> number of its file."""
    deepest = max(carried, key=lambda key: key[1])
    if deepest[1] > MAX_PLOIDY:
        raise DataError(f"{block.vcf}: sample {deepest[0]!r} has {deepest[1]} alleles in a call, and at most {MAX_PLOIDY} are read")
    first = {sample: block.first_file + number * MAX_PLOIDY for number, sample in enumerate(block.samples)}
    return {key: first[key[0]] + key[1] - 1 for key in carried}


def _store(output: Path, number: int, block: SampleBlock, reference: np.ndarray, region: Region, edits: Edits) -> dict[str, object]:
    """Write the letters of one haplotype and its lift; the fields of its record."""
    target, length = bases_file(output, number), 0
    with appearing(target) as unfinished, unfinished.open("wb") as sink:
        for piece in apply_edits(reference, region, edits):
            sink.write(piece.data)
            length += len(piece)
    save_lift(output, number, Lift.through(region, edits))
    return {"file": number, "name": block.record, "contig": block.contig, "offset": 0, "length": length}


def _report(output: Path, block: SampleBlock) -> Path:
    """What is known of a block's haplotypes, written when they stand."""
    return output / SCRATCH / "haplotypes" / f"{block.first_file:05d}.json"
