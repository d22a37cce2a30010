"""Encode, decode and reverse complement of every tokenizer against slow references that work letter by letter."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyena_glt.config.tree import TokenizationConfig
from hyena_glt.dna import ALPHABETS, reverse_complement
from hyena_glt.errors import ConfigError
from hyena_glt.tokenizers import Tokenizer, base, build_tokenizer
from hyena_glt.tokenizers.base import CLS, MASK, NUM_SPECIAL, PAD, SEP, UNK
from hyena_glt.tokenizers.kmer import KmerTokenizer
from hyena_glt.tokenizers.letters import LetterTokenizer

LETTERS = [LetterTokenizer(t) for t in ALPHABETS]
KMERS = [KmerTokenizer(t, k, s) for t, k in (("dna", 1), ("dna", 2), ("rna", 3), ("dna", 4), ("dna", 6), ("rna", 7)) for s in {1, k}]
NUCLEOTIDE = [t for t in LETTERS + KMERS if t.sequence_type != "protein"]
any_letters = st.text("ACGTUNacgtunRYKMSWBDHVXZ-*", max_size=60).map(str.encode)


def name(tokenizer: Tokenizer) -> str:
    return f"{tokenizer.sequence_type}-{tokenizer.span}-{tokenizer.bases_per_token}"


def symbol_ids(tokenizer: Tokenizer) -> dict[str, int]:
    """Every symbol in alphabetical order, from NUM_SPECIAL up."""
    symbols = [""]
    for _ in range(tokenizer.span):
        symbols = [s + letter for s in symbols for letter in ALPHABETS[tokenizer.sequence_type].decode()]
    assert symbols == sorted(symbols)
    return {symbol: NUM_SPECIAL + i for i, symbol in enumerate(symbols)}


SYMBOL_IDS = {name(t): symbol_ids(t) for t in LETTERS + KMERS}


def slow_encode(tokenizer: Tokenizer, sequence: bytes) -> list[int]:
    text = sequence.decode().upper()
    if tokenizer.sequence_type == "dna":
        text = text.replace("U", "T")
    elif tokenizer.sequence_type == "rna":
        text = text.replace("T", "U")
    starts = range(0, len(text) - tokenizer.span + 1, tokenizer.bases_per_token)
    return [SYMBOL_IDS[name(tokenizer)].get(text[i:i + tokenizer.span], UNK) for i in starts]


def clean(tokenizer: Tokenizer) -> st.SearchStrategy[bytes]:
    """Unambiguous sequences, some of them in lower case."""
    alphabet = ALPHABETS[tokenizer.sequence_type].decode()
    return st.text(alphabet + alphabet.lower(), max_size=60).map(str.encode)


@pytest.mark.parametrize("tokenizer", LETTERS + KMERS, ids=name)
@given(data=st.data())
def test_encode_equals_the_letterwise_reference(tokenizer, data):
    sequence = data.draw(any_letters | clean(tokenizer))
    ids = tokenizer.encode(sequence)
    assert ids.tolist() == slow_encode(tokenizer, sequence)
    assert ids.dtype == tokenizer.dtype and len(ids) == tokenizer.num_tokens(len(sequence))
    assert np.array_equal(ids, tokenizer.encode(np.frombuffer(sequence, np.uint8)))
    assert ids.flags.writeable


@pytest.mark.parametrize("tokenizer", LETTERS + KMERS, ids=name)
@given(data=st.data())
def test_unambiguous_sequences_come_back(tokenizer, data):
    sequence = data.draw(clean(tokenizer))
    tokens = tokenizer.num_tokens(len(sequence))
    covered = (tokens - 1) * tokenizer.bases_per_token + tokenizer.span if tokens else 0
    assert tokenizer.decode(tokenizer.encode(sequence)) == sequence.decode().upper()[:covered]
    assert len(sequence) - covered < tokenizer.span


@pytest.mark.parametrize("tokenizer", NUCLEOTIDE, ids=name)
@given(sequence=any_letters)
def test_reverse_complement_is_the_other_strand_tokenized(tokenizer, sequence):
    if not tokenizer.overlapping:
        sequence = sequence[: len(sequence) // tokenizer.span * tokenizer.span]
    ids = tokenizer.encode(sequence)
    opposite = tokenizer.reverse_complement(ids)
    assert np.array_equal(opposite, tokenizer.encode(reverse_complement(sequence)))
    assert np.array_equal(tokenizer.reverse_complement(opposite), ids)


@pytest.mark.parametrize("tokenizer", NUCLEOTIDE, ids=name)
def test_reverse_complement_of_a_batch(tokenizer):
    rows = (np.arange(12) % tokenizer.num_ids).reshape(2, 2, 3)
    rows[0, 0] = PAD, UNK, MASK
    opposite = tokenizer.reverse_complement(rows)
    assert opposite.shape == rows.shape and opposite.dtype == rows.dtype
    assert opposite[0, 0].tolist() == [MASK, UNK, PAD]
    assert opposite[1, 1].tolist() == tokenizer.reverse_complement(rows[1, 1]).tolist()


@pytest.mark.parametrize("tokenizer", LETTERS + KMERS, ids=name)
def test_numbers(tokenizer):
    assert tokenizer.vocab_size == len(SYMBOL_IDS[name(tokenizer)]) == tokenizer.num_ids - NUM_SPECIAL
    assert np.iinfo(tokenizer.dtype).max >= tokenizer.num_ids - 1
    assert (tokenizer.dtype == np.uint8) == (tokenizer.num_ids <= 256)
    assert tokenizer.overlapping == (tokenizer.span > 1 and tokenizer.bases_per_token == 1)
    assert [tokenizer.num_tokens(n) for n in range(20)] == [len(slow_encode(tokenizer, b"A" * n)) for n in range(20)]


@pytest.mark.parametrize("tokenizer", [t for t in KMERS if t.span > 1], ids=name)
def test_chunks_join_without_a_seam(tokenizer, monkeypatch):
    sequence = np.random.default_rng(0).choice(np.frombuffer(b"ACGTN", np.uint8), 203, p=[0.24, 0.24, 0.24, 0.24, 0.04])
    monkeypatch.setattr("hyena_glt.tokenizers.kmer.CHUNK", 7)
    monkeypatch.setattr(base, "CHUNK", 7)
    ids = tokenizer.encode(sequence)
    assert ids.tolist() == slow_encode(tokenizer, sequence.tobytes())
    assert np.array_equal(tokenizer.reverse_complement(tokenizer.reverse_complement(ids)), ids)


def test_decode_spells_the_specials():
    assert LetterTokenizer("dna").decode(np.array([CLS, 5, UNK, MASK, 8, SEP, PAD, PAD])) == "AN_T"
    assert LetterTokenizer("rna").decode(np.array([8])) == "U"
    assert LetterTokenizer("protein").decode(np.array([UNK, MASK, 5])) == "X_A"
    assert KmerTokenizer("dna", 2, 2).decode(np.array([CLS, 5, UNK, MASK, 20, SEP, PAD])) == "AANN__TT"
    assert KmerTokenizer("dna", 2, 2).decode(np.array([CLS, SEP, PAD])) == ""


def test_overlapping_kmers_fill_what_their_neighbours_leave_open():
    tokenizer = KmerTokenizer("dna", 3, 1)
    ids = tokenizer.encode(b"ACGTNACGT")
    assert tokenizer.decode(ids) == "ACGTNACGT"
    ids[:2] = MASK
    assert tokenizer.decode(ids) == "____NACGT"
    disagreeing = np.concatenate([tokenizer.encode(b"AAA"), tokenizer.encode(b"CCC")])
    assert tokenizer.decode(disagreeing) == "AAAC"


@pytest.mark.parametrize("tokenizer", [LetterTokenizer("dna"), KmerTokenizer("dna", 1, 1)], ids=str)
@pytest.mark.parametrize("wrong", [-1, 9])
def test_an_id_that_is_not_there_is_named(tokenizer, wrong):
    for read in (tokenizer.decode, tokenizer.reverse_complement):
        with pytest.raises(ValueError, match=f"id {wrong} is not one of this tokenizer's, which are 0 to 8"):
            read(np.array([5, wrong]))


def test_arrays_that_are_not_letters_are_refused():
    with pytest.raises(ValueError, match="takes bytes or an array of uint8 letters, got 1-D int64"):
        LetterTokenizer("dna").encode(np.array([65, 67]))
    with pytest.raises(ValueError, match="got 0-D uint8"):
        KmerTokenizer("dna", 2, 1).encode(np.array(65, np.uint8))


@pytest.mark.parametrize("tokenizer", [LetterTokenizer("dna"), KmerTokenizer("dna", 3, 3), KmerTokenizer("dna", 3, 1)])
def test_a_matrix_of_letters_is_encoded_row_by_row(tokenizer):
    letters = np.random.default_rng(0).choice(np.frombuffer(b"ACGTN", np.uint8), (4, 17))
    np.testing.assert_array_equal(tokenizer.encode(letters), [tokenizer.encode(row) for row in letters])


def test_a_protein_has_no_reverse_complement():
    with pytest.raises(ValueError, match="a protein has no reverse complement"):
        LetterTokenizer("protein").reverse_complement(np.array([5]))


@pytest.mark.parametrize("make, text", [
    (lambda: LetterTokenizer("peptide"), "sequence_type must be one of dna, rna, protein, got 'peptide'"),
    (lambda: KmerTokenizer("protein", 3, 3), "k-mers need sequence_type dna or rna, got 'protein'"),
    (lambda: KmerTokenizer("dna", 8, 8), "kmer_size must lie between 1 and 7, got 8"),
    (lambda: KmerTokenizer("dna", 6, 2), r"kmer_stride must be 6 \(disjoint\) or 1 \(overlapping\), got 2"),
])
def test_what_no_tokenizer_can_be(make, text):
    with pytest.raises(ValueError, match=text):
        make()


@pytest.mark.parametrize("sequence_type, cfg, expected", [
    ("dna", TokenizationConfig(), KmerTokenizer("dna", 6, 6)),
    ("rna", TokenizationConfig(kmer_size=3, kmer_stride=1, vocab_size=64), KmerTokenizer("rna", 3, 1)),
    ("dna", TokenizationConfig(kind="char", vocab_size=4, add_special_tokens=True), LetterTokenizer("dna", True)),
    ("protein", TokenizationConfig(vocab_size=22), LetterTokenizer("protein")),
])
def test_build_from_the_settings(sequence_type, cfg, expected):
    assert build_tokenizer(sequence_type, cfg) == expected


@pytest.mark.parametrize("sequence_type, cfg, problems", [
    ("protein", TokenizationConfig(kind="kmer"),
     ["tokenization.kind: kmer does not fit preprocessing.sequence_type protein; use amino_acid"]),
    ("dna", TokenizationConfig(kind="amino_acid"),
     ["tokenization.kind: amino_acid does not fit preprocessing.sequence_type dna; use kmer or char"]),
    ("dna", TokenizationConfig(vocab_size=4101),
     ["tokenization.vocab_size: 4101 does not fit 6-mers; use 4096 (the 5 special tokens are not counted) or leave it out"]),
    ("protein", TokenizationConfig(vocab_size=20, kmer_stride=1), [
        "tokenization.vocab_size: 20 does not fit kind amino_acid for protein; use 22 (the 5 special tokens are not counted) "
        "or leave it out",
        "tokenization.kmer_stride: 1 has no effect on kind amino_acid; leave it out"]),
])
def test_settings_that_do_not_fit(sequence_type, cfg, problems):
    with pytest.raises(ConfigError) as caught:
        build_tokenizer(sequence_type, cfg)
    assert list(caught.value.problems) == problems
