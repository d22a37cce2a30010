"""The stages in order, without Ray, against the definition in `reference`: any small FASTA, any settings."""

from __future__ import annotations

import gzip
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyena_glt.config import Config, OutputConfig, PreprocessingConfig, SplitConfig, TokenizationConfig
from hyena_glt.data.dedup import digests_file, find_alike, find_repeats, keys_file, load_hashes, store_digests, store_keys
from hyena_glt.data.manifest import Dropped
from hyena_glt.data.plan import DataPlan, make_plan, prepare
from hyena_glt.data.row_format import RowFormat
from hyena_glt.data.shards import write_shard
from hyena_glt.errors import DataError
from hyena_glt.tokenizers import Tokenizer
from tests.data.in_process import read_genome
from tests.data.reference import Row, expected_rows, stored_ids


def run_in_process(cfg: Config, buckets: int) -> tuple[dict[str, list[Row]], Dropped, DataPlan]:
    """What the driver does, with a loop in the place of each stage."""
    run = prepare(cfg, lambda *_: None)
    plan = make_plan(run, read_genome(run), lambda *_: None)
    job = plan.job
    if cfg.preprocessing.remove_duplicates:
        for task in plan.tasks:
            store_keys(job, task)
        alike = found_in_buckets([keys_file(job, task) for task in plan.tasks], buckets, find_alike)
        for task in plan.tasks:
            store_digests(job, task, alike)
        job = replace(job, repeated_places=found_in_buckets([digests_file(job, task) for task in plan.tasks], buckets, find_repeats))
    written = [(task, write_shard(job, task)) for task in plan.tasks]
    rows: dict[str, list[Row]] = {"train": [], "val": [], "test": []}
    for task, part in written:
        if part.shard:
            table = pq.read_table(job.output / part.shard.path)
            assert table.schema.equals(RowFormat(width=job.row_format.width, id_bits=job.row_format.id_bits).schema)
            assert 0 < table.num_rows == part.shard.rows <= cfg.output.chunk_size
            rows[task.split] += [unpad(row, job.tokenizer) for row in table.to_pylist()]
    dropped = dict(plan.dropped)
    for _, part in written:
        for reason, counts in part.dropped.items():
            dropped[reason] = {key: dropped.get(reason, {}).get(key, 0) + count for key, count in counts.items()}
    return rows, dropped, plan


def found_in_buckets(files: list[Path], buckets: int, find: Callable) -> np.ndarray:
    windows = load_hashes({"path": np.array(list(map(str, files)))}, buckets)
    groups = [{key: column[windows["bucket"] == bucket] for key, column in windows.items()} for bucket in range(buckets)]
    return np.sort(np.concatenate([find(group)["place"] for group in groups]))


def unpad(row: dict, tokenizer: Tokenizer) -> Row:
    ids = stored_ids(row["input_ids"], tokenizer)
    filled = len(ids) - ids.count(0)
    assert 0 not in ids[:filled]
    return row["source"], row["record"], row["start"], row["length"], tuple(ids[:filled])


@st.composite
def fasta_files(draw: Callable, letters: str) -> dict[str, bytes]:
    """One to three files: lower case, ambiguity codes, CRLF, irregular lines, blank lines, repeats, records without a base."""
    files = {}
    sequence = st.text(alphabet=letters, max_size=60) | st.sampled_from([letters[:4] * 6, letters[:4] * 6, letters[0] * 30])
    for name in draw(st.lists(st.sampled_from(["a.fa", "b.fa.gz", "sub/c.fna"]), min_size=1, max_size=3, unique=True)):
        end = draw(st.sampled_from(["\n", "\r\n"]))
        text = draw(st.sampled_from(["", end]))
        for number, bases in enumerate(draw(st.lists(sequence, min_size=1, max_size=4))):
            text += f">record{number} some words{end}"
            while bases:
                width = draw(st.integers(1, 25))
                text, bases = text + bases[:width] + end, bases[width:]
        files[name] = (text + draw(st.sampled_from(["", end, end * 3]))).encode()
    return files


