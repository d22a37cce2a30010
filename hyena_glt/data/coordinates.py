"""From positions on a contig to places, the numbers of bases among all inputs. Runs on the driver.

A contig may stand in several records: in each haplotype that was built from it, shifted there by insertions and deletions.
Suffix: N records, K intervals.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from .scratch import bases_file
from .sources.haplotypes import Lift, Region
from .sources.intervals import Stretches, union


class Coordinates:
    """The records that stay (columns file, contig, place, length, in order) and the lift of each file of a haplotype."""

    def __init__(self, records: pa.Table, lifts: Mapping[int, Lift]) -> None:
        self.records, self._lifts = records, lifts
        self._file_N, self._place_N, self._length_N = (records[key].to_numpy() for key in ("file", "place", "length"))
        self._records_of: dict[str, list[int]] = defaultdict(list)
        for number, contig in enumerate(records["contig"].to_pylist()):
            self._records_of[contig].append(number)

    @property
    def contigs(self) -> Iterable[str]:
        """The names of all contigs, each once."""
        return self._records_of.keys()

    def with_haplotypes(self) -> dict[str, list[int]]:
        """Contig -> numbers of its records, for those of which a record is a haplotype."""
        haplotypes = {number for number, file in enumerate(self._file_N.tolist()) if file in self._lifts}
        return {contig: numbers for contig, numbers in self._records_of.items() if haplotypes.intersection(numbers)}

    def num_inputs(self, contig: str) -> int:
        """Records of this name that inputs have, haplotypes aside."""
        return sum(int(self._file_N[number]) not in self._lifts for number in self._records_of[contig])

    def places(self, contig: str, start_K: np.ndarray, end_K: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Intervals of a contig, 0-based and half-open, in each record of it: (start, end, number of the interval), by record.

        What lies outside a record is cut off; intervals of which nothing is left are not given.
        """
        parts = [self._in_record(number, start_K, end_K) for number in self._records_of[contig]]
        start, end, interval = (np.concatenate([np.empty(0, np.int64), *columns]) for columns in zip(*parts, strict=True))
        return start, end, interval

    def _in_record(self, number: int, start_K: np.ndarray, end_K: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        place, length = self._place_N[number], self._length_N[number]
        if lift := self._lifts.get(int(self._file_N[number])):
            low, high = lift.region.start, lift.region.end
            start_K, end_K = (lift.to_haplotype(np.clip(bound_K, low, high)) for bound_K in (start_K, end_K))
        start_K, end_K = np.clip(start_K, 0, length), np.clip(end_K, 0, length)
        left = np.flatnonzero(end_K > start_K)
        return place + start_K[left], place + end_K[left], left

    def everything(self) -> Stretches:
        """All bases of all records, none of which is empty; neighbouring records do not become one."""
        return self._place_N, self._place_N + self._length_N

    def contig_stretches(self) -> tuple[np.ndarray, np.ndarray]:
        """The bases of its contig that each record spells, int64 [N] each: all of it, or the region that a haplotype was built on."""
        regions = [(lift.region.start, lift.region.end) if (lift := self._lifts.get(file)) else None for file in self._file_N.tolist()]
        spans = [region or (0, length) for region, length in zip(regions, self._length_N.tolist(), strict=True)]
        start_N, end_N = np.array(spans, np.int64).reshape(-1, 2).T
        return start_N, end_N

    def in_records(self, position_N: np.ndarray) -> np.ndarray:
        """A position of its contig for each record, int64 [N] -> its place in that record."""
        lifts = [self._lifts.get(file) for file in self._file_N.tolist()]
        moved = [lift.to_haplotype(at[None])[0] if lift else at for lift, at in zip(lifts, position_N, strict=True)]
        return self._place_N + np.array(moved, np.int64)

    def widened(self, stretches: Stretches, bases: int) -> Stretches:
        """`stretches` with so many bases more on both sides, as far as their records go."""
        first_N, end_N = self.everything()
        record = np.searchsorted(first_N, stretches[0], side="right") - 1
        return union(np.maximum(stretches[0] - bases, first_N[record]), np.minimum(stretches[1] + bases, end_N[record]))


def save_lift(output: Path, file: int, lift: Lift) -> None:
    """Store the lift of a haplotype beside its clean letters."""
    edits = [lift.start_E, lift.end_E, lift.added_E, lift.place_E]
    np.savez(_lift_file(output, file), region=[lift.region.start, lift.region.end], edits=edits)


def load_lifts(output: Path, records: pa.Table, num_inputs: int) -> dict[int, Lift]:
    """File number -> lift, of the records (columns file, contig) that are haplotypes: those behind the inputs."""
    places = zip(records["file"].to_pylist(), records["contig"].to_pylist(), strict=True)
    return {file: _load_lift(output, file, contig) for file, contig in places if file >= num_inputs}


def _load_lift(output: Path, file: int, contig: str) -> Lift:
    with np.load(_lift_file(output, file)) as stored:
        start, end = stored["region"].tolist()
        columns = dict(zip(("start_E", "end_E", "added_E", "place_E"), stored["edits"], strict=True))
    return Lift(region=Region(contig, start, end), **columns)


def _lift_file(output: Path, file: int) -> Path:
    return bases_file(output, file).with_suffix(".lift.npz")
