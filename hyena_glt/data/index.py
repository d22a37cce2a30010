"""First stages: checksums of the input files (driver), then their records and clean letters, one Ray task a file (workers)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray.data

from ..dna import SequenceType
from .fasta import DIGEST_BYTES, Contents, Record, read_fasta
from .inputs import STRUCTURES
from .scratch import SCRATCH, bases_file, lower_case_file
from .stages import result_tables, task_rows
from .storage import Location, location, size
from .verify import file_sha256

OnProgress = Callable[[str, int, int], None]
"""Called with a stage's name, the units done and the units in all: bytes for the inputs, bases afterwards."""

RECORDS = pa.schema({
    "file": pa.int64(), "name": pa.string(), "contig": pa.string(), "offset": pa.int64(), "length": pa.int64(), "digest": pa.binary(16),
})
"""A row a record: the number of its file, its name and the contig that it is (of), where its clean letters begin, how many there are."""


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
        return pq.read_table(stored)
    files = task_rows({"number": number, "path": str(path)} for number, path in enumerate(inputs.values()))
    records = _gather(records_of(files, sequence_type, output, find_lower_case), inputs, on_progress)
    unfinished = stored.with_suffix(".unfinished")
    pq.write_table(records, unfinished)
    unfinished.replace(stored)
    return records


def records_of(files: ray.data.Dataset, sequence_type: SequenceType, output: Path, find_lower_case: bool) -> ray.data.Dataset:
    """Add the stage to the plan: one row a file in, one row a record out."""
    settings = {"sequence_type": sequence_type, "output": output, "find_lower_case": find_lower_case}
    return files.map_batches(index_file, batch_size=1, batch_format="pyarrow", fn_kwargs=settings)


def index_file(file: pa.Table, *, sequence_type: SequenceType, output: Path, find_lower_case: bool = False) -> pa.Table:
    """The records of one file (a table of one row: number, path) in order; its clean letters are written and renamed."""
    number, path = file["number"][0].as_py(), location(file["path"][0].as_py())
    read = read_structure_file if path.name.lower().endswith(STRUCTURES) else read_fasta
    target = bases_file(output, number)
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_suffix(".unfinished").open("wb", buffering=0) as sink:
        contents = read(path, sequence_type, sink, find_lower_case=find_lower_case)
    if find_lower_case:
        np.save(lower_case_file(output, number), contents.lower_case)
    target.with_suffix(".unfinished").replace(target)
    return _table(number, contents.records)


def read_structure_file(path: Path, sequence_type: SequenceType, sink: BinaryIO, *, find_lower_case: bool = False) -> Contents:
    """As `read_fasta`, for the polymers of a PDB or mmCIF file, whose letters have no case."""
    from .sources.structures import read_structure  # gemmi is an extra

    records, offset = [], 0
    for polymer in read_structure(path, sequence_type):
        letters = polymer.letters.encode()
        records.append(Record(polymer.name, offset, len(letters), hashlib.sha256(letters).digest()[:DIGEST_BYTES]))
        offset += len(letters)
        sink.write(letters)
    return Contents(records, np.empty((0, 2), np.int64))


def _table(number: int, records: list[Record]) -> pa.Table:
    name, offset, length, digest = zip(*records, strict=True)
    return pa.table([[number] * len(records), name, name, offset, length, digest], schema=RECORDS)


def _gather(dataset: ray.data.Dataset, inputs: Mapping[str, Location], on_progress: OnProgress) -> pa.Table:
    """Collect the records of all files; they arrive in the order in which files are done."""
    sizes, seen, tables = [size(path) for path in inputs.values()], set(), []
    on_progress("reading", 0, sum(sizes))
    for table in result_tables(dataset):
        tables.append(table.cast(RECORDS))
        seen.update(table["file"].unique().to_pylist())
        on_progress("reading", sum(sizes[file] for file in seen), sum(sizes))
    return join(tables)


def join(tables: Iterable[pa.Table]) -> pa.Table:
    """Records in one order."""
    return pa.concat_tables(tables).sort_by([("file", "ascending"), ("offset", "ascending")]).combine_chunks()


def with_places(records: pa.Table) -> pa.Table:
    """The records with `place`, the number of their first base among the bases of all."""
    length = records["length"].to_numpy()
    return records.append_column("place", pa.array(np.cumsum(length) - length))
