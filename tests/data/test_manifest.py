"""The manifest's bytes are canonical, and a folder that is no preprocessing output is named for what it is."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace

import pytest

from hyena_glt.data.manifest import (
    InputFile,
    Manifest,
    SplitManifest,
    canonical_json,
    count_dropped,
    encode_manifest,
    locate_split,
    output_around,
    read_manifest,
    write_manifest,
)
from hyena_glt.data.shard_index import Shard, Shards
from hyena_glt.errors import DataError

SHARD = Shard(path="train/part-00000.parquet", rows=2, tokens=16, size=9, sha256="3" * 64, row_groups=(1, 1))
MANIFEST = Manifest(
    config={"preprocessing": {"max_length": 8, "input_path": ["a.fa"]}, "tokenization": {}, "output": {}},
    tokenizer={"kind": "char", "vocab_size": 4}, tokenizer_sha256="1" * 64, width=8, id_bits=4,
    dropped={"short_windows": {"windows": 1, "bases": 3}},
    columns=("input_ids", "source", "record", "start", "length"),
    inputs=(InputFile(path="a.fa", size=20, sha256="2" * 64, records=1, bases=19),),
    splits={"train": SplitManifest(rows=2, tokens=16, bases=16, shards=Shards.of([SHARD]))},
)


def test_a_manifest_reads_back_equal(tmp_path):
    write_manifest(tmp_path, MANIFEST)
    found = read_manifest(tmp_path)
    assert found == MANIFEST and list(found.splits["train"].shards) == [SHARD]
    assert found.checksum == hashlib.sha256((tmp_path / "manifest.json").read_bytes()).hexdigest()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.json", "shards.parquet"]


def test_the_checksum_is_that_of_the_rest():
    fields = json.loads(encode_manifest(MANIFEST))
    checksum = fields.pop("checksum")
    assert checksum == hashlib.sha256(canonical_json(fields)).hexdigest()
    assert encode_manifest(MANIFEST) == canonical_json(fields | {"checksum": checksum})


def changed(**changes: object) -> bytes:
    return canonical_json(json.loads(encode_manifest(MANIFEST)) | changes)


@pytest.mark.parametrize(
    "content, sentence",
    [
        (b"{", "is damaged, its bytes are not those of a written manifest"),
        (b"\xff\xfe", "is damaged, its bytes are not those of a written manifest"),
        (b"[]\n", "is damaged, its bytes are not those of a written manifest"),
        (encode_manifest(MANIFEST) + b"\n", "is damaged, its content does not fit its checksum"),
        (changed(width=9), "is damaged, its content does not fit its checksum"),
        (changed(checksum="0"), "is damaged, its content does not fit its checksum"),
    ],
)
def test_damage(tmp_path, content, sentence):
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(DataError, match=sentence):
        read_manifest(tmp_path)


def test_another_schema_version(tmp_path, monkeypatch):
    monkeypatch.setattr("hyena_glt.data.manifest.SCHEMA_VERSION", 5)
    write_manifest(tmp_path, MANIFEST)
    monkeypatch.undo()
    with pytest.raises(DataError, match="it has schema version 5, and this version of hyena-glt reads 2 to 4"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("vocab_size, bits", [(4, 8), (251, 8), (4096, 16)])
def test_ids_took_whole_bytes_in_version_2(tmp_path, vocab_size, bits):
    fields = json.loads(encode_manifest(replace(MANIFEST, tokenizer={"kind": "kmer", "vocab_size": vocab_size})))
    fields = {key: value for key, value in fields.items() if key not in ("id_bits", "checksum", "index_sha256")} | {"schema_version": 2}
    fields["splits"]["train"]["shards"] = [{key: value for key, value in asdict(SHARD).items() if key != "row_groups"}]
    checksum = hashlib.sha256(canonical_json(fields)).hexdigest()
    (tmp_path / "manifest.json").write_bytes(canonical_json(fields | {"checksum": checksum}))
    train = replace(MANIFEST.splits["train"], shards=Shards.of([replace(SHARD, row_groups=None)]))
    assert read_manifest(tmp_path) == replace(MANIFEST, tokenizer=fields["tokenizer"], id_bits=bits, splits={"train": train})


def test_locating_a_split(tmp_path):
    write_manifest(tmp_path, MANIFEST)
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
    assert locate_split(tmp_path, "train") == (tmp_path, "train")
    assert locate_split(f"{tmp_path}/val", "train") == (tmp_path, "val")
    with pytest.raises(DataError, match="has no test split, only train, val; preprocess again with preprocessing.split.test"):
        locate_split(tmp_path, "test")


def test_the_output_around_a_path(tmp_path):
    write_manifest(tmp_path, MANIFEST)
    assert output_around(f"{tmp_path}/val") == (tmp_path, "val")
    for path in (tmp_path, tmp_path / "val" / "part-00000.parquet", tmp_path / "tests", tmp_path / "val" / "test"):
        assert output_around(path) == (path, None)


def test_what_is_no_preprocessing_output_is_named(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "running/.preprocess").mkdir(parents=True)
    for path, sentence in {
        "missing": "nothing is there; check the path",
        "notes.txt": "it is a file; name the folder",
        "running": "a preprocessing run has not finished there; the same `hyena-glt preprocess` command goes on with it",
        "": "it holds notes.txt, running; make it with `hyena-glt preprocess`",
    }.items():
        with pytest.raises(DataError) as caught:
            locate_split(tmp_path / path, "train")
        assert sentence in str(caught.value)
        with pytest.raises(DataError):
            read_manifest(tmp_path / path)


def test_counts_add_up_and_nothing_is_not_counted():
    dropped = {}
    count_dropped(dropped, "short_windows", windows=1, bases=3)
    count_dropped(dropped, "short_windows", windows=2, bases=4)
    count_dropped(dropped, "empty_records", records=0, bases=0)
    assert dropped == {"short_windows": {"windows": 3, "bases": 7}}
