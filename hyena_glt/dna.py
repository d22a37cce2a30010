"""Alphabets, complement and coordinates: the biology that everything else stands on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

SequenceType = Literal["dna", "rna", "protein"]

ALPHABETS: dict[str, bytes] = {
    "dna": b"ACGT",
    "rna": b"ACGU",
    # The 20 standard residues, selenocysteine (U) and pyrrolysine (O). B, J, X, Z stand for more than one residue.
    "protein": b"ACDEFGHIKLMNOPQRSTUVWY",
}
"""The unambiguous symbols of each sequence type, in alphabetical order."""

_IUPAC = b"ACGTUNRYSWKMBDHVacgtunryswkmbdhv-."
_IUPAC_COMPLEMENT = b"TGCAANYRSWMKVHDBtgcaanyrswmkvhdb-."
COMPLEMENT: np.ndarray = np.arange(256, dtype=np.uint8)
"""Byte to byte: the complementary base, IUPAC codes and case kept; other bytes map to themselves."""
COMPLEMENT[np.frombuffer(_IUPAC, np.uint8)] = np.frombuffer(_IUPAC_COMPLEMENT, np.uint8)


def reverse_complement(sequence: bytes) -> bytes:
    """The opposite strand, 5' to 3', in DNA letters (U pairs with A, and A gives T)."""
    return COMPLEMENT[np.frombuffer(sequence, np.uint8)[::-1]].tobytes()


@dataclass(frozen=True, slots=True, order=True)
class Interval:
    """A stretch of one record: 0-based, half-open, forward strand."""

    record: str
    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end:
            raise ValueError(f"an interval needs 0 <= start <= end, got {self}")

    def __len__(self) -> int:
        return self.end - self.start

    def __str__(self) -> str:
        return f"{self.record}:{self.start:,}-{self.end:,}"
