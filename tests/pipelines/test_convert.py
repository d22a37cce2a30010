"""`hyena-glt convert`: Parquet to HDF5 and back loses nothing; another folder is never overwritten; a stopped run leaves no half."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyena_glt.cli import main
from hyena_glt.data.convert import stored_as
from hyena_glt.data.manifest import Manifest, read_manifest
from hyena_glt.data.readers import read_rows, row_group_sizes
from hyena_glt.data.shard_index import Shards
from hyena_glt.data.verify import verify
from hyena_glt.errors import ConfigError, DataError
from hyena_glt.tokenizers import load_tokenizer
from pipelines.convert import convert
from tests.data.made_folder import make_folder
from tests.data.reference import stored_ids

pytest.importorskip("h5py")

SIZES = st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=3), min_size=1, max_size=3)


@pytest.fixture
def folder(tmp_path) -> Path:
    return make_folder(tmp_path / "parquet", {"train": ((30, 7), (5,)), "test": ((3,),)}, labels=True)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows_of(folder: Path) -> dict[str, pa.Table]:
    """All rows of each split."""
    return {
        name: pa.concat_tables(
            read_rows(folder / shard.path, group, num_rows)
            for shard in split.shards for group, num_rows in enumerate(row_group_sizes(folder, shard))
        )
        for name, split in read_manifest(folder).splits.items()
    }


def without_shards(manifest: Manifest) -> Manifest:
    return replace(manifest, splits={name: replace(split, shards=Shards.of(())) for name, split in manifest.splits.items()})


# The same rows


@settings(max_examples=10, deadline=None)
@given(
    train=SIZES, val=SIZES | st.none(), width=st.integers(1, 70), weights=st.booleans(), labels=st.booleans(),
    kmer_size=st.sampled_from([None, 3, 6]), compress=st.booleans(), seed=st.integers(0, 999),
)
def test_there_and_back_is_the_same(train, val, width, weights, labels, kmer_size, compress, seed):
    with tempfile.TemporaryDirectory() as name:
        source, there, back, again = (Path(name) / part for part in ("source", "there", "back", "again"))
        splits = {"train": train} | ({"val": val} if val else {})
        make_folder(source, splits, width=width, weights=weights, labels=labels, kmer_size=kmer_size, compress=compress, seed=seed)
        for one, other in ((source, there), (there, back), (back, again)):
            convert(str(one), str(other))
            assert verify(other) == []
            assert rows_of(other) == rows_of(one)
        manifest = read_manifest(source)
        assert without_shards(read_manifest(there)) == without_shards(stored_as(manifest, "hdf5", dict(manifest.splits)))
        assert without_shards(read_manifest(back)) == without_shards(manifest)
        assert (there / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()
        assert contents(back) == contents(source) and contents(again) == contents(there)


def test_a_file_that_lies_alone_is_converted(folder, tmp_path):
    convert(str(folder), str(tmp_path / "hdf5"))
    shutil.copy(tmp_path / "hdf5/train.h5", tmp_path / "mine.h5")
    assert convert(str(tmp_path / "mine.h5"), str(tmp_path / "back"))["rows"] == {"train": 42}
    assert rows_of(tmp_path / "back")["train"].equals(rows_of(folder)["train"])
    assert verify(tmp_path / "back") == []


def test_the_command(folder, tmp_path, capsys):
    for argv in ([str(folder), str(tmp_path / "a")], ["--input", str(folder), "--output", str(tmp_path / "b")]):
        assert main(["convert", *argv]) == 0
        result, out = json.loads(capsys.readouterr().out), Path(argv[-1])
        size = sum(path.stat().st_size for path in out.glob("*.h5"))
        assert result == {"path": str(out), "format": "hdf5", "rows": {"train": 42, "test": 3}, "bytes": size}
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert main(["convert", str(folder)]) == 2
    assert capsys.readouterr().err == "error: convert needs SRC and DST\n"


# What is there already


def test_a_finished_folder_gives_its_result_again(folder, tmp_path):
    first, written = convert(str(folder), str(tmp_path / "out")), contents(tmp_path / "out")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert convert(str(folder), str(tmp_path / "out")) == first
    assert contents(tmp_path / "out") == written and times == {path: path.stat().st_mtime_ns for path in times}


def test_a_folder_that_holds_something_else_is_refused_untouched(folder, tmp_path):
    other = make_folder(tmp_path / "other", {"train": ((9,),)})
    for occupied in (other, folder):
        before = contents(occupied)
        with pytest.raises(ConfigError, match=f"{occupied} holds something else than this conversion would write; name a new or empty"):
            convert(str(folder), str(occupied))
        assert contents(occupied) == before
    (tmp_path / "empty").mkdir()
    assert convert(str(folder), str(tmp_path / "empty"))["format"] == "hdf5"


@pytest.mark.parametrize(
    ("target", "sentence"),
    [("s3://bucket/out", "convert writes local folders, got s3://bucket/out"), ("out.h5", "convert writes a folder with a file for each")],
)
def test_targets_that_are_no_local_folder(folder, target, sentence):
    with pytest.raises(ConfigError, match=sentence):
        convert(str(folder), target)


def test_a_source_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match=r"missing/manifest.json: cannot be read \(No such file or directory\); nothing is there"):
        convert(f"{tmp_path}/missing", f"{tmp_path}/out")


# Failures


def test_damage_in_the_source_leaves_nothing(folder, tmp_path):
    shard = folder / "train/part-00001.parquet"
    content = bytearray(shard.read_bytes())
    content[len(content) // 4] ^= 1
    shard.write_bytes(content)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(DataError, match="train/part-00001.parquet, row group 0: damaged"):
        convert(str(folder), str(tmp_path / "out"))
    assert sorted(tmp_path.iterdir()) == before


def test_a_manifest_that_counts_other_tokens(folder, tmp_path):
    from hyena_glt.data.manifest import write_manifest

    manifest = read_manifest(folder)
    splits = {**manifest.splits, "train": replace(manifest.splits["train"], tokens=1)}
    write_manifest(folder, replace(manifest, splits=splits))
    with pytest.raises(DataError, match=r"its train split has 42 rows and \d+ tokens, the manifest says 42 and 1; preprocess again"):
        convert(str(folder), str(tmp_path / "out"))


def test_a_full_disk_leaves_nothing_and_the_same_call_goes_on(folder, tmp_path, monkeypatch):
    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("pipelines.convert.write_manifest", full_disk)
        with pytest.raises(DataError, match="No space left on device.*; when that is cured, run the same command again"):
            convert(str(folder), str(tmp_path / "out"))
    assert [path.name for path in tmp_path.iterdir()] == ["parquet"]
    assert verify(convert(str(folder), str(tmp_path / "out"))["path"]) == []


def test_what_a_killed_run_left_is_replaced(folder, tmp_path):
    left = tmp_path / ".out.converting"
    left.mkdir()
    (left / "train.h5").write_bytes(b"half")
    convert(str(folder), str(tmp_path / "out"))
    assert verify(tmp_path / "out") == [] and not left.exists()


def test_numbers_of_ids_are_those_of_the_rows(folder, tmp_path):
    """The names and numbers in an HDF5 file mean what they mean in Parquet, seen without our own reader."""
    h5py = pytest.importorskip("h5py")
    convert(str(folder), str(tmp_path / "out"))
    wanted = rows_of(folder)["train"]
    with h5py.File(tmp_path / "out/train.h5") as file:
        names = file["source_names"].asstr()[:]
        assert names[file["source"][:]].tolist() == wanted["source"].to_pylist()
        assert np.array_equal(file["start"][:], wanted["start"].to_numpy())
        stored = [stored_ids(row, load_tokenizer(read_manifest(folder).tokenizer)) for row in wanted["input_ids"].to_pylist()]
        assert file["input_ids"][:].tolist() == stored
