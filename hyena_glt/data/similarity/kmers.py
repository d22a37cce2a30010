"""Hashes of canonical k-mers, the common ground of every comparison of sequences. Pure arithmetic, for driver and workers.

Suffixes: W windows, L letters of a window or record, M k-mers (or hashes) one after another.
Letters are upper case, uint8; a matrix [W, L] holds 0 behind the end of a window.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...dna import ALPHABETS, SequenceType

NO_KMER = np.uint64(2**64 - 1)
"""The hash where a k-mer would hold an ambiguous letter; no k-mer has it."""
MAX_K: dict[SequenceType, int] = {"dna": 31, "rna": 31, "protein": 12}
"""The longest k-mer of each sequence type: its number stays below 2^62."""
CHUNK = 1 << 16
"""K-mers that are hashed at once: few enough to stay in a core's cache."""

# glibc hands freed arrays of this size back to the system and takes them again page fault by page fault, which costs more than
# the arithmetic. Once a block of nearly 32 MiB, its highest threshold, was freed, it keeps smaller ones.
np.empty(31 << 20, np.uint8)

_BITS = {"dna": 2, "rna": 2, "protein": 5}
_KEY = np.uint64(0x9E3779B97F4A7C15)
_NUMBER_OF_NO_KMER = np.uint64(0x51AD7D168521D1D5)
"""What `mix` takes to NO_KMER. It takes each number to another one, and this one is no k-mer's, being above 2^62."""


def kmer_hashes(letters: np.ndarray, k: int, sequence_type: SequenceType) -> np.ndarray:
    """uint8 [..., L] -> uint64 [..., max(L - k + 1, 0)]: the hash of the k-mer that starts at each letter, or NO_KMER.

    A k-mer of DNA or RNA (U = T) and its reverse complement have one hash. k is at most `MAX_K`. For L of up to about `CHUNK`;
    more letters go through `hash_chunks` or `row_blocks`.
    """
    code, bits = letters & 31, _BITS[sequence_type]
    if sequence_type != "protein":
        code = (code >> 1) & 3  # A 0, C 1, T and U 2, G 3: a base and its complement differ in bit 1
        number, opposite = _pack(code, k, bits), _pack(code ^ 2, k, bits, first_highest=False)
        np.minimum(number, opposite, out=number)
    else:
        number = _pack(code, k, bits)
    ambiguous = is_ambiguous(letters, sequence_type)
    if ambiguous.any():
        np.copyto(number, _NUMBER_OF_NO_KMER, where=_any_of(ambiguous, k))
    return mix(number)


def hash_chunks(letters_L: np.ndarray, k: int, sequence_type: SequenceType) -> Iterator[np.ndarray]:
    """The same for a sequence of any length, `CHUNK` k-mers at a time."""
    for start in range(0, len(letters_L) - k + 1, CHUNK):
        yield kmer_hashes(letters_L[start : start + CHUNK + k - 1], k, sequence_type)


def row_blocks(num_rows: int, width: int) -> Iterator[slice]:
    """Slices of consecutive rows, about `CHUNK` letters each, at least one row."""
    rows = max(1, CHUNK // max(width, 1))
    return (slice(first, min(first + rows, num_rows)) for first in range(0, num_rows, rows))


def is_ambiguous(letters: np.ndarray, sequence_type: SequenceType) -> np.ndarray:
    """bool [...]: not one of the sequence type's letters (T and U are both one of DNA's and RNA's)."""
    if sequence_type != "protein":
        known = letters == ord("A")
        for base in b"CGTU":
            known |= letters == base
        return ~known
    return _AMBIGUOUS_RESIDUE.take(letters)


_AMBIGUOUS_RESIDUE = ~np.isin(np.arange(256), list(ALPHABETS["protein"]))


def mix(number: np.ndarray) -> np.ndarray:
    """Scramble uint64 numbers in place, one to one: the output function of SplitMix64 (Steele et al. 2014) after a key.

    Without the key the k-mer of number 0 (AAA...) would have the smallest hash of all, and be sampled wherever it occurs.
    """
    number ^= _KEY
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        number ^= number >> np.uint64(shift)
        number *= np.uint64(factor)
    number ^= number >> np.uint64(31)
    return number


def _pack(code: np.ndarray, k: int, bits: int, *, first_highest: bool = True) -> np.ndarray:
    """Codes [..., L] of `bits` bits -> uint64 [..., L - k + 1]: k neighbours as one number, the first or the last of them highest.

    Two packs of m letters that overlap make one of up to 2 m: where they overlap their bits are the same.
    """
    size = 1
    while size < k:
        step = min(size, k - size)
        size += step
        code = code.astype(np.min_scalar_type((1 << bits * size) - 1))
        high, low = (code[..., :-step], code[..., step:]) if first_highest else (code[..., step:], code[..., :-step])
        code = high << code.dtype.type(bits * step)
        code |= low
    return code.astype(np.uint64, copy=False)


def _any_of(flag: np.ndarray, k: int) -> np.ndarray:
    """bool [..., L] -> [..., L - k + 1]: one of k neighbours is set."""
    size = 1
    while size < k:
        step = min(size, k - size)
        size += step
        flag = flag[..., :-step] | flag[..., step:]
    return flag
