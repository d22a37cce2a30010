"""The sequences that a model on each worker reads, as tasks: of FASTA, or rows of a preprocessed split."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hyena_glt.data.dataset import open_rows
from hyena_glt.data.hdf5 import is_hdf5
from hyena_glt.data.index import OnProgress, checksums, index_records
from hyena_glt.data.inputs import find_inputs
from hyena_glt.data.manifest import MANIFEST, output_around
from hyena_glt.data.readers import read_rows
from hyena_glt.data.scratch import SCRATCH, bases_file
from hyena_glt.data.stages import Row
from hyena_glt.data.storage import absolute, is_folder, size
from hyena_glt.errors import DataError
from hyena_glt.inference.load import require_same_tokenizer
from hyena_glt.inference.stretches import Stretch, stretch_of_letters
from hyena_glt.inference.windows import Context
from hyena_glt.tokenizers import Tokenizer
from hyena_glt.tokenizers.base import PAD

SPLIT = "test"
"""Of a preprocessing output of which no split is named."""


class Sequences(Protocol):
    """What is to be read. It travels to the workers, which find the letters or ids of a task."""

    left_out: int
    """Sequences shorter than a token; known once there are tasks."""

    def identity(self, on_progress: OnProgress) -> dict[str, str]:
        """Name -> checksum of all that it is made of."""

    def tasks(self, context: Context, most_tokens: int, *, divide: bool, on_progress: OnProgress) -> list[Row]:
        """Each with its `number` and of about `most_tokens`, in `windows`; a longer sequence is one, or where they `divide` it several."""

    def stretches(self, task: Row, context: Context) -> Iterator[Stretch]:
        """What a task is to read. Runs on the workers."""


class Fasta:
    """Records of FASTA files, whose clean letters lie in the scratch folder of `output`.

    A task is a range of windows, which are counted through all records.
    """

    def __init__(self, path: str, tokenizer: Tokenizer, output: Path) -> None:
        self._inputs, self._tokenizer, self._output = find_inputs(path, named="--input"), tokenizer, output
        self._counted: tuple[pa.Table, np.ndarray, np.ndarray] | None = None
        self.left_out = 0

    def identity(self, on_progress: OnProgress) -> dict[str, str]:
        return {f"input {source}": checksum for source, checksum in checksums(self._inputs, on_progress).items()}

    def tasks(self, context: Context, most_tokens: int, *, divide: bool, on_progress: OnProgress) -> list[Row]:
        records = index_records(self._inputs, self._tokenizer.sequence_type, self._output, on_progress)
        tokens_R = self._num_tokens(records)
        self.left_out, window_ends_R = int((tokens_R == 0).sum()), np.cumsum(context.count(tokens_R))
        if not window_ends_R[-1]:
            raise DataError(f"--input: no sequence is as long as a token of the model, which has {self._tokenizer.span} letters")
        bounds = np.arange(0, window_ends_R[-1], max(1, most_tokens // context.size))
        if not divide:
            share_R = (np.cumsum(tokens_R) - tokens_R) // most_tokens
            bounds = np.append(0, window_ends_R[:-1][np.diff(share_R) > 0])
        bounds = np.unique(np.append(bounds, window_ends_R[-1]))
        return [
            {"number": number, "windows": int(last - first), "first": int(first), "last": int(last)}
            for number, (first, last) in enumerate(pairwise(bounds))
        ]

    def _num_tokens(self, records: pa.Table) -> np.ndarray:
        """Of each record, int64 [R]."""
        lengths, number = np.unique(records["length"].to_numpy(), return_inverse=True)
        return np.array([self._tokenizer.num_tokens(int(length)) for length in lengths], np.int64)[number]

    def stretches(self, task: Row, context: Context) -> Iterator[Stretch]:
        records, tokens_R, window_ends_R = self._counted = self._counted or self._count(context)
        sources = list(self._inputs)
        first, last = int(task["first"]), int(task["last"])
        for number in range(int(np.searchsorted(window_ends_R, first, side="right")), len(tokens_R)):
            begin, end = (int(window_ends_R[number - 1]) if number else 0), int(window_ends_R[number])
            if begin >= last:
                return
            windows = context.windows(int(tokens_R[number]), max(first, begin) - begin, min(last, end) - begin)
            if windows:
                record = records.slice(number, 1).to_pylist()[0]
                place = {"offset": record["offset"], "shape": (record["length"],)}
                letters = np.memmap(bases_file(self._output, record["file"]), np.uint8, "r", **place)
                yield stretch_of_letters(sources[record["file"]], record["name"], letters, windows, self._tokenizer)


    def _count(self, context: Context) -> tuple[pa.Table, np.ndarray, np.ndarray]:
        """The records, the tokens of each, and where its windows end among those of all; once in a worker."""
        records = pq.read_table(self._output / SCRATCH / "records.parquet")
        tokens_R = self._num_tokens(records)
        return records, tokens_R, np.cumsum(context.count(tokens_R))


class Preprocessed:
    """The rows of a split; DataError where they are not of the model's tokenizer."""

    def __init__(self, path: str, tokenizer: Tokenizer) -> None:
        self._rows = open_rows(str(absolute(path)), SPLIT)
        self.left_out = 0
        require_same_tokenizer(tokenizer, self._rows.tokenizer, path)

    def identity(self, on_progress: OnProgress) -> dict[str, str]:
        return {f"input {self._rows.split}": self._rows.manifest.checksum}

    def tasks(self, context: Context, most_tokens: int, *, divide: bool, on_progress: OnProgress) -> list[Row]:
        step, windows = max(1, most_tokens // self._rows.width), int(context.count(np.array(self._rows.piece_length)))
        ranges = [
            (group, first, min(first + step, int(num_rows)))
            for group, num_rows in enumerate(self._rows.group_sizes()) for first in range(0, int(num_rows), step)
        ]
        return [
            {"number": number, "windows": (last - first) * windows, "group": group, "first": first, "last": last}
            for number, (group, first, last) in enumerate(ranges)
        ]

    def stretches(self, task: Row, context: Context) -> Iterator[Stretch]:
        group, first, last = (int(task[name]) for name in ("group", "first", "last"))
        place = self._rows.row_group(group)
        table = read_rows(place.path, place.index, place.num_rows).slice(first, last - first)
        ids_RL = self._rows.manifest.row_format.packings["input_ids"].unpack(table["input_ids"])
        for ids, source, record, start in zip(ids_RL, *(table[name].to_pylist() for name in ("source", "record", "start")), strict=True):
            filled = ids[: int((ids != PAD).sum())]
            yield Stretch(source, record, start, filled, context.windows(len(filled)))


def find_sequences(path: str, tokenizer: Tokenizer, output: Path) -> Sequences:
    """Those of a preprocessing output or one of its split folders, else of FASTA: a file, a folder or a glob."""
    folder, _ = output_around(path)
    if is_hdf5(folder) or size(folder / MANIFEST) is not None or is_folder(folder / SCRATCH):
        return Preprocessed(path, tokenizer)
    return Fasta(path, tokenizer, output)
