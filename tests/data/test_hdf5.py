"""HDF5 files: the same rows as Parquet in the same row groups, usable alone, damage found, h5py missing said so."""

from __future__ import annotations

import random
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from hyena_glt.data.convert import write_split
from hyena_glt.data.dataset import open_rows
from hyena_glt.data.manifest import locate_split, output_around, read_manifest
from hyena_glt.data.readers import read_columns, read_row_group, read_rows, row_group_sizes, schema
from hyena_glt.data.verify import verify
from hyena_glt.errors import DataError
from pipelines.convert import convert
from tests.data.made_folder import make_folder

h5py = pytest.importorskip("h5py")

GROUPS = {"train": ((70_000 // 12, 100), (1,), (900, 30)), "val": ((20,),)}


@pytest.fixture(scope="module")
def parquet_folder(tmp_path_factory) -> Path:
    return make_folder(tmp_path_factory.mktemp("data") / "parquet", GROUPS, weights=True, labels=True, kmer_size=6)


@pytest.fixture(scope="module")
def whole(parquet_folder, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("data") / "hdf5"
    convert(str(parquet_folder), str(out))
    return out


@pytest.fixture
def folder(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "hdf5"))


@pytest.fixture
def alone(whole, tmp_path) -> Path:
    return Path(shutil.copy(whole / "train.h5", tmp_path / "mine.h5"))


# Reading


def test_every_reader_gives_what_it_gives_for_parquet(parquet_folder, whole):
    (shard,) = read_manifest(whole).splits["train"].shards
    shards, path, index = read_manifest(parquet_folder).splits["train"].shards, whole / shard.path, 0
    assert schema(path).equals(schema(parquet_folder / shards[0].path), check_metadata=True)
    assert row_group_sizes(whole, shard) == [size for sizes in GROUPS["train"] for size in sizes]
    for wanted in shards:
        for group, num_rows in enumerate(row_group_sizes(parquet_folder, wanted)):
            places = (path, index, num_rows), (parquet_folder / wanted.path, group, num_rows)
            assert read_rows(*places[0]).equals(read_rows(*places[1]))
            for column, packing in read_manifest(whole).row_format.packings.items():
                assert np.array_equal(*(read_row_group(*place, column, packing) for place in places))
            index += 1
    columns = ["record", "labels", "start"]
    assert read_columns(path, columns).equals(pa.concat_tables(read_columns(parquet_folder / s.path, columns) for s in shards))


def test_training_sees_the_same_rows_in_the_same_groups(parquet_folder, whole):
    one, other = open_rows(str(parquet_folder), "train", 5), open_rows(str(whole), "train", 5)
    assert np.array_equal(one.group_sizes(), other.group_sizes())
    order = np.random.default_rng(0).permutation(one.num_rows)[:500]
    assert np.array_equal(one.read(order), other.read(order))


def test_any_hdf5_tool_can_read_the_columns(whole, parquet_folder):
    with h5py.File(whole / "val.h5") as file:
        wanted = read_rows(parquet_folder / "val/part-00000.parquet", 0, 20)
        assert (file["input_ids"].shape, file["input_ids"].dtype, file["input_ids"].compression) == ((20, 12), np.uint16, "gzip")
        assert file["record_names"].asstr()[:][file["record"][:]].tolist() == wanted["record"].to_pylist()
        ends, labels = file["label_ends"][:], file["label_names"].asstr()[:][file["label"][:]]
        assert [part.tolist() for part in np.split(labels, ends[:-1])] == wanted["labels"].to_pylist()
        assert all(file[name].fletcher32 for name in file)


def test_without_compression(tmp_path):
    folder = make_folder(tmp_path / "a", {"train": ((30,),)}, compress=False)
    write_split(folder, read_manifest(folder), "train", tmp_path, "hdf5")
    with h5py.File(tmp_path / "train.h5") as file:
        assert file["input_ids"].compression is None and file["input_ids"].fletcher32


# Paths


def test_a_file_beside_its_manifest_is_its_split(folder):
    for split in ("train", "val"):
        assert locate_split(f"{folder}/{split}.h5", "test") == output_around(f"{folder}/{split}.h5") == (folder, split)
    assert locate_split(folder, "val") == (folder, "val")
    with pytest.raises(DataError, match="has no test split, only train, val; preprocess again"):
        locate_split(folder, "test")


def test_a_file_that_lies_alone_is_read_by_itself(alone, whole):
    assert locate_split(alone, "val") == (alone, "train")
    rows, wanted = open_rows(str(alone), "train"), open_rows(str(whole), "train")
    assert rows.tokenizer == wanted.tokenizer and rows.num_tokens == wanted.num_tokens
    assert np.array_equal(rows.read(np.arange(100)), wanted.read(np.arange(100)))
    assert verify(alone) == []


def test_a_file_among_parquet_stands_for_itself(parquet_folder, whole, tmp_path):
    mixed = Path(shutil.copytree(parquet_folder, tmp_path / "mixed"))
    shutil.copy(whole / "train.h5", mixed)
    assert locate_split(mixed / "train.h5", "train") == (mixed / "train.h5", "train")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match=r"train.h5: cannot be read \(No such file or directory\); nothing is there; check the path"):
        open_rows(f"{tmp_path}/train.h5", "train")


def test_hdf5_of_another_kind(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = [1]
    with pytest.raises(DataError, match="other.h5: its format is None, version None, .* reads hyena-glt rows, version 1; give a file that"):
        open_rows(f"{tmp_path}/other.h5", "train")
    (tmp_path / "text.h5").write_text("no")
    with pytest.raises(DataError, match=r"text.h5 is not a readable HDF5 file \(.*\); preprocess again"):
        open_rows(f"{tmp_path}/text.h5", "train")


@pytest.mark.parametrize("way", ["link", "soft link", "raw bytes", "view"])
def test_bytes_of_another_file_are_not_read(alone, whole, way):
    """As a file could have them that means to bring what lies elsewhere on this machine into the data."""
    with h5py.File(alone, "r+") as file:
        ids = file["input_ids"]
        shape, kind = ids.shape, ids.dtype
        del file["input_ids"]
        if way == "link":
            file["input_ids"] = h5py.ExternalLink(str(whole / "val.h5"), "input_ids")
        elif way == "soft link":
            file["input_ids"] = h5py.SoftLink("/start")
        elif way == "raw bytes":
            file.create_dataset("input_ids", shape, kind, external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])
        else:
            layout = h5py.VirtualLayout(shape, kind)
            layout[:1] = h5py.VirtualSource(str(whole / "val.h5"), "input_ids", (1, shape[1]))
            file.create_virtual_dataset("input_ids", layout)
    with pytest.raises(DataError, match=f"^{alone}: its input_ids lies in another file, which is not read; give a file that"):
        schema(alone)


def test_without_h5py(monkeypatch, whole):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DataError, match=r"train.h5: HDF5 files need h5py; pip install 'hyena-glt\[hdf5\]'"):
        open_rows(str(whole), "train").read(np.array([0]))


# Damage


def damage(path: Path, rng: random.Random) -> None:
    """Change a byte, or cut the end off."""
    content = bytearray(path.read_bytes())
    at = rng.randrange(len(content))
    if rng.random() < 0.2:
        content = content[:at]
    else:
        content[at] ^= rng.randrange(1, 256)
    path.write_bytes(content)


def damaged(path: Path, cases: int, seed: int) -> None:
    """Damage a file anew again and again."""
    content, rng = path.read_bytes(), random.Random(seed)
    for _ in range(cases):
        damage(path, rng)
        yield
        path.write_bytes(content)


@pytest.mark.slow
def test_random_changes_are_all_found(folder):
    for _ in damaged(folder / "train.h5", 300, seed=0):
        assert any(sentence.startswith(f"{folder}/train.h5: ") for sentence in verify(folder))
    assert verify(folder) == []


@pytest.mark.parametrize("lies_alone", [False, True])
def test_reading_a_damaged_file_gives_the_rows_or_a_sentence(folder, alone, lies_alone):
    path = alone if lies_alone else folder / "train.h5"
    rows, refused = open_rows(str(path), "train"), 0
    everything = np.arange(rows.num_rows)
    wanted = rows.read(everything)
    for _ in damaged(path, 60, seed=1):
        try:
            rows = open_rows(str(path), "train")
            assert np.array_equal(rows.read(everything), wanted)
        except DataError as error:
            refused += 1
            assert str(path) in str(error)
    assert refused > 15
