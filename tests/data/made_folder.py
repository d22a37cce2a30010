"""A preprocessed folder whose rows a test chooses, weights and labels among them: made without preprocessing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from hyena_glt.config import OutputConfig, PreprocessingConfig, TokenizationConfig
from hyena_glt.data import parquet
from hyena_glt.data.manifest import TOKENIZER, InputFile, Manifest, SplitManifest, write_manifest
from hyena_glt.data.resume import sections
from hyena_glt.data.row_format import WEIGHT, RowFormat, id_bits
from hyena_glt.data.shard_index import Shard, Shards
from hyena_glt.data.verify import file_sha256
from hyena_glt.tokenizers import Tokenizer, build_tokenizer
from hyena_glt.tokenizers.base import NUM_SPECIAL, PAD

Groups = Sequence[Sequence[int]]
"""Rows in each row group of each shard."""


def settings(*, kmer_size: int | None = None, compress: bool = True):
    """The tree of a run that could have written such a folder."""
    from hyena_glt.config import Config

    tokenization = TokenizationConfig(kind="kmer", kmer_size=kmer_size) if kmer_size else TokenizationConfig(kind="char")
    return Config(
        preprocessing=PreprocessingConfig(input_path="a.fa", max_length=1000), tokenization=tokenization,
        output=OutputConfig(path="out", compress=compress),
    )


def rows_table(rows: RowFormat, tokenizer: Tokenizer, num_rows: int, rng: np.random.Generator) -> pa.Table:
    """Random rows: ids with padding behind, names that repeat, labels of every number."""
    filled = rng.integers(1, rows.width + 1, num_rows)
    ids = rng.integers(NUM_SPECIAL, tokenizer.num_ids, (num_rows, rows.width)).astype(tokenizer.dtype)
    ids[np.arange(rows.width) >= filled[:, None]] = PAD
    columns = {
        "input_ids": rows.packings["input_ids"].pack(ids),
        "source": [f"genome {number}.fa" for number in rng.integers(0, 3, num_rows)],
        "record": [f"contig_é{number}" for number in rng.integers(0, 50, num_rows)],
        "start": rng.integers(0, 1 << 40, num_rows),
        "length": ((filled - 1) * tokenizer.bases_per_token + tokenizer.span).astype(np.int32),
    }
    if rows.weights:
        columns["weights"] = rows.packings["weights"].pack(rng.random((num_rows, rows.width)).astype(WEIGHT))
    if rows.labels:
        columns["labels"] = [[f"GO:{number}" for number in rng.integers(0, 9, size)] for size in rng.integers(0, 4, num_rows)]
    return pa.table(columns, schema=rows.schema)


def make_folder(
    folder: Path, splits: Mapping[str, Groups], *, width: int = 12, weights: bool = False, labels: bool = False,
    kmer_size: int | None = None, compress: bool = True, seed: int = 0,
) -> Path:
    """Write shards, tokenizer and manifest for row groups of the given sizes."""
    cfg, rng = settings(kmer_size=kmer_size, compress=compress), np.random.default_rng(seed)
    tokenizer = build_tokenizer("dna", cfg.tokenization)
    rows = RowFormat(width=width, id_bits=id_bits(tokenizer.num_ids), weights=weights, labels=labels)
    summed = {}
    for split, shards in splits.items():
        (folder / split).mkdir(parents=True)
        names = [f"{split}/part-{number:05d}.parquet" for number in range(len(shards))]
        written = [_write_shard(folder, name, sizes, rows, tokenizer, rng, compress) for name, sizes in zip(names, shards, strict=True)]
        counts = {key: sum(getattr(shard, key) for shard in written) for key in ("rows", "tokens")}
        summed[split] = SplitManifest(**counts, bases=counts["tokens"] * tokenizer.bases_per_token, shards=Shards.of(written))
    tokenizer.save(folder / TOKENIZER)
    write_manifest(folder, Manifest(
        config=sections(cfg), tokenizer=tokenizer.to_dict(), tokenizer_sha256=file_sha256(folder / TOKENIZER),
        width=width, id_bits=rows.id_bits, columns=tuple(rows.schema.names),
        inputs=(InputFile(path="a.fa", size=1, sha256="0", records=1, bases=1),), splits=summed,
        dropped={"short_windows": {"windows": 1, "bases": 3}},
    ))
    return folder


def _write_shard(
    folder: Path, name: str, sizes: Sequence[int], rows: RowFormat, tokenizer: Tokenizer, rng: np.random.Generator, compress: bool
) -> Shard:
    tables = [rows_table(rows, tokenizer, size, rng) for size in sizes]
    with parquet.writer(folder / name, rows.schema, compress=compress) as writer:
        for table in tables:
            writer.write_table(table)
    size, sha256 = (folder / name).stat().st_size, file_sha256(folder / name)
    lengths = np.concatenate([table["length"].to_numpy() for table in tables])
    tokens = int(((lengths - tokenizer.span) // tokenizer.bases_per_token + 1).sum())
    return Shard(path=name, rows=sum(sizes), tokens=tokens, size=size, sha256=sha256, row_groups=tuple(sizes))
