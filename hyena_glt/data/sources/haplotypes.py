"""Regions, and haplotypes as edits of a reference: their letters and where a base of the reference lies in them. NumPy only.

Coordinates are 0-based and half-open. Suffixes: E edits, P positions.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import ConfigError, DataError
from .lines import listed
from .regions import chromosome_name

PIECE_BASES = 1 << 20
_REGION = re.compile(r"(?:\{(?P<braced>[^{}]+)\}|(?P<bare>[^:{}\s]+))(?::(?P<first>[\d,]+)(?:-(?P<last>[\d,]*))?)?")


@dataclass(frozen=True, slots=True)
class Region:
    """A stretch of a contig, 0-based and half-open; `end` None means to the contig's end."""

    contig: str
    start: int = 0
    end: int | None = None

    def within(self, lengths: Mapping[str, int], path: Path) -> Region:
        """The region with its end filled in; `lengths` are the reference's contigs in bases.

        DataError, naming `path` (the file that speaks of the contig), for a contig or bases that the reference does not have.
        """
        if self.contig not in lengths:
            raise DataError(
                f"{path}: contig {self.contig!r} is not in the reference, which has {near_contigs(self.contig, lengths)}; rename the "
                "contigs of one (bcftools annotate --rename-chrs), or use the reference that the variants were called on"
            )
        length = lengths[self.contig]
        end = length if self.end is None else self.end
        if not self.start < end <= length:
            raise DataError(f"{path}: region {self.contig}:{self.start + 1}-{end} is not inside contig {self.contig!r} of {length} bases")
        return Region(self.contig, self.start, end)


def parse_region(text: str) -> Region:
    """A region as samtools writes it, 1-based with both ends: `20:1,000,001-4,000,000`, `20:5` (from there on), `20`.

    A contig whose name holds a colon stands in braces: `{HLA-A*01:01}:1-99`. ConfigError for anything else.
    """
    match = _REGION.fullmatch(text.strip())
    if not match:
        raise ConfigError(f"region {text!r} cannot be read; write a contig, or its first and last base too: 20, 20:1,000,001-4,000,000")
    first, last = (int(number.replace(",", "") or "0") if number else None for number in match.group("first", "last"))
    if first == 0 or (last is not None and last < (first or 1)):
        raise ConfigError(f"region {text!r} is empty; bases are numbered from 1, and the last is not before the first")
    return Region(match["braced"] or match["bare"], (first or 1) - 1, last)


def near_contigs(contig: str, names: Collection[str]) -> str:
    """Which of `names` may be meant: the same chromosome by another name, else those nearest to `contig`."""
    same = [name for name in names if chromosome_name(name) == chromosome_name(contig)]
    return ", ".join(same) or listed(names, contig) or "none"


@dataclass(frozen=True, kw_only=True, slots=True)
class Edits:
    """Stretches of the reference and the letters that replace them."""

    start_E: np.ndarray
    """int64, first base replaced; an insertion replaces none and stands before it."""
    end_E: np.ndarray
    """int64, behind the last base replaced."""
    first_E: np.ndarray
    """int64, where the edit's letters begin in `letters`."""
    last_E: np.ndarray
    """int64, behind its last letter."""
    letters: np.ndarray
    """uint8, upper case; shared by all haplotypes of a block."""

    def __len__(self) -> int:
        return len(self.start_E)

    def take(self, number_E: np.ndarray) -> Edits:
        """The edits with these numbers, in that order."""
        columns = (column[number_E] for column in (self.start_E, self.end_E, self.first_E, self.last_E))
        return Edits(**dict(zip(("start_E", "end_E", "first_E", "last_E"), columns, strict=True)), letters=self.letters)

    def disjoint(self) -> np.ndarray:
        """int64: the numbers of the edits that can be applied together, by start.

        One that overlaps the one before, or inserts where it did, is not among them.
        """
        order_E = np.lexsort((self.end_E, self.start_E))
        kept, last_start, last_end = [], -1, -1
        for number, start, end in zip(order_E.tolist(), self.start_E[order_E].tolist(), self.end_E[order_E].tolist(), strict=True):
            if start >= last_end and (start > last_start or end > start):
                kept.append(number)
                last_start, last_end = start, end
        return np.array(kept, np.int64)


def apply_edits(reference: np.ndarray, region: Region, edits: Edits) -> Iterator[np.ndarray]:
    """Pieces, uint8, that joined are the haplotype of a region: `reference` (uint8, the contig) with `edits`, sorted and disjoint.

    Single bases are replaced many at a time, so that the time is that of copying.
    """
    is_point_E = (edits.end_E - edits.start_E == 1) & (edits.last_E - edits.first_E == 1)
    point_E, base_E = edits.start_E[is_point_E], edits.letters[edits.first_E[is_point_E]]
    others = edits.take(np.flatnonzero(~is_point_E))
    start = region.start
    for stop, behind, first, last in zip(others.start_E.tolist(), others.end_E.tolist(), others.first_E, others.last_E, strict=True):
        yield from _with_points(reference, start, stop, point_E, base_E)
        yield edits.letters[first:last]
        start = behind
    yield from _with_points(reference, start, region.end, point_E, base_E)


def _with_points(reference: np.ndarray, start: int, end: int, point_E: np.ndarray, base_E: np.ndarray) -> Iterator[np.ndarray]:
    for at in range(start, end, PIECE_BASES):
        piece = np.array(reference[at : min(at + PIECE_BASES, end)])
        low, high = point_E.searchsorted((at, at + len(piece)))
        piece[point_E[low:high] - at] = base_E[low:high]
        yield piece


@dataclass(frozen=True, kw_only=True, slots=True)
class Lift:
    """Where the bases of a region lie in a haplotype; only edits that change the length take memory, all arrays int64."""

    region: Region
    start_E: np.ndarray
    end_E: np.ndarray
    added_E: np.ndarray
    """Letters that replace [start, end)."""
    place_E: np.ndarray
    """Where they begin in the haplotype."""

    @classmethod
    def through(cls, region: Region, edits: Edits) -> Lift:
        """Of edits that are sorted and disjoint."""
        added_E, removed_E = edits.last_E - edits.first_E, edits.end_E - edits.start_E
        kept = np.flatnonzero(added_E != removed_E)
        # An edit of nothing stands first, so that every position has one at or before it.
        start_E, end_E = (np.concatenate([[region.start], column[kept]]) for column in (edits.start_E, edits.end_E))
        added_E = np.concatenate([[0], added_E[kept]])
        growth_E = added_E - (end_E - start_E)
        place_E = start_E - region.start + np.cumsum(growth_E) - growth_E
        return cls(region=region, start_E=start_E, end_E=end_E, added_E=added_E, place_E=place_E)

    @property
    def num_bases(self) -> int:
        """Bases of the haplotype."""
        return int(self.to_haplotype(np.array([self.region.end]))[0])

    def to_haplotype(self, position_P: np.ndarray) -> np.ndarray:
        """int64 [P], from 0 at the region's start, for positions of the contig in [start, end].

        A base that was deleted maps to the one after the deletion. Both ends of an interval may be mapped: letters that were
        inserted belong to the interval on their left, so that neighbours stay neighbours.
        """
        edit_P = np.searchsorted(self.start_E, position_P, side="right") - 1
        start_P, end_P, added_P = self.start_E[edit_P], self.end_E[edit_P], self.added_E[edit_P]
        inside_P = position_P < end_P
        return self.place_E[edit_P] + np.where(inside_P, np.minimum(position_P - start_P, added_P), added_P + position_P - end_P)
