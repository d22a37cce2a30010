"""First stages: checksums of the input files (driver), then their records and clean letters, one Ray task a part of a file (workers)."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray.data

from ..dna import SequenceType
from ..files import appearing, naming
from . import parquet
from .comparison import save_array
from .fasta import Contents, Record, Span, is_compressed, read_fasta, refuse_repeated_names
from .inputs import STRUCTURES
from .scratch import SCRATCH, bases_file, lower_case_file
from .stages import result_tables, task_rows
from .storage import Location, location, size
from .verify import file_sha256

OnProgress = Callable[[str, int, int], None]
"""Called with a stage's name, the units done and the units in all: bytes for the inputs, bases afterwards."""

RECORDS = pa.schema({"file": pa.int64(), "name": pa.string(), "contig": pa.string(), "offset": pa.int64(), "length": pa.int64()})
"""A row a record: the number of its file, its name and the contig that it is (of), where its clean letters begin, how many there are."""
PARTS = pa.schema({
    "file": pa.int64(), "part": pa.int64(), "name": pa.string(), "offset": pa.int64(), "length": pa.int64(), "header": pa.int64(),
})
"""A row for what a part of a file has of a record."""
PART_BYTES = 1 << 26
"""A plain file is read in parts of so many bytes, a task each; a compressed one is a single part."""
COPY_BYTES = 8 << 20


class Part(NamedTuple):
    """A task: one part of a file, all of it where `end` is 0."""

    file: int
    part: int
    path: str
    start: int
    end: int


def checksums(inputs: Mapping[str, Location], on_progress: OnProgress) -> dict[str, str]:
    """Source -> SHA-256 of each input file, by threads of the driver: a finished run is recognised without starting Ray."""
    total, done, found = sum(size(path) for path in inputs.values()), 0, {}
    on_progress("checksums", 0, total)
    with ThreadPoolExecutor() as threads:
        for (source, path), sha256 in zip(inputs.items(), threads.map(file_sha256, inputs.values()), strict=True):
            found[source] = sha256
            done += size(path)
            on_progress("checksums", done, total)
    return found


def index_records(
    inputs: Mapping[str, Location], sequence_type: SequenceType, output: Path, on_progress: OnProgress, *, find_lower_case: bool = False
) -> pa.Table:
    """The records of all inputs (RECORDS), in order.

    Clean letters, and where they are asked for the lower-case stretches, go to the scratch folder of `output`.
    """
    stored = output / SCRATCH / "records.parquet"
    if stored.exists():
        return parquet.read(stored)
    parts = [part for number, path in enumerate(inputs.values()) for part in parts_of(number, path)]
    parts.sort(key=_num_bytes, reverse=True)  # so that no worker is left with a large one at the end
    pieces = _gather(pieces_of(task_rows(part._asdict() for part in parts), sequence_type, output, find_lower_case), inputs, on_progress)
    records = join_parts(pieces, inputs)
    put_together(pieces, output, find_lower_case)
    with appearing(stored) as unfinished:
        pq.write_table(records, unfinished)
    return records


def parts_of(number: int, path: Location) -> list[Part]:
    """The tasks of one file."""
    num_bytes = size(path) or 0
    whole = [Part(number, 0, str(path), 0, 0)]
    if not isinstance(path, Path) or num_bytes <= PART_BYTES or path.name.lower().endswith(STRUCTURES) or is_compressed(path):
        return whole
    starts = range(0, num_bytes, PART_BYTES)
    return [Part(number, part, str(path), start, min(start + PART_BYTES, num_bytes)) for part, start in enumerate(starts)]


def _num_bytes(part: Part) -> int:
    return part.end - part.start or size(part.path) or 0


def pieces_of(parts: ray.data.Dataset, sequence_type: SequenceType, output: Path, find_lower_case: bool) -> ray.data.Dataset:
    """Add the stage to the plan: one row a part in (Part), one row for what it has of a record out (PARTS)."""
    settings = {"sequence_type": sequence_type, "output": output, "find_lower_case": find_lower_case}
    return parts.map_batches(index_part, batch_size=1, batch_format="pyarrow", fn_kwargs=settings)


def index_part(part: pa.Table, *, sequence_type: SequenceType, output: Path, find_lower_case: bool = False) -> pa.Table:
    """What one part (a table of one row) has of records, in order; its clean letters are written and renamed."""
    number, index, text, start, end = Part(**part.to_pylist()[0])
    path, target = location(text), _part_file(output, number, index)
    with appearing(target) as unfinished, unfinished.open("wb") as sink:
        if path.name.lower().endswith(STRUCTURES):
            contents = read_structure_file(path, sequence_type, sink)
        else:
            contents = read_fasta(path, sequence_type, sink, span=Span(start, end) if end else None, find_lower_case=find_lower_case)
    if find_lower_case:
        save_array(_lower_case_of(target), contents.lower_case)
    rows = [{"file": number, "part": index, **record._asdict()} for record in contents.records]
    # A part without a base or a header, inside a line as long as the file, is a row too: it has been read.
    return pa.Table.from_pylist(rows or [{"file": number, "part": index, "name": "", "offset": 0, "length": 0, "header": 0}], schema=PARTS)


