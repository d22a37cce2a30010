"""Alphabets and complement: the biology that everything else stands on."""

from __future__ import annotations

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
