"""Splits and windows by arithmetic, against tables written by hand."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from hyena_glt.config import SplitConfig
from hyena_glt.data.splits import hashed_split, refuse_unknown_names, split_places
from hyena_glt.data.windows import Cut, Regions, make_regions, windows_between
from hyena_glt.errors import ConfigError


def records(**lengths: int) -> pa.Table:
    length = np.array(list(lengths.values()), np.int64)
    place = np.cumsum(length) - length
    return pa.table({"file": np.zeros_like(length), "name": list(lengths), "offset": place, "length": length, "place": place})


def regions_of(table: pa.Table, split: SplitConfig, cut: Cut) -> dict[str, Regions]:
    return {name: make_regions(table, places, cut) for name, places in split_places(table, split, gap=cut.max_length).items()}


def intervals(table: pa.Table, split: SplitConfig, cut: Cut) -> dict[str, list[tuple[str, int, int]]]:
    """(record, start, end) of every window."""
    out = {}
    for name, regions in regions_of(table, split, cut).items():
        region, start, end = windows_between(regions, 0, regions.num_windows, cut)
        out[name] = [(regions.name_R[int(r)].as_py(), int(s), int(e)) for r, s, e in zip(region, start, end, strict=True)]
    return out


NO_SPLIT = SplitConfig(val=0, test=0)


@pytest.mark.parametrize(
    "length, max_length, stride, wanted",
    [
        (10, 4, 4, [(0, 4), (4, 8), (8, 10)]),
        (8, 4, 4, [(0, 4), (4, 8)]),
        (3, 4, 4, [(0, 3)]),
        (10, 4, 2, [(0, 4), (2, 6), (4, 8), (6, 10)]),
        (11, 4, 3, [(0, 4), (3, 7), (6, 10), (9, 11)]),
        (5, 4, 1, [(0, 4), (1, 5)]),
    ],
)
def test_windows_cover_a_record_without_a_needless_one(length, max_length, stride, wanted):
    found = intervals(records(a=length), NO_SPLIT, Cut(max_length=max_length, stride=stride))
    assert [(start, end) for _, start, end in found["train"]] == wanted


def test_any_stretch_of_windows_is_the_same_as_from_the_whole():
    cut = Cut(max_length=5, stride=3)
    regions = regions_of(records(a=17, b=2, c=9), NO_SPLIT, cut)["train"]
    whole = np.stack(windows_between(regions, 0, regions.num_windows, cut))
    for first in range(regions.num_windows):
        part = np.stack(windows_between(regions, first, regions.num_windows, cut))
        np.testing.assert_array_equal(part, whole[:, first:])


def test_tail_leaves_a_gap_of_one_window_between_splits_and_train_pays_for_it():
    found = intervals(records(a=100), SplitConfig(by="tail", val=0.1, test=0.2), Cut(max_length=5, stride=5))
    assert found["test"][0][1:] == (80, 85) and found["test"][-1][1:] == (95, 100)
    assert found["val"] == [("a", 65, 70), ("a", 70, 75)]
    assert found["train"][-1] == ("a", 55, 60)


def test_tail_without_val_has_one_gap():
    found = intervals(records(a=100), SplitConfig(by="tail", val=0, test=0.2), Cut(max_length=5, stride=5))
    assert found["val"] == [] and found["train"][-1] == ("a", 70, 75)


def test_tail_of_a_record_too_short_for_a_share_of_it():
    found = intervals(records(a=4), SplitConfig(by="tail", val=0.1, test=0.1), Cut(max_length=2, stride=2))
    assert found == {"train": [("a", 0, 2), ("a", 2, 4)], "val": [], "test": []}


def test_hashed_splits_keep_their_shares_and_depend_on_the_seed():
    names = [f"contig_{i}" for i in range(10_000)]
    split = SplitConfig(val=0.1, test=0.2)
    drawn = [hashed_split(name, split) for name in names]
    assert drawn.count("val") == pytest.approx(1000, abs=100) and drawn.count("test") == pytest.approx(2000, abs=130)
    assert drawn != [hashed_split(name, SplitConfig(val=0.1, test=0.2, seed=1)) for name in names]
    # The same on every machine and in every version, or held-out records would move into training.
    assert drawn[8:16] == ["train", "train", "val", "train", "test", "train", "train", "train"]


def test_named_records():
    split = SplitConfig(by="named", val_records=("b",), test_records=("c",))
    found = intervals(records(a=4, b=4, c=4), split, Cut(max_length=4, stride=4))
    assert found == {"train": [("a", 0, 4)], "val": [("b", 0, 4)], "test": [("c", 0, 4)]}


def test_named_records_that_do_not_exist():
    split = SplitConfig(by="named", val_records=("chr2O", "chr1"), test_records=("X",))
    with pytest.raises(ConfigError) as caught:
        refuse_unknown_names(["chr1", "chr20"], split)
    assert caught.value.problems == (
        "preprocessing.split.val_records: no record is named 'chr2O'; did you mean chr20?",
        "preprocessing.split.test_records: no record is named 'X'; there are chr1, chr20",
    )
