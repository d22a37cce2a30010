"""Preprocessing as a definition: slow, plain Python, one base at a time. Tests compare the real thing with it."""

from __future__ import annotations

from itertools import product

from hyena_glt.config import Config
from hyena_glt.data.splits import hashed_split
from hyena_glt.tokenizers import Tokenizer

SYMBOLS = {"dna": "ACGT", "rna": "ACGU", "protein": "ACDEFGHIKLMNOPQRSTUVWY"}
Row = tuple[str, str, int, int, tuple[int, ...]]
"""source, record, start, length, ids without padding"""


def expected_rows(files: dict[str, bytes], cfg: Config) -> dict[str, list[Row]]:
    """The rows of every split, in order, for files given as source -> uncompressed FASTA."""
    pre, tok = cfg.preprocessing, cfg.tokenization
    rows: dict[str, list[Row]] = {"train": [], "val": [], "test": []}
    seen_records, seen_windows = set(), set()
    for source, content in sorted(files.items()):
        for name, letters in parse(content):
            if not letters or (pre.remove_duplicates and letters in seen_records):
                continue
            seen_records.add(letters)
            spans = split_spans(name, len(letters), cfg)
            # Windows compete in the order of the genome, whichever split they are in.
            for split, (first, last) in sorted(spans.items(), key=lambda item: item[1]):
                for start, window in cut(letters, first, last, pre.max_length, tok.stride or pre.max_length):
                    ids = encode(window, cfg)
                    if len(window) < pre.min_length or not ids or too_ambiguous(window, cfg):
                        continue
                    if pre.remove_duplicates and window in seen_windows:
                        continue
                    seen_windows.add(window)
                    rows[split].append((source, name, start, covered(len(ids), cfg), ids))
    return rows


def parse(content: bytes) -> list[tuple[str, str]]:
    """(name, upper-case letters) of every record."""
    records: list[tuple[str, str]] = []
    for line in content.decode().replace("\r", "").split("\n"):
        if line.startswith(">"):
            records.append((line[1:].split()[0], ""))
        elif line.strip():
            name, letters = records[-1]
            records[-1] = name, letters + "".join(line.split()).upper()
    return records


def split_spans(name: str, length: int, cfg: Config) -> dict[str, tuple[int, int]]:
    """Split -> (first, last) base of a record."""
    split = cfg.preprocessing.split
    if split.by == "named":
        return {"val" if name in split.val_records else "test" if name in split.test_records else "train": (0, length)}
    if split.by == "record":
        return {hashed_split(name, split): (0, length)}
    spans, end = {}, length
    for part, share in (("test", split.test), ("val", split.val)):
        size = round(length * share)
        spans[part] = max(end - size, 0), end
        if end - max(end - size, 0) > 0:
            end = max(end - size - cfg.preprocessing.max_length, 0)
    return {**spans, "train": (0, end)}


def cut(letters: str, first: int, last: int, max_length: int, stride: int) -> list[tuple[int, str]]:
    """(start, letters) of the windows of a span: the first that reaches its end is the last."""
    windows, start = [], first
    while start < last:
        windows.append((start, letters[start : min(start + max_length, last)]))
        if start + max_length >= last:
            break
        start += stride
    return windows


def too_ambiguous(window: str, cfg: Config) -> bool:
    pre = cfg.preprocessing
    sure = SYMBOLS[pre.sequence_type] + ("" if pre.sequence_type == "protein" else "TU")
    return pre.filter_n_bases and sum(letter not in sure for letter in window) > pre.max_ambiguous_fraction * len(window)


def span_and_stride(cfg: Config) -> tuple[int, int]:
    tok = cfg.tokenization
    if tok.kind != "kmer":
        return 1, 1
    return tok.kmer_size, tok.kmer_stride or tok.kmer_size


def encode(window: str, cfg: Config) -> tuple[int, ...]:
    """Ids by looking each token up in the sorted list of all of them; 4 is [UNK]."""
    span, stride = span_and_stride(cfg)
    symbols = SYMBOLS[cfg.preprocessing.sequence_type]
    numbers = {"".join(token): i for i, token in enumerate(product(symbols, repeat=span), 5)}
    if cfg.preprocessing.sequence_type != "protein":
        window = window.replace("U", "T").replace("T", symbols[-1])
    return tuple(numbers.get(window[i : i + span], 4) for i in range(0, len(window) - span + 1, stride))


def covered(num_tokens: int, cfg: Config) -> int:
    span, stride = span_and_stride(cfg)
    return (num_tokens - 1) * stride + span


def stored_ids(value: bytes, tokenizer: Tokenizer) -> list[int]:
    """The ids of a stored row, padding included: two a byte, a byte each, or two bytes each, by the number of ids that there are."""
    if tokenizer.num_ids <= 16:
        return [half for byte in value for half in (byte % 16, byte // 16)]
    size = 1 if tokenizer.num_ids <= 256 else 2
    return [int.from_bytes(value[i : i + size], "little") for i in range(0, len(value), size)]
