"""Alphabets and complement."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyena_glt.dna import ALPHABETS, COMPLEMENT, reverse_complement

IUPAC = {"A": "A", "C": "C", "G": "G", "T": "T", "R": "AG", "Y": "CT", "S": "CG", "W": "AT", "K": "GT", "M": "AC",
         "B": "CGT", "D": "AGT", "H": "ACT", "V": "ACG", "N": "ACGT"}
"""The bases that each code stands for."""
PAIR = {"A": "T", "C": "G", "G": "C", "T": "A"}


@pytest.mark.parametrize("code", IUPAC)
def test_a_code_pairs_with_the_code_of_the_paired_bases(code):
    complement = chr(COMPLEMENT[ord(code)])
    assert set(IUPAC[complement]) == {PAIR[base] for base in IUPAC[code]}
    assert chr(COMPLEMENT[ord(code.lower())]) == complement.lower()


def test_uracil_pairs_with_adenine_and_other_bytes_stay():
    assert reverse_complement(b"acgu-N.") == b".N-acgt"
    others = [byte for byte in range(256) if chr(byte).upper() not in {*IUPAC, "U"}]
    assert COMPLEMENT[others].tolist() == others


@given(st.text("ACGTRYSWKMBDHVNacgtryswkmbdhvn-.").map(str.encode))
def test_twice_is_the_same_strand(sequence):
    assert reverse_complement(reverse_complement(sequence)) == sequence


@pytest.mark.parametrize("sequence_type", ALPHABETS)
def test_alphabets_are_in_order(sequence_type):
    assert np.all(np.diff(list(ALPHABETS[sequence_type])) > 0)
