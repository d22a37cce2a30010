"""What a biologist asks of a split before training on it: lengths, composition, ambiguity, repeats. Needs neither Ray nor torch.

Of each row a few numbers enter histograms of fixed size and a hash is kept, so memory does not grow with the split beyond the
rows that are looked at. Suffixes: W rows, T tokens, L letters.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ..data.dataset import Rows
from ..dna import ALPHABETS, SequenceType, reverse_complement
from ..tokenizers.base import PAD, UNK
from .data_rows import RowBlock, evenly, read_blocks

AMBIGUITY_EDGES = (0.0, 0.001, 0.01, 0.05, 0.2, 1.0)
"""Upper ends, included, of the classes of the share of [UNK] in a row."""
KMER = 4
Report = Callable[[int], None]
"""Told how many rows were read since the last call."""


@dataclass(slots=True)
class SplitStatistics:
    """Sums over the rows of one split that were looked at."""

    sequence_type: SequenceType
    num_rows: int
    """Rows of the split; `rows` of them were looked at."""
    max_length: int
    """Letters of the longest possible row."""
    rows: int = 0
    positions: int = 0
    tokens: int = 0
    unknown_tokens: int = 0
    bases: int = 0
    """Letters under the tokens; rows that overlap count theirs twice."""
    lengths: np.ndarray = field(init=False)
    """Rows of each length in bases, int64 [max_length + 1]."""
    gc_percents: np.ndarray = field(default_factory=lambda: np.zeros(101, np.int64))
    """Rows of each rounded GC content of their A, C, G, T and U."""
    ambiguity: np.ndarray = field(default_factory=lambda: np.zeros(len(AMBIGUITY_EDGES), np.int64))
    """Rows in each class of `AMBIGUITY_EDGES`."""
    letter_counts: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    kmers: np.ndarray = field(default_factory=lambda: np.zeros(4**KMER, np.int64))
    """4-mers of DNA and RNA on the strand that is stored, the first letter highest in A, C, G, T."""
    weights: Counter[float] = field(default_factory=Counter)
    """Tokens of each weight in the loss."""
    labels: Counter[str] = field(default_factory=Counter)
    """Rows with each label."""
    unlabelled_rows: int = 0
    hashes: list[np.ndarray] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.lengths = np.zeros(self.max_length + 1, np.int64)

    @property
    def padding_share(self) -> float:
        """Share of positions that hold [PAD]."""
        return 1.0 - self.tokens / self.positions

    @property
    def unknown_share(self) -> float:
        """Share of tokens that hold [UNK]."""
        return self.unknown_tokens / max(self.tokens, 1)

    @property
    def mean_length(self) -> float:
        """Bases a row."""
        return float(self.lengths @ np.arange(len(self.lengths))) / self.rows

    @property
    def gc(self) -> float | None:
        """Share of G and C among A, C, G, T and U of all rows; None for protein, and where there is none."""
        known = int(self.letter_counts[list(b"ACGTU")].sum())
        return int(self.letter_counts[list(b"GC")].sum()) / known if known and self.sequence_type != "protein" else None

    @property
    def duplicate_rows(self) -> int:
        """Rows that are the same as another one before them, on either strand."""
        return self.rows - len(np.unique(np.concatenate(self.hashes)))

    def composition(self) -> dict[str, float]:
        """Share of each canonical 4-mer of DNA or RNA (the earlier of it and its reverse complement), of each residue of protein."""
        letters = "ACGT"
        if self.sequence_type == "protein":
            counts = {chr(letter): int(self.letter_counts[letter]) for letter in ALPHABETS["protein"]}
        else:
            counts = {}
            for number, count in enumerate(self.kmers.tolist()):
                word = "".join(letters[number >> 2 * place & 3] for place in reversed(range(KMER)))
                name = min(word, reverse_complement(word.encode()).decode())
                counts[name] = counts.get(name, 0) + count
        total = sum(counts.values())
        return {name: count / total for name, count in counts.items()} if total else {}

    def add(self, block: RowBlock) -> None:
        """Count the rows of a block."""
        letters_WL, ids_WT = block.letters_WL, block.ids_WT
        filled_W, unknown_W = (ids_WT != PAD).sum(axis=1), (ids_WT == UNK).sum(axis=1)
        self.rows += len(ids_WT)
        self.positions += ids_WT.size
        self.tokens += int(filled_W.sum())
        self.unknown_tokens += int(unknown_W.sum())
        self.bases += int((letters_WL != 0).sum())
        self.lengths += np.bincount(block.places["length"].to_numpy(), minlength=len(self.lengths))
        self.ambiguity += np.bincount(np.searchsorted(AMBIGUITY_EDGES, unknown_W / np.maximum(filled_W, 1)), minlength=len(AMBIGUITY_EDGES))
        self.letter_counts += np.bincount(letters_WL.ravel(), minlength=256)
        if self.sequence_type != "protein":
            self.gc_percents += gc_percents(letters_WL)
            self.kmers += count_kmers(letters_WL)
        self.hashes.append(row_hashes(letters_WL, self.sequence_type))
        if block.weights_WT is not None:
            values, counts = np.unique(block.weights_WT[ids_WT != PAD], return_counts=True)
            self.weights.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        if "labels" in block.places.column_names:
            labels = block.places["labels"].to_pylist()
            self.labels.update(name for names in labels for name in set(names))
            self.unlabelled_rows += sum(not names for names in labels)


def describe(rows: Rows, max_rows: int, report: Report) -> SplitStatistics:
    """The statistics of one split, of at most `max_rows` rows that are spread evenly over it.

    DataError for a shard that cannot be read.
    """
    max_length = int(rows.manifest.config["preprocessing"]["max_length"])
    statistics = SplitStatistics(rows.tokenizer.sequence_type, rows.num_rows, max_length)
    for block in read_blocks(rows, evenly(rows.num_rows, max_rows)):
        statistics.add(block)
        report(len(block.number_W))
    return statistics


def gc_percents(letters_WL: np.ndarray) -> np.ndarray:
    """Rows of each rounded percentage of G and C among A, C, G, T and U, int64 [101]; rows of none of these are left out."""
    gc_W = np.isin(letters_WL, list(b"GC")).sum(axis=1)
    known_W = gc_W + np.isin(letters_WL, list(b"ATU")).sum(axis=1)
    some = known_W > 0
    return np.bincount(np.rint(100 * gc_W[some] / known_W[some]).astype(int), minlength=101)


def count_kmers(letters_WL: np.ndarray) -> np.ndarray:
    """4-mers of A, C, G, T (U = T), int64 [256], the first letter highest; those with another letter are left out."""
    code_WL = _CODES[letters_WL]
    width = code_WL.shape[1] - KMER + 1
    if width < 1:
        return np.zeros(4**KMER, np.int64)
    number, valid = np.zeros((len(code_WL), width), np.uint8), np.ones((len(code_WL), width), bool)
    for place in range(KMER):
        column = code_WL[:, place : place + width]
        number = number << 2 | column & 3
        valid &= column < 4
    return np.bincount(number[valid], minlength=4**KMER)


_CODES = np.full(256, 4, np.uint8)
_CODES[list(b"ACGT")] = range(4)
_CODES[ord("U")] = 3


def row_hashes(letters_WL: np.ndarray, sequence_type: SequenceType) -> np.ndarray:
    """uint64 [W]: equal for equal rows, and for DNA and RNA for a row and its reverse complement."""
    strands = _strands if sequence_type != "protein" else lambda sequence: (sequence,)
    texts = (letters.tobytes().rstrip(b"\0") for letters in letters_WL)
    digests = b"".join(min(hashlib.blake2b(strand, digest_size=8).digest() for strand in strands(text)) for text in texts)
    return np.frombuffer(digests, np.uint64)


def _strands(sequence: bytes) -> tuple[bytes, bytes]:
    dna = sequence.replace(b"U", b"T")
    return dna, reverse_complement(dna)


def divergence(one: dict[str, float], two: dict[str, float]) -> float:
    """Jensen-Shannon divergence in bits (Lin, 1991) of two compositions with the same names: 0 equal, 1 nothing in common."""
    p, q = np.array(list(one.values())), np.array([two[name] for name in one])
    middle = (p + q) / 2
    return float(sum(0.5 * (x[x > 0] * np.log2(x[x > 0] / middle[x > 0])).sum() for x in (p, q)))
