"""Put records that share k-mers into one cluster: sketches of stretches of the letters on the workers, clusters on the driver.

A task is a stretch of one file's clean letters, whatever records lie in it, so a chromosome is many tasks and a thousand proteins
are one. Suffixes: N records, M hashes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import ray
import ray.data

from ..dna import SequenceType
from ..errors import DataError
from .comparison import save_array
from .scratch import SCRATCH, bases_file
from .similarity.clusters import cluster_records
from .similarity.fracminhash import choose_scale, distinct_pairs, hash_limit
from .similarity.kmers import CHUNK, hash_chunks
from .stages import Row, results, task_rows

CLUSTER_K: dict[SequenceType, int] = {"dna": 21, "rna": 21, "protein": 6}
"""Long enough that unrelated records share few k-mers, short enough that related ones share many."""
STRETCH_BASES = 1 << 22
"""Letters in one task."""
MAX_HASHES = 1 << 23
"""Sampled k-mers of all records together, about: the driver needs some 100 bytes for each."""
HASHES_PER_RECORD = 1000
"""Of the shortest record, where memory allows: its share in another is then found with an error below 0.016."""
MIN_HASHES = 10
"""A record of fewer sampled k-mers finds its relatives by luck."""
MAX_UNSURE_SHARE = 0.1
"""The largest share of all letters that may lie in such records because there are so many records."""


class Stretch(NamedTuple):
    """The k-mers that begin at letter `first` to `last` (not included) of a file's clean letters."""

    file: int
    first: int
    last: int


class Sketching(NamedTuple):
    """Passed to the workers once; the records in order, by their first and last letter in their file, int64 [N]."""

    output: Path
    file_N: np.ndarray
    start_N: np.ndarray
    end_N: np.ndarray
    k: int
    sequence_type: SequenceType
    scale: int

    def stretches(self) -> Iterator[Stretch]:
        """All letters of all records."""
        files, first_N = np.unique(self.file_N, return_index=True)
        last_N = np.append(first_N[1:], len(self.file_N)) - 1
        for file, start, end in zip(files.tolist(), self.start_N[first_N].tolist(), self.end_N[last_N].tolist(), strict=True):
            for first in range(start, end, STRETCH_BASES):
                yield Stretch(file, first, min(first + STRETCH_BASES, end))

    def sketch_file(self, stretch: Stretch) -> Path:
        """uint64 [2, M]: the number of a record and a hash that it holds."""
        return self.output / SCRATCH / "clusters" / f"{stretch.file:05d}-{stretch.first}.npy"


def homology_clusters(
    output: Path, records: pa.Table, sequence_type: SequenceType, threshold: float, done: Callable[[int], None]
) -> list[str]:
    """The name of each record's cluster, for records in order (columns file, name, offset, length), none of which is empty.

    A cluster is named by its first record and its length: contig_1 of two assemblies are two names, and neither the names of the
    files nor others behind them change it. `done` is told the letters of each stretch done. DataError where there are too many
    records to tell related ones.
    """
    labels = output / SCRATCH / "clusters.npy"
    if not labels.exists():
        sketching = plan_sketches(output, records, sequence_type)
        shared = ray.put(sketching)
        stretches, bases = (stretch._asdict() for stretch in sketching.stretches()), sum(records["length"].to_pylist())
        for row in results(sketched(task_rows(stretches, bases=bases), shared)):
            stretch = Stretch(**row)
            done(stretch.last - stretch.first)
        save_array(labels, find_clusters(sketching, threshold))
    names, lengths = records["name"].to_pylist(), records["length"].to_pylist()
    return [f"{names[first]}:{lengths[first]}" for first in np.load(labels).tolist()]


def plan_sketches(output: Path, records: pa.Table, sequence_type: SequenceType) -> Sketching:
    """Sample as many k-mers as the shortest record needs, or as fit in memory; DataError if those are too few for most records."""
    file_N, start_N, length_N = (records[key].to_numpy() for key in ("file", "offset", "length"))
    num_bases = int(length_N.sum())
    shortest = int(length_N.min())
    scale = choose_scale(num_bases, max_hashes=MAX_HASHES, window_kmers=shortest, hashes_per_window=HASHES_PER_RECORD)
    unsure = int(length_N[length_N < MIN_HASHES * scale].sum()) / num_bases
    if scale > 1 and unsure > MAX_UNSURE_SHARE:
        raise DataError(
            f"preprocessing.split.by: cluster samples one k-mer in {scale:,} of these {len(length_N):,} records, so that at most "
            f"{MAX_HASHES:,} are compared, and {100 * unsure:.0f} % of the letters lie in records too short for that; cluster them with "
            "another program and split by file or named, or give fewer records"
        )
    return Sketching(output, file_N, start_N, start_N + length_N, CLUSTER_K[sequence_type], sequence_type, scale)


def sketched(stretches: ray.data.Dataset, sketching: ray.ObjectRef) -> ray.data.Dataset:
    """Add the stage to the plan: one row a stretch in, the same row out when its sketches are stored."""
    return stretches.map(sketch_row, fn_kwargs={"sketching": sketching})


def sketch_row(row: Row, *, sketching: ray.ObjectRef) -> Row:
    """Sketch the records in one stretch."""
    store_sketches(ray.get(sketching), Stretch(**row))
    return row


def store_sketches(sketching: Sketching, stretch: Stretch) -> None:
    """Store what the records hold in one stretch; nothing to do if it is there."""
    target = sketching.sketch_file(stretch)
    if target.exists():
        return
    letters = np.memmap(bases_file(sketching.output, stretch.file), np.uint8, "r")
    position_M, hash_M = _sample(np.asarray(letters[stretch.first : stretch.last + sketching.k - 1]), sketching)
    first, last = np.searchsorted(sketching.file_N, [stretch.file, stretch.file + 1])
    start, end = sketching.start_N[first:last], sketching.end_N[first:last]
    position_M += stretch.first
    record_M = np.searchsorted(start, position_M, side="right") - 1
    inside = position_M + sketching.k <= end[record_M]  # letters of a record that was dropped lie behind the end of the one before
    record_M, hash_M = distinct_pairs(first + record_M[inside], hash_M[inside])
    save_array(target, np.stack([record_M.astype(np.uint64), hash_M]))


def _sample(letters_L: np.ndarray, sketching: Sketching) -> tuple[np.ndarray, np.ndarray]:
    """Where sampled k-mers begin, int64 [M], and their hashes, across all records."""
    positions, hashes = [np.empty(0, np.int64)], [np.empty(0, np.uint64)]
    for number, chunk in enumerate(hash_chunks(letters_L, sketching.k, sketching.sequence_type)):
        sampled = np.flatnonzero(chunk < hash_limit(sketching.scale))
        positions.append(sampled + number * CHUNK)
        hashes.append(chunk[sampled])
    return np.concatenate(positions), np.concatenate(hashes)


def find_clusters(sketching: Sketching, threshold: float) -> np.ndarray:
    """From the stored sketches to each record's label, int64 [N]: the number of the first record of its cluster."""
    stored = [np.load(sketching.sketch_file(stretch)) for stretch in sketching.stretches()]
    record_M, hash_M = np.concatenate(stored, axis=1)
    return cluster_records(record_M.astype(np.int64), hash_M, len(sketching.file_N), threshold)
