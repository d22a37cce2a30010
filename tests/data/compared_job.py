"""A job over letters in memory, as planning makes it, for the stages that compare windows; and sequences that are nearly the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from hyena_glt.config import TokenizationConfig
from hyena_glt.data.index import with_places
from hyena_glt.data.job import Filters, Job, Task
from hyena_glt.data.scratch import bases_file
from hyena_glt.data.windows import Cut, make_regions
from hyena_glt.tokenizers import build_tokenizer


def make_job(
    folder: Path, files: list[dict[str, bytes]], *, max_length: int, windows_per_task: int = 20, min_length: int = 1
) -> tuple[Job, list[Task]]:
    """Records whose name begins with `val` are val, the others train."""
    table = store_records(folder, files)
    start, end = table["place"].to_numpy(), table["place"].to_numpy() + table["length"].to_numpy()
    is_val = np.array([name.startswith("val") for name in table["name"].to_pylist()])
    cut = Cut(max_length=max_length, stride=max_length)
    regions = {split: make_regions(table, (start[mask], end[mask]), cut) for split, mask in (("train", ~is_val), ("val", is_val))}
    job = Job(
        output=folder, destination=folder, format="parquet", regions=regions, cut=cut,
        sources=tuple(f"{number}.fa" for number in range(len(files))),
        filters=Filters(sequence_type="dna", min_length=min_length), tokenizer=build_tokenizer("dna", TokenizationConfig(kind="char")),
        compress=False, repeated_places=np.empty(0, np.int64),
    )
    return job, list(job.tasks(windows_per_task))


def store_records(folder: Path, files: list[dict[str, bytes]]) -> pa.Table:
    """Write the clean letters, and give the records as the index does."""
    rows = []
    for number, records in enumerate(files):
        target = bases_file(folder, number)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(b"".join(records.values()))
        offset = 0
        for name, letters in records.items():
            rows.append({"file": number, "name": name, "contig": name, "offset": offset, "length": len(letters)})
            offset += len(letters)
    return with_places(pa.Table.from_pylist(rows))


def mutated(letters: bytes, num_changes: int, seed: int = 0) -> bytes:
    """So many bases replaced by others."""
    rng, changed = np.random.default_rng(seed), np.frombuffer(letters, np.uint8).copy()
    at = rng.choice(len(changed), num_changes, replace=False)
    changed[at] = np.frombuffer(b"CGTA", np.uint8)[np.searchsorted(np.frombuffer(b"ACGT", np.uint8), changed[at])]
    return changed.tobytes()
