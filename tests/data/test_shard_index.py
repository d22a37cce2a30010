"""The index of shards: reads back equal, at any size; a data set of 100,000 shards is planned in seconds."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyena_glt.data import shard_index
from hyena_glt.data.shard_index import Shard, Shards, encode_index, read_index
from tests.benchmarks import scale

SHARDS = st.lists(
    st.builds(
        Shard, path=st.text(max_size=9), rows=st.integers(0, 1 << 50), tokens=st.integers(0, 1 << 60), size=st.integers(0, 1 << 60),
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


@pytest.mark.long
def test_a_run_over_100_000_shards_is_planned_in_seconds(tmp_path):
    found = scale.plan_row(100_000, scale.GROUPS, tmp_path / "data")
    assert found["plan_s"] < 5 and found["peak_mb"] < 500, found
