"""Damage to a real preprocessing output: every random change of a byte or a file is found, and reading never ends in a traceback."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hyena_glt.config import Config, OutputConfig, PreprocessingConfig, SplitConfig, TokenizationConfig
from hyena_glt.data.dataset import open_rows
from hyena_glt.data.manifest import read_manifest, write_manifest
from hyena_glt.data.row_format import Packing
from hyena_glt.data.shard_index import Shards
from hyena_glt.data.verify import verify
from hyena_glt.errors import DataError
from pipelines.preprocess import preprocess
from pipelines.validate import validate_data

GENOMES = Path(__file__).parents[2] / "pipelines" / "genomes"


@pytest.fixture(scope="module")
def whole(ray_session, tmp_path_factory) -> Path:
    """lambda in char tokens: four shards in three splits."""
    out = tmp_path_factory.mktemp("data") / "out"
    preprocess(Config(
        preprocessing=PreprocessingConfig(
            input_path=str(GENOMES / "lambda.fa"), max_length=250, split=SplitConfig(by="tail", val=0.05, test=0.1)
        ),
        tokenization=TokenizationConfig(kind="char"), output=OutputConfig(path=str(out), chunk_size=100),
    ))
    return out


@pytest.fixture
def folder(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "out"))


def flip(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= rng.randrange(1, 256)
    path.write_bytes(content)


def truncate(path: Path, rng: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content))])


def delete_bytes(path: Path, rng: random.Random) -> None:
    content = path.read_bytes()
    start = rng.randrange(len(content))
    path.write_bytes(content[:start] + content[start + rng.randrange(1, 20) :])


def swap_bytes(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    one, two = rng.sample(range(len(content)), 2)
    while content[one] == content[two]:
        two = rng.randrange(len(content))
    content[one], content[two] = content[two], content[one]
    path.write_bytes(content)


def delete_file(path: Path, rng: random.Random) -> None:
    path.unlink()


def swap_files(path: Path, rng: random.Random) -> None:
    folder = path.parent if path.name.endswith(".json") else path.parents[1]
    other = rng.choice(sorted(item for item in folder.rglob("*") if item.is_file() and item != path))
    content = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(content)


DAMAGE: list[Callable[[Path, random.Random], None]] = [flip, truncate, delete_bytes, swap_bytes, delete_file, swap_files]


def damaged(folder: Path, cases: int, seed: int) -> list[str]:
    """Damage `folder` in one way after the other, each time undone by the time the next comes; yields what was done."""
    contents = {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    rng = random.Random(seed)
    for case in range(cases):
        way, path = DAMAGE[case % len(DAMAGE)], rng.choice(list(contents))
        way(path, rng)
        yield f"{case}: {way.__name__} {path.name}"
        for file, content in contents.items():
            file.write_bytes(content)


def test_a_whole_folder_has_no_damage(whole):
    result = validate_data(whole)
    assert {key: result[key] for key in ("path", "files", "rows", "damage")} == {"path": str(whole), "files": 4, "rows": 193, "damage": []}
    assert validate_data(whole / "val") == validate_data(whole)


@pytest.mark.slow
def test_random_changes_are_all_found(folder):
    for done in damaged(folder, 300, seed=0):
        damage = verify(folder)
        assert damage and all(sentence.startswith(str(folder)) for sentence in damage), done
    assert verify(folder) == []


def test_reading_damaged_data_gives_the_rows_or_a_sentence(folder):
    rows = open_rows(str(folder), "train")
    wanted = rows.read(np.arange(rows.num_rows))
    refused = 0
    for done in damaged(folder, 120, seed=1):
        try:
            rows = open_rows(str(folder), "train")
            assert np.array_equal(rows.read(np.arange(rows.num_rows)), wanted), done
        except DataError as error:
            refused += 1
            assert str(folder) in str(error), done
    assert refused > 60


@pytest.mark.parametrize(
    "change, sentence",
    [
        (lambda folder: (folder / "train/part-00001.parquet").unlink(), "train/part-00001.parquet: is missing"),
        (lambda folder: (folder / "train/part-9.parquet").touch(), "train/part-9.parquet: is not in the manifest; remove it"),
        (lambda folder: (folder / ".preprocess").mkdir(), ".preprocess: is not in the manifest; remove it"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json: is missing"),
        (lambda folder: (folder / "shards.parquet").unlink(), "shards.parquet: cannot be read (No such file or directory); restore it"),
        (lambda folder: (folder / "manifest.json").unlink(), "manifest.json: cannot be read (No such file or directory)"),
    ],
)
def test_sentences(folder, change, sentence):
    change(folder)
    (found,) = validate_data(folder)["damage"]
    assert sentence in found


def rewrite(folder: Path, change: Callable[[pa.Table], pa.Table], **counts: object) -> list[str]:
    """The damage after the val shard was changed and the manifest signed anew, as by a faulty program."""
    manifest = read_manifest(folder)
    val = manifest.splits["val"]
    path = folder / val.shards[0].path
    pq.write_table(change(pq.read_table(path)), path)
    shard = replace(val.shards[0], size=path.stat().st_size, sha256=hashlib.sha256(path.read_bytes()).hexdigest(), **counts)
    write_manifest(folder, replace(manifest, splits={**manifest.splits, "val": replace(val, shards=Shards.of([shard]))}))
    return verify(folder)


IDS = Packing(250, np.dtype(np.uint8), 4)


def change_ids(change: Callable[[np.ndarray], None]) -> Callable[[pa.Table], pa.Table]:
    def changed(table: pa.Table) -> pa.Table:
        ids = IDS.unpack(table["input_ids"]).copy()
        change(ids)
        field = table.schema.field("input_ids")
        return table.set_column(0, field, IDS.pack(ids))

    return changed


@pytest.mark.parametrize(
    "change, sentence",
    [
        (change_ids(lambda ids: ids.__setitem__((0, 0), 9)), "row group 0: holds id 9, outside the vocabulary of 9 ids"),
        (change_ids(lambda ids: ids.__setitem__((0, 3), 0)), "row group 0: has padding before a token"),
        (change_ids(lambda ids: ids.__setitem__((0, -1), 0)), "row group 0: has a row whose `length` does not fit its tokens"),
        (lambda table: table.slice(1), "part-00000.parquet: has 9 rows and 2,175 tokens, the manifest says 10 and 2,425"),
        (lambda table: table.drop_columns("start"), "part-00000.parquet: has other columns than 250 ids of 4 bits and source, record"),
    ],
)
def test_wrong_rows_in_a_signed_folder(folder, change, sentence):
    assert any(sentence in found for found in rewrite(folder, change))


def test_sums_that_do_not_add_up(folder):
    found = rewrite(folder, lambda table: table.slice(1), rows=9, tokens=2175, row_groups=(9,))
    assert found == [f"{folder}/val: its shards have 9 rows and 2,175 tokens, the manifest says 10 and 2,425"]


def test_other_row_groups_than_the_index_says(folder):
    found = rewrite(folder, lambda table: table, row_groups=(5, 5))
    assert found == [f"{folder}/val/part-00000.parquet: its row groups have other numbers of rows than shards.parquet says"]


def test_another_tokenizer(folder):
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"add_special_tokens": True}, indent=1, sort_keys=True) + "\n")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    write_manifest(folder, replace(read_manifest(folder), tokenizer_sha256=sha256))
    assert verify(folder) == [f"{path}: describes another tokenizer than the manifest"]


def test_a_shard_that_is_no_parquet_file(folder):
    manifest = read_manifest(folder)
    val = manifest.splits["val"]
    (folder / val.shards[0].path).write_bytes(b"PAR1")
    shard = replace(val.shards[0], size=4, sha256=hashlib.sha256(b"PAR1").hexdigest())
    write_manifest(folder, replace(manifest, splits={**manifest.splits, "val": replace(val, shards=Shards.of([shard]))}))
    (found,) = verify(folder)
    assert f"{folder}/val/part-00000.parquet is not a readable Parquet file" in found
