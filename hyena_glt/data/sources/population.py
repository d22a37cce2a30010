"""Which edits of the reference each haplotype of a block of samples carries, and what was left out. Runs on the workers, without Ray.

Memory grows only with the alternative alleles that the chosen samples carry: four bytes each, and one entry for each distinct edit.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...errors import DataError
from ..fasta import LETTERS
from .haplotypes import Edits, Region
from .variants import Site, has_index, located, read_sites

_SEQUENCE = re.compile(f"[{LETTERS['dna'].decode()}]+")
_SYMBOLIC = re.compile(r"<.*>|.*[][].*|\..+|.+\.")
"""A named allele such as <DEL>, or a breakend (VCF specification, 5.4)."""
_WRITTEN = bytes.maketrans(b"RYSWKMBDHVU", b"ACCAGACAAAT")
"""For an ambiguous base of the reference, VCF writes the first base that it stands for (VCF specification, 1.6.1)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """What became of the sites and alleles of a region; an allele counts once for each haplotype that carries it."""

    sites: int = 0
    sites_without_genotypes: int = 0
    applied: int = 0
    missing: int = 0
    """Alleles written as `.`: the reference stands there."""
    unphased: int = 0
    """Heterozygous calls with `/`: applied in the order written, so their haplotypes are partly a mixture."""
    symbolic: int = 0
    """Left out: alleles without letters, such as <DEL>, and breakends."""
    across_edge: int = 0
    """Left out: alleles that change bases outside the region."""
    overlapping: int = 0
    """Left out: alleles that overlap one before them on the same haplotype."""
    mixed_ploidy: int = 0
    """Samples with calls of different ploidy: where a call is short, the haplotypes behind it keep the reference."""

    def __add__(self, other: Counts) -> Counts:
        return Counts(**{name: number + getattr(other, name) for name, number in asdict(self).items()})


@dataclass(frozen=True, kw_only=True, slots=True)
class Haplotypes:
    """The haplotypes of a block of samples on one region."""

    edits: Edits
    """Each distinct edit once."""
    carried: Mapping[tuple[str, int], np.ndarray]
    """(sample, haplotype from 1) -> numbers of its edits, int32, sorted by start and disjoint."""
    counts: Counts

    def edits_of(self, sample: str, haplotype: int) -> Edits:
        """What to apply to the reference; KeyError for a haplotype that the sample does not have."""
        return self.edits.take(self.carried[sample, haplotype])


def read_haplotypes(path: Path, region: Region, samples: Sequence[str], reference: np.ndarray) -> Haplotypes:
    """The haplotypes of `samples` on a region that has an end; `reference` holds the letters of the whole contig, uint8, upper case.

    The file is read once, by its index if it has a fresh one. A sample has as many haplotypes as its calls have alleles, and one
    (the reference) where it has no call. Variants are brought to their shortest form before they are compared, so that of a
    deletion only the deleted bases count as touched.
    DataError, with file and line, for a record that cannot be read, is out of order, or does not fit the reference or the header.
    """
    if has_index(path):
        try:
            return _read(path, region, samples, reference, by_index=True)
        except DataError:
            pass  # what the index led to has no line number; reading from the top meets it again, or finds that the index is wrong
    return _read(path, region, samples, reference, by_index=False)


def _read(path: Path, region: Region, samples: Sequence[str], reference: np.ndarray, *, by_index: bool) -> Haplotypes:
    block = _Block(path, region, np.asarray(reference), len(samples))  # a plain array slices faster than a memmap
    # Sites behind the contig's end are read too, for they tell that this is not the reference of the file.
    stretch = replace(region, end=None) if region.end == len(reference) else region
    for site in read_sites(path, stretch, samples, by_index=by_index):
        block.add(site)
    return block.finish(samples)


class _Call(NamedTuple):
    """What a genotype says."""

    ploidy: int
    """0 for a bare `.`, which stands for a missing call of any ploidy."""
    carried: tuple[tuple[int, int], ...]
    """(haplotype from 0, allele) for each alternative allele."""
    missing: int
    is_unphased: bool


@cache
def _parse(genotype: str) -> _Call:
    alleles = [None if allele == "." else int(allele) for allele in re.split(r"[|/]", genotype)]
    carried = tuple((haplotype, allele) for haplotype, allele in enumerate(alleles) if allele)
    return _Call(0 if genotype == "." else len(alleles), carried, alleles.count(None), "/" in genotype and len(set(alleles)) > 1)


