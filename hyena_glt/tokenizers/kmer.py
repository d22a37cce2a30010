"""k bases a token (DNA, RNA), disjoint or overlapping: the id is the k-mer read as a number to base 4."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from ..dna import ALPHABETS
from .base import CHUNK, CLS, MASK, NUM_SPECIAL, PAD, SEP, UNK, Tokenizer, as_letters, known_ids, letter_table, reverse_and_map, translate

AMBIGUOUS = 4
"""Stands for every letter that is not one of the four bases, whose codes are 0 to 3."""


@dataclass(frozen=True)
class KmerTokenizer(Tokenizer):
    """k-mers with stride k (disjoint) or 1 (overlapping).

    The reverse complement of disjoint tokens is the tokenization of the opposite strand only where the length is a
    multiple of k: a rest of bases at the end shifts the other strand's k-mers.
    """

    sequence_type: str
    kmer_size: int
    kmer_stride: int
    add_special_tokens: bool = False

    def __post_init__(self) -> None:
        if self.sequence_type not in ("dna", "rna"):
            raise ValueError(f"k-mers need sequence_type dna or rna, got {self.sequence_type!r}")
        if self.kmer_size not in range(1, 8):
            raise ValueError(f"kmer_size must lie between 1 and 7, got {self.kmer_size!r}")
        if self.kmer_stride not in (1, self.kmer_size):
            raise ValueError(f"kmer_stride must be {self.kmer_size} (disjoint) or 1 (overlapping), got {self.kmer_stride!r}")

    @property
    def kind(self) -> str:
        return "kmer"

    @property
    def vocab_size(self) -> int:
        return 4**self.kmer_size

    @property
    def bases_per_token(self) -> int:
        return self.kmer_stride

    @property
    def span(self) -> int:
        return self.kmer_size

    def encode(self, sequence: bytes | np.ndarray) -> np.ndarray:
        letters, stride = as_letters(sequence), self.kmer_stride
        table = letter_table(self.sequence_type, 0, AMBIGUOUS)
        tokens = self.num_tokens(letters.shape[-1])
        ids = np.empty((*letters.shape[:-1], tokens), self.dtype)
        for first in range(0, tokens, CHUNK):
            last = min(first + CHUNK, tokens) - 1
            ids[..., first:last + 1] = self._encode_codes(translate(letters[..., first * stride:last * stride + self.span], table))
        return ids

    def _encode_codes(self, codes: np.ndarray) -> np.ndarray:
        """Base codes uint8 [..., bases], 0 to 3 or AMBIGUOUS, to ids [..., tokens]; at least one token."""
        tokens = self.num_tokens(codes.shape[-1])
        ids = np.zeros((*codes.shape[:-1], tokens), self.dtype)
        highest = np.zeros(ids.shape, np.uint8)
        for column in self._columns(codes, tokens):
            ids <<= 2
            ids |= column
            np.maximum(highest, column, out=highest)
        ids += NUM_SPECIAL
        ids[highest == AMBIGUOUS] = UNK  # whatever their sum was: it may have wrapped
        return ids

    def _columns(self, bases: np.ndarray, tokens: int) -> list[np.ndarray]:
        """Views [..., tokens] into [..., bases], one for each of the k places: the first base of every token, the second, ..."""
        reach = (tokens - 1) * self.kmer_stride + 1
        return [bases[..., place:place + reach:self.kmer_stride] for place in range(self.span)]

    def decode(self, ids: np.ndarray) -> str:
        """As in `Tokenizer`; where overlapping tokens disagree on a base, the one that starts first decides."""
        ids = known_ids(ids, self.num_ids)
        ids = ids[~np.isin(ids, (PAD, CLS, SEP))]
        if not len(ids):
            return ""
        codes, symbols, masked = ids.astype(np.int32) - NUM_SPECIAL, ids >= NUM_SPECIAL, ids == MASK
        bases = np.full((len(ids) - 1) * self.kmer_stride + self.span, ord("N"), np.uint8)
        columns = self._columns(bases, len(ids))
        for column in columns:
            column[masked] = ord("_")
        alphabet = np.frombuffer(ALPHABETS[self.sequence_type], np.uint8)
        for place, column in enumerate(columns):  # a symbol covers what an unknown neighbour left open
            column[symbols] = alphabet[codes[symbols] >> 2 * (self.span - 1 - place) & 3]
        return bases.tobytes().decode()

    def reverse_complement(self, ids: np.ndarray) -> np.ndarray:
        return reverse_and_map(known_ids(ids, self.num_ids), _complement_table(self.kmer_size))

    def to_dict(self) -> dict[str, object]:
        return super().to_dict() | {"kmer_size": self.kmer_size, "kmer_stride": self.kmer_stride}


@cache
def _complement_table(kmer_size: int) -> np.ndarray:
    """int64 [4^k + 5]: id to the id of the reverse complement; specials map to themselves."""
    codes = np.arange(4**kmer_size)
    opposite = np.zeros_like(codes)
    for place in range(kmer_size):
        opposite = opposite * 4 + (3 - (codes >> 2 * place & 3))
    return np.concatenate([np.arange(NUM_SPECIAL), opposite + NUM_SPECIAL])
