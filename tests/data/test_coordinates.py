"""Positions of a contig in every record that holds it: cut, lifted through the edits of haplotypes, stored and read again."""

from __future__ import annotations

import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from hyena_glt.data.coordinates import Coordinates, load_lifts, save_lift
from hyena_glt.data.scratch import bases_file
from hyena_glt.data.sources.haplotypes import Edits, Lift, Region
from tests.data.source_reference import Base, Molecule, haplotype
from tests.data.sources.test_intervals import bases_of, runs

EditList = list[tuple[int, int, str]]


def genome(*rows: tuple[int, str, int]) -> pa.Table:
    """Records as (file, contig, length), in order."""
    file, contig, length = (list(column) for column in zip(*rows, strict=True))
    place = np.cumsum(length) - length
    return pa.table({"file": file, "name": contig, "contig": contig, "offset": [0] * len(file), "length": length, "place": place})


def arrays(spans: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([start for start, _ in spans], np.int64), np.array([end for _, end in spans], np.int64)


def as_edits(found: EditList) -> Edits:
    sizes = np.cumsum([0, *(len(letters) for _, _, letters in found)])
    start_E, end_E = arrays([edit[:2] for edit in found])
    letters = np.frombuffer("".join(letters for _, _, letters in found).encode(), np.uint8)
    return Edits(start_E=start_E, end_E=end_E, first_E=sizes[:-1], last_E=sizes[1:], letters=letters)


@st.composite
def edited(draw, length: int = 30) -> tuple[Region, EditList]:
    """A region of a contig of 30 bases, and edits inside it: sorted, disjoint, none of nothing."""
    start = draw(st.integers(0, length - 1))
    end = draw(st.integers(start + 1, length))
    edits, at = [], start
    while at < end and draw(st.booleans()):
        first = draw(st.integers(at, end - 1))
        last = draw(st.integers(first, end))
        if first > start or first == 0 or last > first:  # an insertion in front of the region is not of it
            letters = draw(st.text("ACGT", min_size=0 if last > first else 1, max_size=6))
            edits.append((first, last, letters))
        at = max(last, first + 1)
    return Region("1", start, end), edits


spans = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 15)).map(lambda span: (span[0], span[0] + span[1])), min_size=1, max_size=5)


@given(edited(), edited(), spans)
def test_intervals_in_every_record_of_a_contig(one, two, wanted):
    """The contig among others, and two haplotypes of stretches of it."""
    contig = Molecule("a.fa", "1", "1", tuple(Base("A", at, False) for at in range(30)))
    built = [haplotype(contig, "x", region.start, region.end, edits) for region, edits in (one, two)]
    records = genome((0, "0", 7), (0, "1", 30), (1, "1", len(built[0].bases)), (2, "1", len(built[1].bases)))
    with tempfile.TemporaryDirectory() as name:
        bases_file(Path(name), 0).parent.mkdir(parents=True)
        for number, (region, edits) in enumerate((one, two), 1):
            save_lift(Path(name), number, Lift.through(region, as_edits(edits)))
        coordinates = Coordinates(records, load_lifts(Path(name), records, 1))
    start, end, number = coordinates.places("1", *arrays(wanted))
    found = sorted(zip(number.tolist(), start.tolist(), end.tolist(), strict=True))
    slow = []
    for index, (first, last) in enumerate(wanted):
        for place, molecule in zip(records["place"].to_pylist()[1:], [contig, *built], strict=True):
            inside = [place + at for at, base in enumerate(molecule.bases) if first <= base.position < last]
            slow += [(index, inside[0], inside[-1] + 1)] if inside else []
    assert found == sorted(slow)
    assert list(coordinates.contigs) == ["0", "1"]


@given(st.lists(st.integers(1, 12), min_size=1, max_size=5), st.data())
def test_stretches_are_widened_within_their_records(lengths, data):
    coordinates = Coordinates(genome(*((0, str(number), length) for number, length in enumerate(lengths))), {})
    record_of = [number for number, length in enumerate(lengths) for _ in range(length)]
    chosen, bases = data.draw(st.sets(st.integers(0, len(record_of) - 1))), data.draw(st.integers(0, 9))
    start, end = runs(chosen)
    cuts = {place for place in range(1, len(record_of)) if record_of[place] != record_of[place - 1]}
    pieces = [(first, last) for low, high in zip(start, end, strict=True) for first, last in _cut(int(low), int(high), cuts)]
    wanted = {
        place for place in range(len(record_of))
        if any(abs(place - other) <= bases and record_of[place] == record_of[other] for other in chosen)
    }
    assert bases_of(coordinates.widened(arrays(pieces), bases)) == wanted
    first, last = coordinates.everything()
    assert (last - first).tolist() == lengths and first[1:].tolist() == last[:-1].tolist()


def _cut(start: int, end: int, cuts: set[int]) -> list[tuple[int, int]]:
    bounds = [start, *sorted(cut for cut in cuts if start < cut < end), end]
    return list(pairwise(bounds))