class _Block:
    """Collects what the haplotypes of some samples carry, site by site."""

    def __init__(self, path: Path, region: Region, reference: np.ndarray, num_samples: int) -> None:
        self.path, self.region, self.reference = path, region, reference
        self.start_E, self.end_E, self.first_E, self.letters = array("q"), array("q"), array("q", [0]), bytearray()
        self.carried: list[list[array]] = [[] for _ in range(num_samples)]
        self.ploidy = [0] * num_samples
        """Of each sample's latest call."""
        self.settled = [""] * num_samples
        """Each sample's latest call of reference alleles alone: most calls repeat it, and need no second look."""
        self.mixed: set[int] = set()
        self.counts: Counter[str] = Counter()

    def add(self, site: Site) -> None:
        self._check_reference(site)
        self.counts.update(sites=1, sites_without_genotypes=not site.genotypes)
        calls = enumerate(zip(site.genotypes, self.settled, strict=False))
        fresh = [(sample, genotype) for sample, (genotype, settled) in calls if genotype != settled]
        numbers = self._number(site, Counter(genotype for _, genotype in fresh))
        for sample, genotype in fresh:
            call = _parse(genotype)
            if call.ploidy != self.ploidy[sample]:
                self._change_ploidy(sample, call.ploidy)
            for haplotype, number in numbers[genotype]:
                self.carried[sample][haplotype].append(number)
            if not (call.carried or call.missing):
                self.settled[sample] = genotype

    def _number(self, site: Site, times: Counter[str]) -> dict[str, list[tuple[int, int]]]:
        """(haplotype, number of its edit) for each distinct genotype; what has no edit is counted as often as it occurs."""
        edits = {allele: self._edit(site, allele) for allele in sorted({allele for text in times for _, allele in _parse(text).carried})}
        numbers: dict[str, list[tuple[int, int]]] = {}
        for genotype, samples in times.items():
            call, numbers[genotype] = _parse(genotype), []
            self.counts.update(missing=samples * call.missing, unphased=samples * call.is_unphased)
            for haplotype, allele in call.carried:
                edit = edits[allele]
                if isinstance(edit, int):
                    numbers[genotype].append((haplotype, edit))
                elif edit:
                    self.counts[edit] += samples
        return numbers

    def _change_ploidy(self, sample: int, ploidy: int) -> None:
        """Note that a call has not as many alleles as the one before it; a bare `.` says nothing."""
        if ploidy:
            haplotypes = self.carried[sample]
            if haplotypes:
                self.mixed.add(sample)
            haplotypes.extend(array("i") for _ in range(ploidy - len(haplotypes)))
            self.ploidy[sample] = ploidy

    def _edit(self, site: Site, allele: int) -> int | str | None:
        """The number of a new edit, or under what its carriers are counted, or None where nothing is to do."""
        if not 0 < allele <= len(site.alts):
            found = f"a genotype names allele {allele}, and ALT has {len(site.alts)}"
            raise located(self.path, site.number, f"{found}; correct one of them")
        alt = site.alts[allele - 1].upper()
        if _SYMBOLIC.fullmatch(alt):
            return "symbolic"
        if alt == "*":  # the base was deleted by a variant upstream
            return None
        if not _SEQUENCE.fullmatch(alt):
            raise located(self.path, site.number, f"ALT {alt[:40]!r} is not made of letters of DNA; correct it")
        start, end, letters = _shortest(site.start, site.ref, alt)
        if start == end and not letters:
            return None
        # An insertion at the region's start belongs to the region on the left, unless the contig begins here.
        begins_inside = start >= self.region.start and (start < end or start > self.region.start or start == 0)
        if not begins_inside or end > self.region.end:
            return "across_edge"
        self.letters += letters.encode()
        for column, value in zip((self.start_E, self.end_E, self.first_E), (start, end, len(self.letters)), strict=True):
            column.append(value)
        return len(self.start_E) - 1

    def _check_reference(self, site: Site) -> None:
        """DataError unless REF is what the reference has."""
        stop = site.start + len(site.ref)
        if site.start < 0 or stop > len(self.reference):
            raise self._mismatch(site, f"{site.start + 1}-{stop}: the contig has {len(self.reference)} bases in the reference")
        found = self.reference[site.start : stop].tobytes()
        if found == site.ref.encode() or (site.ref == "N" and all(map(_SYMBOLIC.fullmatch, site.alts))):
            return
        bases = zip(site.ref, found.decode("latin-1"), found.translate(_WRITTEN).decode("latin-1"), strict=True)
        for position, (ref, base, written) in enumerate(bases, site.start + 1):
            if ref not in (base, written) and (ref != "N" or base in "ACGT"):
                raise self._mismatch(site, f"{position}: REF is {ref!r}, the reference has {base!r}")

    def _mismatch(self, site: Site, problem: str) -> DataError:
        advice = "is it another assembly? Use the reference that the variants were called on"
        return located(self.path, site.number, f"{self.region.contig}:{problem}; {advice}")

    def finish(self, samples: Sequence[str]) -> Haplotypes:
        """Sort the edits of each haplotype, leaving out those that overlap."""
        bounds = np.array(self.first_E, np.int64)
        edits = Edits(
            start_E=np.array(self.start_E, np.int64), end_E=np.array(self.end_E, np.int64), first_E=bounds[:-1], last_E=bounds[1:],
            letters=np.frombuffer(bytes(self.letters), np.uint8),
        )
        carried = {}
        for sample, haplotypes in zip(samples, self.carried, strict=True):
            for number, found in enumerate(haplotypes or [array("i")], 1):
                own = np.array(found, np.int32)
                kept = own[edits.take(own).disjoint()]
                carried[sample, number] = kept
                self.counts.update(applied=len(kept), overlapping=len(own) - len(kept))
        return Haplotypes(edits=edits, carried=carried, counts=Counts(**self.counts, mixed_ploidy=len(self.mixed)))


def _shortest(start: int, ref: str, alt: str) -> tuple[int, int, str]:
    """(start, end, letters) of an edit without the letters that REF and ALT share: first those in front, then those behind."""
    front = _num_shared(ref, alt)
    ref, alt = ref[front:], alt[front:]
    behind = _num_shared(ref[::-1], alt[::-1])
    return start + front, start + front + len(ref) - behind, alt[: len(alt) - behind]


def _num_shared(a: str, b: str) -> int:
    """Letters that both begin with."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))
