"""The index of shards: reads back equal, at any size, leads nowhere else, and runs nothing."""

from __future__ import annotations

import hashlib
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyena_glt.data import shard_index
from hyena_glt.data.readers import read_columns
from hyena_glt.data.shard_index import Shard, Shards, encode_index, read_index
from hyena_glt.errors import DataError

PATHS = st.text(max_size=9).map(lambda name: f"train/{name}".replace("/..", "/,"))
SHARDS = st.lists(
    st.builds(
        Shard, path=PATHS, rows=st.integers(0, 1 << 50), tokens=st.integers(0, 1 << 60), size=st.integers(0, 1 << 60),
        sha256=st.binary(min_size=32, max_size=32).map(bytes.hex),
        row_groups=st.none() | st.lists(st.integers(1, 1 << 30), max_size=4).map(tuple),
    ),
    min_size=1, max_size=7,
)


@settings(max_examples=50, deadline=None)
@given(train=SHARDS, val=SHARDS, at_once=st.integers(1, 8))
def test_an_index_reads_back_equal(tmp_path_factory, train, val, at_once):
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard_index, "SHARDS_AT_ONCE", at_once)
        content = encode_index({"train": Shards.of(train), "val": Shards.of(val)})
    (folder / "shards.parquet").write_bytes(content)
    found = read_index(folder, hashlib.sha256(content).hexdigest())
    assert {name: list(shards) for name, shards in found.items()} == {"train": train, "val": val}
    assert found["train"] == Shards.of(train) and (found["train"] == found["val"]) == (train == val)
    assert [found["val"][number] for number in range(-len(val), len(val))] == val * 2 and len(found["val"]) == len(val)
    assert found["train"].tell_row_groups == all(shard.row_groups is not None for shard in train)
    assert pq.read_table(folder / "shards.parquet")["path"].to_pylist() == [shard.path for shard in train + val]


@given(st.lists(st.lists(st.integers(1, 1 << 30), max_size=4).map(tuple), min_size=1, max_size=9))
def test_row_groups_begin_where_those_before_end(groups):
    shards = Shards.of([Shard(path="", rows=sum(own), tokens=0, size=0, sha256="", row_groups=own) for own in groups])
    group_starts, shard_starts = shards.starts()
    assert group_starts.tolist() == [sum(sum(groups, ())[:number]) for number in range(len(sum(groups, ())) + 1)]
    assert shard_starts.tolist() == [sum(map(len, groups[:number])) for number in range(len(groups) + 1)]
    assert group_starts.dtype == shard_starts.dtype == np.int64


@pytest.mark.parametrize("path", ["/etc/passwd", "../other/part-00000.parquet", "train/../../part-00000.parquet", ".."])
def test_a_shard_outside_of_the_folder_is_refused(tmp_path, path):
    """As somebody would write it who means to have another file read, or overwritten by a conversion."""
    shards = Shards.of([Shard(path="train/part", rows=1, tokens=1, size=1, sha256="00" * 32, row_groups=(1,))])
    table = pq.read_table(pa.BufferReader(encode_index({"train": shards})))
    pq.write_table(table.set_column(1, "path", pa.array([path])), tmp_path / "shards.parquet")
    with pytest.raises(ValueError, match=re.escape(f"the shard {path!r} lies outside of the folder")):
        read_index(tmp_path, hashlib.sha256((tmp_path / "shards.parquet").read_bytes()).hexdigest())


class Pickles(pa.ExtensionType):
    """What Ray Data calls a column of pickles, and unpickles when one of its values is looked at."""

    def __init__(self) -> None:
        super().__init__(pa.large_binary(), "ray.data.arrow_pickled_object")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""


class Hostile:
    """Something whose pickle makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.mark,)


@pytest.mark.parametrize("nested", [False, True])
def test_no_pickle_in_a_parquet_file_runs(tmp_path, nested):
    import ray.data  # noqa: F401 - makes pyarrow know the type, as in every worker

    column = pa.ExtensionArray.from_storage(Pickles(), pa.array([pickle.dumps(Hostile(tmp_path / "mark"))], pa.large_binary()))
    column = pa.ListArray.from_arrays([0, 1], column) if nested else column
    pq.write_table(pa.table({"split": column}), tmp_path / "shards.parquet")
    content = (tmp_path / "shards.parquet").read_bytes()
    with pytest.raises(ValueError, match="^its column split is of the type .*ray.data.arrow_pickled_object.*, and only plain"):
        read_index(tmp_path, hashlib.sha256(content).hexdigest())
    with pytest.raises(DataError, match=r"shards.parquet is not a readable Parquet file \(its column split is of the type"):
        read_columns(tmp_path / "shards.parquet", ["split"])
    assert not (tmp_path / "mark").exists()
    pq.read_table(tmp_path / "shards.parquet")["split"].to_pylist()
    assert (tmp_path / "mark").exists(), "this proves nothing: pyarrow itself would not have run it"
