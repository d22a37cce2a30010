"""First stages: checksums of the input files (driver), then their records and clean letters, one Ray task a file (workers)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray.data

from ..dna import SequenceType
from .fasta import Record, read_fasta
from .job import bases_file
from .manifest import SCRATCH
from .stages import Row, result_tables, task_rows
from .verify import file_sha256

OnProgress = Callable[[str, int, int], None]
"""Called with a stage's name, the units done and the units in all: bytes for the inputs, bases afterwards."""

SCHEMA = pa.schema({"file": pa.int64(), "name": pa.string(), "offset": pa.int64(), "length": pa.int64(), "digest": pa.binary(16)})


def checksums(inputs: Mapping[str, Path], on_progress: OnProgress) -> dict[str, str]:
    """Source -> SHA-256 of each input file, by threads of the driver: a finished run is recognised without starting Ray."""
    total, done, found = sum(path.stat().st_size for path in inputs.values()), 0, {}
    on_progress("checksums", 0, total)
    with ThreadPoolExecutor() as threads:
        for (source, path), sha256 in zip(inputs.items(), threads.map(file_sha256, inputs.values()), strict=True):
            found[source] = sha256
            done += path.stat().st_size
            on_progress("checksums", done, total)
    return found


def index_records(inputs: Mapping[str, Path], sequence_type: SequenceType, output: Path | None, on_progress: OnProgress) -> pa.Table:
    """The records of all inputs, in order: file, name, offset, length, digest, and `place`, the number of the first base among all.

    Clean letters go to the scratch folder of `output`, if there is one.
    """
    stored = output and output / SCRATCH / "records.parquet"
    if stored and stored.exists():
        return pq.read_table(stored)
    records = _gather(records_of(task_rows(_file_rows(inputs)), sequence_type, output), inputs, on_progress)
    if stored:
        unfinished = stored.with_suffix(".unfinished")
        pq.write_table(records, unfinished)
        unfinished.replace(stored)
    return records


def _file_rows(inputs: Mapping[str, Path]) -> list[Row]:
    return [{"number": number, "path": str(path)} for number, path in enumerate(inputs.values())]


def records_of(files: ray.data.Dataset, sequence_type: SequenceType, output: Path | None) -> ray.data.Dataset:
    """Add the stage to the plan: one row a file in, one row a record out."""
    settings = {"sequence_type": sequence_type, "output": output}
    return files.map_batches(index_file, batch_size=1, batch_format="pyarrow", fn_kwargs=settings)


def index_file(file: pa.Table, *, sequence_type: SequenceType, output: Path | None) -> pa.Table:
    """The records of one file (a table of one row: number, path) in order; its clean letters are written and renamed."""
    number, path = file["number"][0].as_py(), Path(file["path"][0].as_py())
    if output is None:
        records = read_fasta(path, sequence_type).records
    else:
        target = bases_file(output, number)
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.with_suffix(".unfinished").open("wb", buffering=0) as sink:
            records = read_fasta(path, sequence_type, sink).records
        target.with_suffix(".unfinished").replace(target)
    return _table(number, records)


def _table(number: int, records: list[Record]) -> pa.Table:
    columns = [[number] * len(records), *([getattr(record, key) for record in records] for key in ("name", "offset", "length", "digest"))]
    return pa.table(columns, schema=SCHEMA)


def _gather(dataset: ray.data.Dataset, inputs: Mapping[str, Path], on_progress: OnProgress) -> pa.Table:
    """Collect the records of all files; they arrive in the order in which files are done."""
    sizes, seen, tables = [path.stat().st_size for path in inputs.values()], set(), []
    on_progress("reading", 0, sum(sizes))
    for table in result_tables(dataset):
        tables.append(table.cast(SCHEMA))
        seen.update(table["file"].unique().to_pylist())
        on_progress("reading", sum(sizes[file] for file in seen), sum(sizes))
    return join(tables)


def join(tables: list[pa.Table]) -> pa.Table:
    """The records of all files in one order, with `place`, the number of their first base among the bases of all."""
    records = pa.concat_tables(tables).sort_by([("file", "ascending"), ("offset", "ascending")]).combine_chunks()
    length = records["length"].to_numpy()
    return records.append_column("place", pa.array(np.cumsum(length) - length))