def _part_file(output: Path, number: int, part: int) -> Path:
    """The clean letters of a part; those of the first become the file's."""
    return bases_file(output, number).with_suffix(f".part{part}") if part else bases_file(output, number)


def _lower_case_of(part: Path) -> Path:
    """Its lower-case stretches, [K, 2] in bases of the part."""
    return part.with_name(f"{part.name}.stretches.npy")


def join_parts(pieces: pa.Table, inputs: Mapping[str, Location]) -> pa.Table:
    """Pieces (PARTS, in order) to records (RECORDS): what stands before a part's first header belongs to the record before."""
    paths, columns = list(inputs.values()), list[pa.Table]()
    for number, path in enumerate(paths):
        of_file = pieces.filter(pc.equal(pieces["file"], number))
        length = of_file["length"].to_numpy()
        name = of_file["name"].to_pylist()
        begins = np.flatnonzero([bool(text) for text in name])
        offset = np.cumsum(length) - length
        records = [Record(name[i], int(offset[i]), 0, of_file["header"][int(i)].as_py()) for i in begins]
        refuse_repeated_names(path, records)
        names = [record.name for record in records]
        columns.append(pa.table([[number] * len(names), names, names, offset[begins], np.add.reduceat(length, begins)], schema=RECORDS))
    return pa.concat_tables(columns)


def put_together(pieces: pa.Table, output: Path, find_lower_case: bool) -> None:
    """Append the letters of each file's further parts to those of its first."""
    for number, last in _last_parts(pieces).items():
        target, lower_case = bases_file(output, number), []
        for part in range(last + 1):
            begin = target.stat().st_size if part else 0
            if find_lower_case:
                lower_case.append(np.load(_lower_case_of(_part_file(output, number, part))) + begin)
            if part:
                _append(_part_file(output, number, part), target)
        if find_lower_case:
            save_array(lower_case_file(output, number), np.concatenate(lower_case))


def _append(part: Path, target: Path) -> None:
    with naming(target), part.open("rb") as source, target.open("ab") as sink:
        shutil.copyfileobj(source, sink, COPY_BYTES)
    part.unlink()


def _last_parts(pieces: pa.Table) -> dict[int, int]:
    """File -> number of its last part."""
    last = pieces.group_by("file").aggregate([("part", "max")])
    return dict(zip(last["file"].to_pylist(), last["part_max"].to_pylist(), strict=True))


def read_structure_file(path: Location, sequence_type: SequenceType, sink: BinaryIO) -> Contents:
    """As `read_fasta`, for the polymers of a PDB or mmCIF file, whose letters have no case."""
    from .sources.structures import read_structure  # gemmi is an extra

    records, offset = [], 0
    for polymer in read_structure(path, sequence_type):
        letters = polymer.letters.encode()
        records.append(Record(polymer.name, offset, len(letters), 0))
        offset += len(letters)
        sink.write(letters)
    return Contents(records, np.empty((0, 2), np.int64))


def _gather(dataset: ray.data.Dataset, inputs: Mapping[str, Location], on_progress: OnProgress) -> pa.Table:
    """Collect what the parts have (PARTS), in order; they arrive in the order in which they are done."""
    sizes, tables, done = [size(path) or 0 for path in inputs.values()], list[pa.Table](), 0
    on_progress("reading", 0, sum(sizes))
    for table in result_tables(dataset):
        tables.append(table.cast(PARTS))
        for file, part in set(zip(table["file"].to_pylist(), table["part"].to_pylist(), strict=True)):
            done += min(sizes[file] - part * PART_BYTES, PART_BYTES) if sizes[file] > PART_BYTES else sizes[file]
        on_progress("reading", min(done, sum(sizes)), sum(sizes))
    on_progress("reading", sum(sizes), sum(sizes))
    return pa.concat_tables(tables).sort_by([("file", "ascending"), ("part", "ascending"), ("offset", "ascending")]).combine_chunks()


def join(tables: Iterable[pa.Table]) -> pa.Table:
    """Records in one order."""
    return pa.concat_tables(tables).sort_by([("file", "ascending"), ("offset", "ascending")]).combine_chunks()


def with_places(records: pa.Table) -> pa.Table:
    """The records with `place`, the number of their first base among the bases of all."""
    length = records["length"].to_numpy()
    return records.append_column("place", pa.array(np.cumsum(length) - length))
