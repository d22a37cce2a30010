"""Rows of a split: cut and framed without losing a token, and never read from damaged bytes in silence."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyena_glt.config import TokenizationConfig
from hyena_glt.data import dataset
from hyena_glt.data.dataset import add_specials, cut_rows, open_rows
from hyena_glt.data.manifest import canonical_json, read_manifest, write_manifest
from hyena_glt.data.shard_index import Shards
from hyena_glt.data.verify import verify
from hyena_glt.errors import DataError, StorageError
from tests.data.small_folder import random_letters, write_folder

RECORDS = {"one": random_letters(333, 1, b"ACGTN"), "two": random_letters(57, 2), "val1": random_letters(41, 3)}
MAX_LENGTH = 20


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """20 rows of up to 20 bases in train, in five row groups of two shards; 3 in val."""
    return write_folder(tmp_path_factory.mktemp("data") / "out", RECORDS, max_length=MAX_LENGTH, rows_per_group=5, rows_per_shard=12)


@pytest.fixture
def folder(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "out"))


def first_shard(folder: Path) -> Path:
    return folder / "train" / "part-00000.parquet"


def stored_rows(folder: Path, split: str, max_length: int = MAX_LENGTH) -> list[list[int]]:
    """The ids of each window without padding, from the letters."""
    ids = {letter: number for number, letter in enumerate("ACGT", 5)}
    windows = [
        RECORDS[name].decode()[start : start + max_length]
        for name in RECORDS if name.startswith("val") == (split == "val") for start in range(0, len(RECORDS[name]), max_length)
    ]
    return [[ids.get(letter, 4) for letter in window] for window in windows]


def padded(rows: list[list[int]], width: int) -> np.ndarray:
    return np.array([row + [0] * (width - len(row)) for row in rows])


def test_rows_are_read_in_any_order(whole):
    rows, wanted = open_rows(str(whole), "train"), padded(stored_rows(whole, "train"), MAX_LENGTH)
    assert (rows.num_rows, rows.width, len(rows.shards)) == (20, MAX_LENGTH, 2)
    assert rows.group_sizes().tolist() == [5, 5, 2, 5, 3]
    asked = np.random.default_rng(0).integers(0, 20, 60)
    assert (rows.read(asked) == wanted[asked]).all()
    assert rows.read(asked).dtype == np.uint8


def test_a_split_folder_means_itself(whole):
    rows = open_rows(f"{whole}/val", "train")
    assert rows.split == "val" and (rows.read(np.arange(3)) == padded(stored_rows(whole, "val"), MAX_LENGTH)).all()


@pytest.mark.parametrize("length", [2, 6, 7, 19, 20, 50])
def test_cutting_loses_no_token(whole, length):
    rows, stored = open_rows(str(whole), "train", length), stored_rows(whole, "train")
    piece, pieces = min(length, MAX_LENGTH), -(-MAX_LENGTH // length)
    assert (rows.width, rows.num_rows) == (piece, 20 * pieces)
    read = rows.read(np.arange(rows.num_rows))
    wanted = [row[i * piece : (i + 1) * piece] for row in stored for i in range(pieces)]
    assert (read == padded(wanted, piece)).all()
    assert rows.num_tokens == (read != 0).sum() == sum(map(len, stored))
    assert rows.padding_share == pytest.approx((read == 0).mean())


@given(st.integers(1, 5), st.integers(1, 12), st.integers(1, 14))
def test_pieces_in_a_row_are_the_row(num_rows, width, length):
    ids = np.arange(5, 5 + num_rows * width, dtype=np.uint16).reshape(num_rows, width)
    pieces = cut_rows(ids, length)
    assert pieces.dtype == np.uint16 and pieces.shape == (num_rows * -(-width // length), length)
    joined = pieces.reshape(num_rows, -1)
    assert (joined[:, :width] == ids).all() and not joined[:, width:].any()


@given(st.lists(st.integers(0, 7), min_size=1, max_size=5))
def test_specials_stand_around_the_tokens(filled):
    rows = [[5 + i for i in range(number)] for number in filled]
    wanted = [[2, *row, 3] + [0] * (7 - len(row)) for row in rows]
    assert add_specials(padded(rows, 7).astype(np.uint8)).tolist() == wanted


def test_specials_are_added_to_each_piece_where_the_tokenizer_asks(tmp_path):
    folder = write_folder(
        tmp_path / "out", RECORDS, max_length=MAX_LENGTH, tokenization=TokenizationConfig(kind="char", add_special_tokens=True)
    )
    rows = open_rows(str(folder), "train", 12)
    first = stored_rows(folder, "train")[0]
    assert rows.width == 14 and rows.piece_length == 12
    assert rows.read(np.array([0, 1])).tolist() == [[2, *first[:12], 3], [2, *first[12:], 3, 0, 0, 0, 0]]
    assert rows.padding_share == pytest.approx(1 - 390 / (40 * 12)), "specials are not counted"


def test_only_the_last_row_groups_stay_in_memory(whole, monkeypatch):
    opened = []
    read_row_group = dataset.read_row_group
    monkeypatch.setattr(dataset, "read_row_group", lambda path, index, *what: opened.append(index) or read_row_group(path, index, *what))
    rows = open_rows(str(whole), "train", cached_row_groups=2)
    for row in (0, 4, 5, 0, 10, 0, 5):  # groups 0 0 1 0 2 0 1: 1 was asked for longest ago when 2 came
        rows.read(np.array([row]))
    assert opened == [0, 1, 2, 1]


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match=r"gone is neither a preprocessing output nor one of its split folders: nothing is there"):
        open_rows(str(tmp_path / "gone"), "train")


def test_a_split_that_is_not_there(folder):
    with pytest.raises(DataError, match=r"out has no test split, only train, val; preprocess again with preprocessing.split.test"):
        open_rows(str(folder), "test")
    (folder / "test").mkdir()
    with pytest.raises(DataError, match=r"out has no split 'test', only train, val$"):
        open_rows(str(folder), "test")


def test_a_shard_that_is_cut_short_or_missing(folder):
    path = first_shard(folder)
    content = path.read_bytes()
    path.write_bytes(content[:-7])
    rows = open_rows(str(folder), "train")
    with pytest.raises(DataError) as caught:
        rows.read(np.array([0]))
    assert str(caught.value) == (
        f"{path}: {len(content) - 7:,} bytes, the manifest has {len(content):,} bytes; "
        f"run `hyena-glt validate-data {folder}` for the whole damage, then preprocess again into a new folder"
    )
    path.unlink()
    with pytest.raises(DataError, match=r"part-00000.parquet: missing, the manifest has"):
        rows.read(np.array([0]))
    assert (rows.read(np.array([19])) == padded(stored_rows(folder, "train"), MAX_LENGTH)[19]).all(), "other shards are whole"


def test_a_shard_without_a_footer(folder):
    path = first_shard(folder)
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(DataError, match=r"part-00000.parquet is not a readable Parquet file \(.*\); preprocess again into a new folder"):
        open_rows(str(folder), "train").read(np.array([0]))


def test_an_index_that_is_missing_or_damaged(folder):
    path = folder / "shards.parquet"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"2")
    with pytest.raises(DataError) as caught:
        open_rows(str(folder), "train")
    cure = "restore it, or preprocess again into a new folder"
    assert str(caught.value) == f"{path}: is damaged, its SHA-256 is not the manifest's; {cure}"
    path.unlink()
    with pytest.raises(DataError) as caught:
        open_rows(str(folder), "train")
    assert str(caught.value) == f"{path}: cannot be read (No such file or directory); {cure}"


def test_a_shard_with_other_rows_than_the_index_has(folder):
    """Of the same size, as by a faulty program: never other rows in silence."""
    manifest = read_manifest(folder)
    train = manifest.splits["train"]
    for sizes, sentence in (((6, 4, 2), "row group 0: damaged (5 rows, wanted 6)"), ((5, 5, 1, 1), "row group 3: damaged (")):
        shards = Shards.of([replace(train.shards[0], row_groups=sizes), train.shards[1]])
        write_manifest(folder, replace(manifest, splits={"train": replace(train, shards=shards)}))
        with pytest.raises(DataError) as caught:
            open_rows(str(folder), "train").read(np.array([11, 0]))
        assert f"{first_shard(folder)}, {sentence}" in str(caught.value)


def test_a_folder_whose_manifest_lists_its_shards(folder, whole):
    as_version_3(folder)
    assert verify(folder) == []
    for split in ("train", "val"):
        one, other = open_rows(str(folder), split, 6), open_rows(str(whole), split, 6)
        everything = np.arange(other.num_rows)
        assert np.array_equal(one.group_sizes(), other.group_sizes()) and np.array_equal(one.read(everything), other.read(everything))
    first_shard(folder).unlink()
    with pytest.raises(DataError, match=r"part-00000.parquet: missing, the manifest has"):
        open_rows(str(folder), "train").read(np.array([19]))


def as_version_3(folder: Path) -> None:
    """The folder as version 3 wrote it: no index, the shards in the manifest."""
    fields, splits = json.loads((folder / "manifest.json").read_text()), read_manifest(folder).splits
    for name, split in fields["splits"].items():
        split["shards"] = [{key: value for key, value in asdict(shard).items() if key != "row_groups"} for shard in splits[name].shards]
    fields = {key: value for key, value in fields.items() if key not in ("checksum", "index_sha256")} | {"schema_version": 3}
    checksum = hashlib.sha256(canonical_json(fields)).hexdigest()
    (folder / "manifest.json").write_bytes(canonical_json(fields | {"checksum": checksum}))
    (folder / "shards.parquet").unlink()


def test_a_manifest_that_was_edited(folder):
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"width": 20', '"width": 21'))
    with pytest.raises(DataError, match="manifest.json: is damaged"):
        open_rows(str(folder), "train")


def test_rows_of_another_width_than_the_manifest_has(folder):
    manifest = read_manifest(folder)
    object.__setattr__(manifest, "width", 16)
    write_manifest(folder, manifest)
    with pytest.raises(DataError, match=r"row group 0: damaged \(rows of 10 bytes, wanted 8 for 16 uint8, two a byte"):
        open_rows(str(folder), "train").read(np.array([0]))


def id_bytes(path: Path) -> tuple[int, range]:
    """Where the first data page of ids, its header included, begins; and all bytes of the column in the first row group."""
    column = pq.ParquetFile(path).metadata.row_group(0).column(0)
    start = column.dictionary_page_offset or column.data_page_offset
    return column.data_page_offset, range(start, start + column.total_compressed_size)


def flips(path: Path, places: range) -> Iterator[bytes]:
    content = path.read_bytes()
    for place in places:
        for bits in (0xFF, 1 << place % 8):
            yield content[:place] + bytes([content[place] ^ bits]) + content[place + 1 :]


@pytest.mark.parametrize("compress", [True, False])
def test_no_flipped_byte_among_the_ids_gives_other_ids(tmp_path, compress):
    folder = write_folder(tmp_path / "out", RECORDS, max_length=MAX_LENGTH, rows_per_group=5, compress=compress)
    path = first_shard(folder)
    page, places = id_bytes(path)
    content = path.read_bytes()
    checksum_errors, whole = 0, open_rows(str(folder), "train").read(np.arange(5))
    for damaged in flips(path, places):
        path.write_bytes(damaged)
        try:  # the bits of a header that mean nothing to a reader are harmless
            assert (open_rows(str(folder), "train").read(np.arange(5)) == whole).all()
        except DataError as error:
            assert f"{path}, row group 0: damaged (" in str(error) and f"run `hyena-glt validate-data {folder}`" in str(error)
            checksum_errors += "CRC checksum verification failed" in str(error)
    assert checksum_errors > len(places) / 2  # of two flips a byte: these small pages have as much header as content

    last = places.stop - 1  # content for certain
    assert last > page
    path.write_bytes(content[:last] + bytes([content[last] ^ 1]) + content[last + 1 :])
    rows = open_rows(str(folder), "train")
    with pytest.raises(DataError, match="row group 0: damaged .could not verify page integrity, CRC checksum verification failed"):
        rows.read(np.array([3]))
    assert (rows.read(np.array([5])) == padded(stored_rows(folder, "train"), MAX_LENGTH)[5]).all(), "other row groups are whole"


@pytest.mark.parametrize("already", [0, 1], ids=["no row read before", "one row read before"])
def test_a_storage_that_goes_away_is_waited_for(folder: Path, caplog: pytest.LogCaptureFixture, already: int) -> None:
    rows, wanted = open_rows(str(folder), "train", cached_row_groups=1, retry_s=30), stored_rows(folder, "train")
    if already:
        rows.read(np.arange(already))
    folder.rename(folder.with_name("away"))
    threading.Timer(1.5, folder.with_name("away").rename, [folder]).start()
    np.testing.assert_array_equal(rows.read(np.arange(len(wanted))), padded(wanted, MAX_LENGTH))
    assert [record.getMessage().partition(";")[2] for record in caplog.records] == [
        " when its storage is back, the same command goes on; trying again for 30 s" if not already else
        " when that is cured, the same command goes on; trying again for 30 s"
    ]


def test_a_storage_that_stays_away_is_named(folder: Path) -> None:
    rows = open_rows(str(folder), "train", retry_s=0.5)
    folder.rename(folder.with_name("away"))
    with pytest.raises(StorageError, match=f"^{folder}: is not there; when its storage is back, the same command goes on$"):
        rows.read(np.arange(3))
