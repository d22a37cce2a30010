"""Splits and windows by arithmetic, against tables written by hand."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyena_glt.config import SplitConfig
from hyena_glt.data.coordinates import Coordinates
from hyena_glt.data.splits import hashed_split, refuse_unknown_names, split_places
from hyena_glt.data.windows import Cut, Regions, make_regions, windows_between
from hyena_glt.errors import ConfigError


def records(**lengths: int) -> pa.Table:
    length = np.array(list(lengths.values()), np.int64)
    place = np.cumsum(length) - length
    names = list(lengths)
    return pa.table({"file": np.zeros_like(length), "name": names, "contig": names, "offset": place, "length": length, "place": place})


def regions_of(table: pa.Table, split: SplitConfig, cut: Cut) -> dict[str, Regions]:
    places = split_places(Coordinates(table, {}), ["a.fa", "b.fa"], split, gap=cut.max_length, clusters=list)
    return {name: make_regions(table, stretches, cut) for name, stretches in places.items()}


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
        refuse_unknown_names(records(chr1=10, chr20=10), ["a.fa"], split)
    assert caught.value.problems == (
        "preprocessing.split.val_records: no record is named 'chr2O'; did you mean chr20?",
        "preprocessing.split.test_records: no record is named 'X'; there are chr1, chr20, a.fa",
    )


def test_a_listed_name_means_a_record_else_a_file_else_a_chromosome():
    table, cut = records(chr1=10, chr2=10, chrM=10), Cut(max_length=10, stride=10)
    table = table.set_column(0, "file", pa.array([0, 0, 1]))
    for wanted, held_out in (("chr1", "chr1"), ("2", "chr2"), ("mito.fa", "chrM"), ("MT", "chrM")):
        split = SplitConfig(by="named", val_records=(wanted,))
        places = split_places(Coordinates(table, {}), ["a.fa", "mito.fa"], split, gap=10, clusters=list)
        assert [name.as_py() for name in make_regions(table, places["val"], cut).name_R] == [held_out]
    with pytest.raises(ConfigError, match="test_records: '2' means record 'chr2', which val_records has too"):
        regions_of(table, SplitConfig(by="named", val_records=("chr2",), test_records=("2",)), cut)


@pytest.mark.parametrize("by", ["record", "chromosome", "file", "cluster"])
def test_all_records_of_a_group_go_to_one_split(by):
    table = records(**{f"{prefix}{number}": 10 for number in range(100) for prefix in ("chr", "")})
    table = table.set_column(0, "file", pa.array(np.arange(200) % 50))
    group = {
        "record": table["name"].to_pylist(), "chromosome": [name.removeprefix("chr") for name in table["name"].to_pylist()],
        "file": [f"{file}.fa" for file in table["file"].to_pylist()], "cluster": [str(number // 7) for number in range(200)],
    }[by]
    split = SplitConfig(by=by, val=0.3, test=0.2)
    places = split_places(Coordinates(table, {}), [f"{n}.fa" for n in range(50)], split, gap=5, clusters=lambda: group)
    splits_of: dict[str, set[str]] = {}
    for name, (start, _) in places.items():
        for place in start.tolist():
            splits_of.setdefault(group[place // 10], set()).add(name)
    assert all(len(found) == 1 for found in splits_of.values()) and sum(len(start) for start, _ in places.values()) == 200
    assert len(places["val"][0]) and len(places["test"][0])
    assert all(splits_of[name] == {hashed_split(name, split)} for name in group)


BASES = 60


@given(st.data())
def test_intervals_with_their_gaps_against_a_table_of_bases(data):
    """Each base of three records by itself: listed ones, those within a gap of them in the same record, the others."""
    table, gap = records(a=BASES, chrb=BASES, c=BASES), data.draw(st.integers(0, 10))
    drawn = data.draw(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, BASES - 1), st.integers(1, 20)), min_size=1, max_size=4))
    half = data.draw(st.integers(0, len(drawn)))
    wanted = np.full((3, BASES), "train", object)
    for number, (name, start, length) in enumerate(drawn):
        row = wanted["abc".index(name)]
        row[start : start + length][row[start : start + length] == "train"] = "val" if number < half else "test"
    listed = {"val": [], "test": []}
    for split, texts in listed.items():
        for record, name in enumerate("abc"):
            texts += [f"{name}:{base + 1}-{base + 1}" for base in np.flatnonzero(wanted[record] == split)]
    for record in range(3):
        test, val = (np.flatnonzero(wanted[record] == split) for split in ("test", "val"))
        near = lambda bases, base: any(abs(base - other) <= gap for other in bases)  # noqa: E731
        stays = [base for base in val if not near(test, base)]
        wanted[record, [base for base in val if base not in stays]] = "gap"
        train = np.flatnonzero(wanted[record] == "train")
        wanted[record, [base for base in train if near(test, base) or near(stays, base)]] = "gap"
    split = SplitConfig(by="interval", val_intervals=tuple(listed["val"]), test_intervals=tuple(listed["test"]))
    places = split_places(Coordinates(table, {}), ["a.fa"], split, gap=gap, clusters=list)
    found = np.full(3 * BASES, "gap", object)
    for name, (start, end) in places.items():
        assert (end > start).all() and (start // BASES == (end - 1) // BASES).all(), "no stretch crosses the end of a record"
        for low, high in zip(start, end, strict=True):
            found[low:high] = name
    assert (found.reshape(3, BASES) == wanted).all()


def test_intervals_come_from_bed_files_too(tmp_path):
    (tmp_path / "held_out.bed").write_text("chr1\t20\t40\nchr9\t0\t5\n")
    split = SplitConfig(by="interval", val_intervals=f"{tmp_path}/held_out.bed", test_intervals=("1:91-",))
    found = intervals(records(**{"1": 100, "2": 10, "9": 20}), split, Cut(max_length=10, stride=10))
    assert found["val"] == [("1", 20, 30), ("1", 30, 40), ("9", 0, 5)] and found["test"] == [("1", 90, 100)]
    assert found["train"] == [("1", 0, 10), ("1", 50, 60), ("1", 60, 70), ("1", 70, 80), ("2", 0, 10), ("9", 15, 20)]


@pytest.mark.parametrize(
    "val, test, problem",
    [
        (("chr1:5-8",), ("1:8-9",), "val_intervals and test_intervals have bases in common; make them disjoint"),
        (("chr2:5-8",), (), "split.val_intervals: chr2:5-8: no sequence of the annotation"),
        (("chr1:8-5",), (), "region 'chr1:8-5' is empty"),
    ],
)
def test_intervals_that_cannot_be(val, test, problem):
    split = SplitConfig(by="interval", val_intervals=val, test_intervals=test)
    with pytest.raises(ConfigError, match=problem):
        regions_of(records(chr1=100), split, Cut(max_length=10, stride=10))
