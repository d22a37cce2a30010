"""Where the stored rows of a split lie in the genome, as compact arrays. Runs on the workers and in evaluation, without Ray."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ..tokenizers import Tokenizer
from .readers import read_columns
from .storage import Location


@dataclass(frozen=True, slots=True)
class Places:
    """The stretch of each stored row: first base (0-based) and bases, int64 [rows]; and whether the row before is of the same record."""

    start: np.ndarray
    length: np.ndarray
    same_record: np.ndarray

    def shared_bases(self) -> np.ndarray:
        """Bases at the start of each row that the row before it holds too, int64 [rows]; 0 without overlap."""
        shared = np.clip(self.start[:-1] + self.length[:-1] - self.start[1:], 0, None)
        return np.concatenate([[0], np.where(self.same_record[1:], shared, 0)])

    def goes_on(self, tokenizer: Tokenizer) -> np.ndarray:
        """Whether the next row's first token is the one that follows on this row's last, bool [rows].

        So a row goes on where nothing lies between the two: disjoint k-mers must leave no rest of bases at its end, and windows of
        overlapping k-mers must share k - 1 bases.
        """
        lengths, number = np.unique(self.length, return_inverse=True)
        bases = np.array([tokenizer.num_tokens(int(length)) * tokenizer.bases_per_token for length in lengths], np.int64)[number]
        follows = self.same_record[1:] & (self.start[1:] == self.start[:-1] + bases[:-1])
        return np.append(follows, False)


def read_places(paths: Iterable[Location]) -> Places:
    """The places of all rows of the shards at `paths`, one shard in memory at a time; DataError for a damaged one."""
    names: dict[str, int] = {}
    parts: dict[str, list[np.ndarray]] = {name: [] for name in ("start", "length", "source", "record")}
    for path in paths:
        table = read_columns(path, list(parts))
        for name in ("start", "length"):
            parts[name].append(table[name].to_numpy().astype(np.int64))
        for name in ("source", "record"):
            parts[name].append(_numbered(table[name], names))
    start, length, source, record = (np.concatenate(arrays) for arrays in parts.values())
    return Places(start, length, np.append(False, (source[1:] == source[:-1]) & (record[1:] == record[:-1])))


def _numbered(column: pa.ChunkedArray, names: dict[str, int]) -> np.ndarray:
    """A number for each name, int32 [rows]; new names are added to `names`."""
    encoded = column.combine_chunks().dictionary_encode()
    numbers = np.array([names.setdefault(name, len(names)) for name in encoded.dictionary.to_pylist()], np.int32)
    return numbers[encoded.indices.to_numpy()]
