"""Make the tokenizer that the settings or a tokenizer.json describe."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config.tree import TokenizationConfig
from ..errors import ConfigError, DataError
from .base import NUM_SPECIAL, SCHEMA_VERSION, Tokenizer, json_path
from .kmer import KmerTokenizer
from .letters import LetterTokenizer

KINDS = {"dna": ("kmer", "char"), "rna": ("kmer", "char"), "protein": ("amino_acid",)}
"""The kinds that fit each sequence type, the default first."""


def build_tokenizer(sequence_type: str, cfg: TokenizationConfig) -> Tokenizer:
    """The tokenizer of `preprocessing.sequence_type` and the `tokenization` section; ConfigError where the two do not fit."""
    kinds = KINDS[sequence_type]
    kind = cfg.kind or kinds[0]
    if kind not in kinds:
        raise ConfigError(f"tokenization.kind: {kind} does not fit preprocessing.sequence_type {sequence_type}; use {' or '.join(kinds)}")
    tokenizer: Tokenizer
    if kind == "kmer":
        tokenizer = KmerTokenizer(sequence_type, cfg.kmer_size, cfg.kmer_stride or cfg.kmer_size, cfg.add_special_tokens)
    else:
        tokenizer = LetterTokenizer(sequence_type, cfg.add_special_tokens)
    problems = _problems(tokenizer, cfg)
    if problems:
        raise ConfigError(*problems)
    return tokenizer


def _problems(tokenizer: Tokenizer, cfg: TokenizationConfig) -> list[str]:
    """Settings that contradict the tokenizer or would be ignored, a sentence each."""
    problems = []
    if cfg.vocab_size not in (None, tokenizer.vocab_size):
        name = f"{tokenizer.span}-mers" if tokenizer.kind == "kmer" else f"kind {tokenizer.kind} for {tokenizer.sequence_type}"
        problems.append(f"tokenization.vocab_size: {cfg.vocab_size} does not fit {name}; use {tokenizer.vocab_size} "
                        f"(the {NUM_SPECIAL} special tokens are not counted) or leave it out")
    if cfg.kmer_stride is not None and tokenizer.kind != "kmer":
        problems.append(f"tokenization.kmer_stride: {cfg.kmer_stride} has no effect on kind {tokenizer.kind}; leave it out")
    return problems


def load_tokenizer(source: str | Path | Mapping[str, object]) -> Tokenizer:
    """Read what `save` wrote (the file, or the folder that holds tokenizer.json) or `to_dict` gave.

    DataError when the file is missing, is not JSON, or is not exactly what the tokenizer that it names would write.
    """
    if isinstance(source, Mapping):
        return _restore(source, "the tokenizer's description")
    path = json_path(source)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); it is written beside preprocessed data and checkpoints") from error
    except ValueError as error:  # both what is not JSON and what is not UTF-8
        raise DataError(f"{path}: is damaged, not JSON ({error}); restore it or preprocess again") from error
    if not isinstance(found, dict):
        raise DataError(f"{path}: is damaged, a JSON object was expected; restore it or preprocess again")
    return _restore(found, str(path))


def _restore(found: Mapping[str, object], where: str) -> Tokenizer:
    """The tokenizer that `found` describes; whatever it would not itself write is damage."""
    if found.get("schema_version") != SCHEMA_VERSION:
        raise DataError(f"{where}: has schema version {found.get('schema_version')!r}, this version of hyena-glt reads {SCHEMA_VERSION}")
    try:
        tokenizer = _from_fields(found)
    except (ValueError, TypeError) as error:  # TypeError: a list where a name should be
        raise DataError(f"{where}: is damaged, {error}; restore it or preprocess again") from error
    wanted = tokenizer.to_dict()
    for key in sorted(wanted.keys() | found.keys()):
        if wanted.get(key) != found.get(key):
            raise DataError(f"{where}: is damaged, {key} is {found.get(key)!r}, wanted {wanted.get(key)!r}; restore it or preprocess again")
    return tokenizer


def _from_fields(found: Mapping[str, object]) -> Tokenizer:
    """Pick the class by kind; ValueError for values that it does not take."""
    kind, specials = found.get("kind"), found.get("add_special_tokens") is True
    sequence_type: Any = found.get("sequence_type")
    if kind == "kmer":
        size: Any = found.get("kmer_size")
        stride: Any = found.get("kmer_stride")
        return KmerTokenizer(sequence_type, size, stride, specials)
    if kind in ("char", "amino_acid"):
        return LetterTokenizer(sequence_type, specials)
    raise ValueError(f"kind is {kind!r}, wanted char, kmer or amino_acid")
