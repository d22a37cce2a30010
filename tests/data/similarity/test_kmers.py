"""k-mer hashes against k-mers as Python strings."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyena_glt.data.similarity.kmers import CHUNK, MAX_K, NO_KMER, hash_chunks, is_ambiguous, kmer_hashes, mix
from hyena_glt.dna import reverse_complement

SYMBOLS = {"dna": "ACGTU", "rna": "ACGTU", "protein": "ACDEFGHIKLMNOPQRSTUVWY"}
LETTERS = {"dna": "ACGTUNRY", "rna": "ACGUTN", "protein": "ACDEFGHIKLMNOPQRSTUVWYBJXZ*"}


def as_letters(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8)


def slow_kmers(text: str, k: int, sequence_type: str) -> list[str | None]:
    """The canonical k-mer at each place, None where it has an ambiguous letter."""
    kmers: list[str | None] = []
    for start in range(len(text) - k + 1):
        kmer = text[start : start + k]
        if set(kmer) - set(SYMBOLS[sequence_type]):
            kmers.append(None)
        elif sequence_type == "protein":
            kmers.append(kmer)
        else:
            kmers.append(min(kmer.replace("U", "T"), reverse_complement(kmer.encode()).decode()))
    return kmers


@st.composite
def sequences(draw: st.DrawFn) -> tuple[str, int, str]:
    sequence_type = draw(st.sampled_from(["dna", "rna", "protein"]))
    k = draw(st.integers(1, MAX_K[sequence_type]))
    # Few kinds of letters, so that k-mers repeat; few ambiguous ones, so that long k-mers exist.
    alphabet = draw(st.sampled_from([SYMBOLS[sequence_type][:2], SYMBOLS[sequence_type], LETTERS[sequence_type]]))
    return draw(st.text(alphabet, max_size=80)), k, sequence_type


@given(sequences())
def test_equal_hashes_are_equal_kmers(drawn):
    text, k, sequence_type = drawn
    hashes, kmers = kmer_hashes(as_letters(text), k, sequence_type).tolist(), slow_kmers(text, k, sequence_type)
    assert len(hashes) == len(kmers)
    assert [found == NO_KMER for found in hashes] == [kmer is None for kmer in kmers]
    assert len(set(zip(hashes, kmers, strict=True))) == len(set(hashes)) == len(set(kmers))


@given(st.text("ACGTN", max_size=80), st.integers(1, 31))
def test_both_strands_have_the_same_hashes_in_opposite_order(text, k):
    other = as_letters(reverse_complement(text.encode()).decode())
    np.testing.assert_array_equal(kmer_hashes(as_letters(text), k, "dna"), kmer_hashes(other, k, "dna")[::-1])


@given(st.lists(st.text("ACGTN", max_size=40), min_size=1, max_size=5), st.integers(1, 31))
def test_rows_of_a_matrix_are_hashed_apart_and_padding_is_no_kmer(texts, k):
    width = max(map(len, texts))
    matrix = np.zeros((len(texts), width), np.uint8)
    for row, text in zip(matrix, texts, strict=True):
        row[: len(text)] = as_letters(text)
    hashes = kmer_hashes(matrix, k, "dna")
    assert hashes.shape == (len(texts), max(width - k + 1, 0))
    for row, text in zip(hashes, texts, strict=True):
        alone = kmer_hashes(as_letters(text), k, "dna")
        np.testing.assert_array_equal(row[: len(alone)], alone)
        assert (row[len(alone) :] == NO_KMER).all()


@pytest.mark.parametrize("length", [0, 20, 21, CHUNK + 20, CHUNK + 21, 2 * CHUNK + 7])
def test_chunks_join_to_the_whole(length):
    letters = as_letters("ACGT")[np.random.default_rng(0).integers(0, 4, length)]
    joined = np.concatenate([np.empty(0, np.uint64), *hash_chunks(letters, 21, "dna")])
    np.testing.assert_array_equal(joined, kmer_hashes(letters, 21, "dna"))


def test_the_mix_is_splitmix64():
    # The first output of its reference implementation for seed 0; its state is the key by then.
    assert int(mix(np.zeros(1, np.uint64))[0]) == 0xE220A8397B1DCDAF


@pytest.mark.parametrize("sequence_type", ["dna", "rna", "protein"])
def test_the_longest_kmers_leave_room_for_no_kmer(sequence_type):
    letters = as_letters(LETTERS[sequence_type])
    known = letters[~is_ambiguous(letters, sequence_type)]
    assert known.tobytes().decode() == "".join(letter for letter in LETTERS[sequence_type] if letter in SYMBOLS[sequence_type])
    runs = np.repeat(known[:, None], MAX_K[sequence_type], axis=1)
    assert (kmer_hashes(runs, MAX_K[sequence_type], sequence_type) != NO_KMER).all()


def test_hashes_are_spread_evenly():
    letters = as_letters("ACGT")[np.random.default_rng(1).integers(0, 4, 64_000)]
    share = np.bincount((kmer_hashes(letters, 21, "dna") >> np.uint64(58)).astype(np.int64), minlength=64) / 64_000
    assert abs(share * 64 - 1).max() < 0.2