@st.composite
def settings_trees(draw: Callable) -> Config:
    kind = draw(st.sampled_from(["char", "kmer", "amino_acid"]))
    max_length = draw(st.integers(3, 20))
    k = draw(st.integers(1, 3))
    by = draw(st.sampled_from(["record", "tail", "named"]))
    shares = {"val": draw(st.sampled_from([0, 0.2])), "test": draw(st.sampled_from([0, 0.3]))}
    named = {"val_records": ("record0",)}
    filters = draw(st.booleans())
    return Config(
        preprocessing=PreprocessingConfig(
            sequence_type="protein" if kind == "amino_acid" else draw(st.sampled_from(["dna", "rna"])),
            max_length=max_length, min_length=draw(st.integers(1, max_length)), remove_duplicates=draw(st.booleans()),
            filter_n_bases=filters, **({"max_ambiguous_fraction": draw(st.sampled_from([0.0, 0.1, 0.5]))} if filters else {}),
            split=SplitConfig(by=by, **(named if by == "named" else shares)),
        ),
        tokenization=TokenizationConfig(
            kind=kind, stride=draw(st.none() | st.integers(1, max_length)),
            **({"kmer_size": k, "kmer_stride": draw(st.sampled_from([None, 1, k]))} if kind == "kmer" else {}),
        ),
        output=OutputConfig(chunk_size=draw(st.integers(1, 6)), compress=draw(st.booleans())),
    )


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), cfg=settings_trees(), buckets=st.integers(1, 3))
def test_rows_are_those_of_the_definition(data, cfg, buckets):
    letters = {"dna": "ACGTUacgtNRn", "rna": "ACGUTacguNRn", "protein": "ACDEFGHIKLMNPQRSTVWYUOBJXZ*acx"}[cfg.preprocessing.sequence_type]
    files = data.draw(fasta_files(letters))
    folder = Path(tempfile.mkdtemp())
    try:
        write_files(folder / "in", files)
        paths = tuple(str(folder / "in" / name) for name in files)
        cfg = replace(cfg, preprocessing=replace(cfg.preprocessing, input_path=paths), output=replace(cfg.output, path=str(folder / "out")))
        sources = {name if len({Path(n).parent for n in files}) > 1 else Path(name).name: content for name, content in files.items()}
        wanted = expected_rows(sources, cfg)
        try:
            rows, dropped, plan = run_in_process(cfg, buckets)
        except DataError as error:
            assert "no window is left" in str(error) or not all(wanted[split] for split in asked(cfg)), str(error)
            return
        assert rows == wanted
        if cfg.tokenization.stride in (None, cfg.preprocessing.max_length) and cfg.tokenization.kmer_stride != 1:
            stored = sum(length for split in rows.values() for *_, length, _ in split)
            assert stored + sum(counts["bases"] for counts in dropped.values()) == plan.num_bases
    finally:
        shutil.rmtree(folder)


def asked(cfg: Config) -> list[str]:
    """The splits that the settings ask for."""
    split = cfg.preprocessing.split
    if split.by == "named":
        return ["train", "val"]
    return ["train", *(["val"] if split.val else []), *(["test"] if split.test else [])]


def test_a_large_input_makes_larger_shards_and_not_more(tmp_path, monkeypatch):
    write_files(tmp_path, {"a.fa": b">a\n" + b"ACGTTGCA" * 100 + b"\n"})
    cfg = Config(
        preprocessing=PreprocessingConfig(
            input_path=f"{tmp_path}/a.fa", max_length=10, remove_duplicates=False, split=SplitConfig(by="tail", val=0.2, test=0)
        ),
        tokenization=TokenizationConfig(kind="char"), output=OutputConfig(path=f"{tmp_path}/out", chunk_size=3),
    )
    run = prepare(cfg, lambda *_: None)
    planned = make_plan(run, read_genome(run), lambda *_: None).job
    monkeypatch.setattr("hyena_glt.data.job.MAX_SHARDS", 6)
    tasks = sorted(planned.tasks(3))
    assert [(task.name, task.first, task.last) for task in tasks] == [
        *((f"train/part-{n:05d}", 14 * n, min(14 * n + 14, 63)) for n in range(5)), ("val/part-00000", 0, 14), ("val/part-00001", 14, 16)
    ]
    assert tasks == sorted(planned.tasks(13)) and [task.last for task in sorted(planned.tasks(15))][:2] == [15, 30]


@pytest.mark.parametrize("compress, codec", [(True, "ZSTD"), (False, "UNCOMPRESSED")])
def test_shards_have_small_row_groups_and_page_checksums(tmp_path, monkeypatch, compress, codec):
    monkeypatch.setattr("hyena_glt.data.job.ROW_GROUP_TOKENS", 40)
    write_files(tmp_path, {"a.fa": b">a\n" + b"ACGTTGCA" * 100 + b"\n"})
    cfg = Config(
        preprocessing=PreprocessingConfig(
            input_path=f"{tmp_path}/a.fa", max_length=10, remove_duplicates=False, split=SplitConfig(val=0, test=0)
        ),
        tokenization=TokenizationConfig(kind="char"), output=OutputConfig(path=f"{tmp_path}/out", compress=compress),
    )
    run_in_process(cfg, 1)
    metadata = pq.ParquetFile(tmp_path / "out/train/part-00000.parquet").metadata
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [4] * 20
    assert metadata.row_group(0).column(0).compression == codec
