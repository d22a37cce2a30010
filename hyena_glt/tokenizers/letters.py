"""One letter a token: single bases of DNA and RNA (`char`) and residues of proteins (`amino_acid`)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..dna import ALPHABETS
from .base import CLS, MASK, NUM_SPECIAL, PAD, SEP, UNK, Tokenizer, as_letters, known_ids, letter_table, reverse_and_map, translate


@dataclass(frozen=True)
class LetterTokenizer(Tokenizer):
    """Single letters of `sequence_type`: its kind is `amino_acid` for protein and `char` for dna and rna."""

    sequence_type: str
    add_special_tokens: bool = False

    def __post_init__(self) -> None:
        if self.sequence_type not in ALPHABETS:
            raise ValueError(f"sequence_type must be one of {', '.join(ALPHABETS)}, got {self.sequence_type!r}")

    @property
    def kind(self) -> str:
        return "amino_acid" if self.sequence_type == "protein" else "char"

    @property
    def vocab_size(self) -> int:
        return len(ALPHABETS[self.sequence_type])

    @property
    def bases_per_token(self) -> int:
        return 1

    @property
    def span(self) -> int:
        return 1

    def encode(self, sequence: bytes | np.ndarray) -> np.ndarray:
        return translate(as_letters(sequence), letter_table(self.sequence_type, NUM_SPECIAL, UNK))

    def decode(self, ids: np.ndarray) -> str:
        letters = bytearray(256)
        letters[MASK], letters[UNK] = ord("_"), ord("X" if self.kind == "amino_acid" else "N")
        letters[NUM_SPECIAL:self.num_ids] = ALPHABETS[self.sequence_type]
        narrow = known_ids(ids, self.num_ids).astype(np.uint8)
        return narrow.tobytes().translate(letters, bytes([PAD, CLS, SEP])).decode()

    def reverse_complement(self, ids: np.ndarray) -> np.ndarray:
        if self.kind == "amino_acid":
            raise ValueError("a protein has no reverse complement: it is the strands of DNA and RNA that pair")
        table = np.arange(self.num_ids)
        table[NUM_SPECIAL:] = table[:NUM_SPECIAL - 1:-1]  # in ACGT the complement of the i-th base is the i-th from the end
        return reverse_and_map(known_ids(ids, self.num_ids), table)
