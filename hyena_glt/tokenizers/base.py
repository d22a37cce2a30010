"""What every tokenizer offers (the Tokenizer protocol), the ids of the special tokens, and the byte-level helpers that tokenizers share."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np

from ..dna import ALPHABETS

SPECIAL_TOKENS = ("[PAD]", "[MASK]", "[CLS]", "[SEP]", "[UNK]")
PAD, MASK, CLS, SEP, UNK = range(5)
NUM_SPECIAL = 5
"""The ids of the symbols start here, in alphabetical order."""

SCHEMA_VERSION = 1
FILE_NAME = "tokenizer.json"
CHUNK = 1 << 20
"""Tokens worked on at once, so that the temporaries of a whole chromosome never stand in memory."""
PIECE_BYTES = 1 << 16
"""Letters looked up at once: what stands in the processor's cache and in memory that the process has already, which is twice as fast."""


class Tokenizer(Protocol):
    """Letters to ids and back; implementations are frozen dataclasses, and two that are equal give the same ids."""

    sequence_type: str
    """`dna`, `rna` or `protein`."""
    add_special_tokens: bool
    """Whether the batcher puts [CLS] before and [SEP] behind each window; `encode` never does."""

    @property
    def kind(self) -> str:
        """`char`, `kmer` or `amino_acid`, as in `tokenization.kind`."""

    @property
    def vocab_size(self) -> int:
        """Symbols without the special tokens."""

    @property
    def bases_per_token(self) -> int:
        """New bases that a further token brings: the stride."""

    @property
    def span(self) -> int:
        """Bases under one token."""

    @property
    def num_ids(self) -> int:
        """Symbols and special tokens."""
        return self.vocab_size + NUM_SPECIAL

    @property
    def dtype(self) -> np.dtype:
        """The narrowest of uint8 and uint16 that holds every id."""
        return np.dtype(np.uint8 if self.num_ids <= 256 else np.uint16)

    @property
    def overlapping(self) -> bool:
        """Whether neighbouring tokens share bases."""
        return self.span > self.bases_per_token

    def num_tokens(self, num_bases: int) -> int:
        """Tokens of a sequence of `num_bases` bases; bases left over at its end belong to none."""
        return max(0, (num_bases - self.span) // self.bases_per_token + 1)

    def encode(self, sequence: bytes | np.ndarray) -> np.ndarray:
        """Letters (bytes or uint8 [..., bases]) to ids [..., num_tokens(bases)] of `dtype`.

        Lower case reads as upper case; a token with a letter that is not one of the symbols is UNK.
        """

    def decode(self, ids: np.ndarray) -> str:
        """The letters of one sequence's ids [tokens]; inverse of `encode` for sequences without ambiguous letters.

        Under UNK stand N (X for protein), under MASK underscores; PAD, CLS and SEP leave no letter.
        ValueError for an id that this tokenizer does not have.
        """

    def reverse_complement(self, ids: np.ndarray) -> np.ndarray:
        """The ids [..., tokens] of the opposite strand: last axis reversed (padding too), symbols complemented, specials kept.

        ValueError for protein, and for an id that this tokenizer does not have.
        """

    def to_dict(self) -> dict[str, object]:
        """Plain values that `load_tokenizer` reads back to an equal tokenizer."""
        return {
            "schema_version": SCHEMA_VERSION, "kind": self.kind, "sequence_type": self.sequence_type,
            "alphabet": ALPHABETS[self.sequence_type].decode(), "special_tokens": list(SPECIAL_TOKENS),
            "vocab_size": self.vocab_size, "add_special_tokens": self.add_special_tokens,
        }

    def save(self, path: str | Path) -> None:
        """Write `tokenizer.json`, at `path` or, if that is a folder, in it; the same tokenizer gives the same bytes."""
        json_path(path).write_text(self.to_json(), encoding="utf-8")

    def to_json(self) -> str:
        """The content of `tokenizer.json`."""
        return json.dumps(self.to_dict(), indent=1, sort_keys=True) + "\n"


def json_path(path: str | Path) -> Path:
    """The file that `path` means: itself, or `tokenizer.json` in it if it is a folder."""
    path = Path(path)
    return path / FILE_NAME if path.is_dir() else path


@cache
def letter_table(sequence_type: str, first: int, other: int) -> bytes:
    """256 bytes, letter to number: the alphabet counts up from `first` in both cases, U and T are one base, the rest is `other`."""
    table = bytearray([other]) * 256
    for number, letter in enumerate(ALPHABETS[sequence_type].decode(), first):
        same = "TU" if letter in "TU" and sequence_type != "protein" else letter
        for byte in (same + same.lower()).encode():
            table[byte] = number
    return bytes(table)


def as_letters(sequence: bytes | np.ndarray) -> np.ndarray:
    """The letters as uint8 [..., bases], without a copy; ValueError for an array of anything but bytes."""
    letters = sequence if isinstance(sequence, np.ndarray) else np.frombuffer(sequence, np.uint8)
    if letters.dtype != np.uint8 or letters.ndim < 1:
        raise ValueError(f"encode takes bytes or an array of uint8 letters, got {letters.ndim}-D {letters.dtype}")
    return letters


def translate(letters: np.ndarray, table: bytes) -> np.ndarray:
    """uint8 [...] through a table of 256 bytes; unlike NumPy's indexing this makes no array of 64-bit indices."""
    mapped = np.empty(letters.shape, np.uint8)
    for rows in pieces(letters):
        mapped[rows] = np.frombuffer(letters[rows].tobytes().translate(table), np.uint8).reshape(letters[rows].shape)
    return mapped


def pieces(letters: np.ndarray) -> Iterator[slice]:
    """Slices of the first axis of uint8 [N, ...] that hold about `PIECE_BYTES` each."""
    step = max(1, PIECE_BYTES // max(1, letters[:1].size))
    return (slice(first, first + step) for first in range(0, len(letters), step))


def known_ids(ids: np.ndarray, num_ids: int) -> np.ndarray:
    """`ids` as an array; ValueError if one is not in 0 to num_ids - 1."""
    ids = np.asarray(ids)
    if ids.size and not 0 <= ids.min() <= ids.max() < num_ids:
        wrong = ids[(ids < 0) | (ids >= num_ids)].flat[0]
        raise ValueError(f"id {wrong} is not one of this tokenizer's, which are 0 to {num_ids - 1}")
    return ids


def reverse_and_map(ids: np.ndarray, table: np.ndarray) -> np.ndarray:
    """ids [..., tokens] with the last axis reversed, each replaced by table[id]; keeps shape and dtype."""
    backwards = ids[..., ::-1].reshape(-1)
    mapped = np.empty_like(backwards)
    for first in range(0, len(mapped), CHUNK):
        mapped[first:first + CHUNK] = table[backwards[first:first + CHUNK]]
    return mapped.reshape(ids.shape)
