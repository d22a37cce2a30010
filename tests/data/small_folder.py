"""A small preprocessed folder, written in this process by the stages that the Ray tasks run."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from hyena_glt.config import Config, OutputConfig, PreprocessingConfig, SplitConfig, TokenizationConfig
from hyena_glt.data import job, shards
from hyena_glt.data.manifest import TOKENIZER, Manifest, SplitManifest, write_manifest
from hyena_glt.data.plan import make_plan, prepare
from hyena_glt.data.resume import sections
from hyena_glt.data.scratch import SCRATCH
from hyena_glt.data.shard_index import Shards
from hyena_glt.data.verify import file_sha256
from tests.data.in_process import read_genome

CHAR = TokenizationConfig(kind="char")


def random_letters(num_bases: int, seed: int = 0, letters: bytes = b"ACGT") -> bytes:
    """`num_bases` letters, each as likely as any other."""
    return np.random.default_rng(seed).choice(np.frombuffer(letters, np.uint8), num_bases).tobytes()


def write_folder(
    folder: Path, records: dict[str, bytes], *, max_length: int, rows_per_group: int = 1000, rows_per_shard: int = 1000,
    tokenization: TokenizationConfig = CHAR, compress: bool = True,
) -> Path:
    """Preprocess `records` without filters into a train split; a record whose name begins with `val` goes to val."""
    folder.mkdir(parents=True)
    fasta = folder.with_suffix(".fa")
    fasta.write_bytes(b"".join(b">%b\n%b\n" % (name.encode(), letters) for name, letters in records.items()))
    val = tuple(name for name in records if name.startswith("val"))
    cfg = Config(
        preprocessing=PreprocessingConfig(
            input_path=str(fasta), max_length=max_length, remove_duplicates=False, filter_n_bases=False,
            split=SplitConfig(by="named", val_records=val) if val else SplitConfig(val=0, test=0),
        ),
        tokenization=tokenization, output=OutputConfig(path=str(folder), chunk_size=rows_per_shard, compress=compress),
    )
    run = prepare(cfg, lambda *_: None)
    plan = make_plan(run, read_genome(run), lambda *_: None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "ROW_GROUP_TOKENS", rows_per_group * plan.job.row_format.width)
        parts = [(task.split, shards.write_shard(plan.job, task)) for task in plan.tasks]
    shutil.rmtree(folder / SCRATCH)
    run.tokenizer.save(folder)
    write_manifest(folder, Manifest(
        config=sections(cfg), tokenizer=run.tokenizer.to_dict(), tokenizer_sha256=file_sha256(folder / TOKENIZER),
        width=plan.job.row_format.width, id_bits=plan.job.row_format.id_bits,
        columns=tuple(plan.job.row_format.schema.names), inputs=plan.inputs, dropped={},
        splits={name: sum_parts([part for split, part in parts if split == name]) for name, _ in parts},
    ))
    return folder


def sum_parts(parts: list[shards.Written]) -> SplitManifest:
    written = [part.shard for part in parts if part.shard]
    return SplitManifest(
        rows=sum(shard.rows for shard in written), tokens=sum(shard.tokens for shard in written),
        bases=sum(part.bases for part in parts), shards=Shards.of(written),
    )
