"""tokenizer.json: what is saved loads back equal, and what is damaged is refused with a sentence."""

from __future__ import annotations

import json

import pytest

from hyena_glt.errors import DataError
from hyena_glt.tokenizers import load_tokenizer
from hyena_glt.tokenizers.kmer import KmerTokenizer
from hyena_glt.tokenizers.letters import LetterTokenizer

ALL = [
    LetterTokenizer("dna"), LetterTokenizer("rna", True), LetterTokenizer("protein"), KmerTokenizer("dna", 6, 6),
    KmerTokenizer("rna", 4, 1, True),
]


@pytest.mark.parametrize("tokenizer", ALL, ids=str)
def test_save_and_load(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    tokenizer.save(tmp_path / "copy.json")
    assert load_tokenizer(tmp_path) == load_tokenizer(tmp_path / "copy.json") == load_tokenizer(tokenizer.to_dict()) == tokenizer
    assert (tmp_path / "tokenizer.json").read_bytes() == (tmp_path / "copy.json").read_bytes()


def test_the_file_reads_well(tmp_path):
    KmerTokenizer("rna", 2, 1).save(tmp_path)
    assert json.loads((tmp_path / "tokenizer.json").read_text()) == {
        "schema_version": 1, "kind": "kmer", "sequence_type": "rna", "alphabet": "ACGU", "vocab_size": 16, "kmer_size": 2, "kmer_stride": 1,
        "special_tokens": ["[PAD]", "[MASK]", "[CLS]", "[SEP]", "[UNK]"], "add_special_tokens": False}


@pytest.mark.parametrize("change, text", [
    ({"kind": "bpe"}, "is damaged, kind is 'bpe', wanted char, kmer or amino_acid; restore it or preprocess again"),
    ({"kind": "char"}, "is damaged, kmer_size is 6, wanted None"),
    ({"kmer_size": 9}, "is damaged, kmer_size must lie between 1 and 7, got 9"),
    ({"kmer_stride": None}, "is damaged, kmer_stride must be 6 (disjoint) or 1 (overlapping), got None"),
    ({"vocab_size": 4097}, "is damaged, vocab_size is 4097, wanted 4096"),
    ({"alphabet": "ACTG"}, "is damaged, alphabet is 'ACTG', wanted 'ACGT'"),
    ({"add_special_tokens": "yes"}, "is damaged, add_special_tokens is 'yes', wanted False"),
    ({"sequence_type": ["dna"]}, "is damaged, k-mers need sequence_type dna or rna, got ['dna']"),
    ({"extra": 1}, "is damaged, extra is 1, wanted None"),
    ({"schema_version": 2}, "has schema version 2, this version of hyena-glt reads 1"),
])
def test_a_field_that_is_off(change, text, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(KmerTokenizer("dna", 6, 6).to_dict() | change))
    with pytest.raises(DataError) as caught:
        load_tokenizer(path)
    assert str(caught.value).startswith(f"{path}: {text}")
    with pytest.raises(DataError, match="^the tokenizer's description: "):
        load_tokenizer(KmerTokenizer("dna", 6, 6).to_dict() | change)


@pytest.mark.parametrize("content, text", [
    (b"", "is damaged, not JSON"), (b'{"kind": "kmer"', "is damaged, not JSON"), (b"\xff\xfe{}", "is damaged, not JSON"),
    (b"[]", "is damaged, a JSON object was expected"), (b"{}", "has schema version None, this version of hyena-glt reads 1"),
])
def test_a_file_that_is_damaged(content, text, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        load_tokenizer(tmp_path)
    assert str(caught.value).startswith(f"{path}: {text}")


def test_a_file_that_is_missing(tmp_path):
    with pytest.raises(DataError, match=r"tokenizer.json: cannot be read \(No such file or directory\); it is written beside"):
        load_tokenizer(tmp_path / "tokenizer.json")
