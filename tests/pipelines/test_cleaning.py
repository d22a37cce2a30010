"""Whole preprocessing runs that clean and split: what leaves is counted, relatives stay together, leakage is said and refused."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from hyena_glt.config import NearDuplicatesConfig, SplitConfig
from hyena_glt.data import manifest as module
from hyena_glt.data.manifest import MANIFEST, read_manifest
from hyena_glt.data.shard_index import INDEX
from hyena_glt.data.storage import Location
from hyena_glt.errors import DataError
from pipelines.preprocess import preprocess
from pipelines.validate import validate_data
from tests.pipelines.test_preprocess import NO_SPLIT, files_of, settings, stored_rows
from tests.tiny_run import lambda_letters

pytestmark = pytest.mark.usefixtures("ray_session")

WINDOW, NUM_WINDOWS = 128, 40
LETTERS = lambda_letters()


def fasta(path: Path, **records: bytes) -> Path:
    path.write_bytes(b"".join(b">%s\n%s\n" % (name.encode(), letters) for name, letters in records.items()))
    return path


def other_strand(letters: bytes) -> bytes:
    return letters.translate(bytes.maketrans(b"ACGT", b"TGCA"))[::-1]


def with_a_change_in_each_window(letters: bytes) -> bytes:
    """One letter of each window, in its middle, is another."""
    changed = bytearray(letters)
    for place in range(WINDOW // 2, len(letters), WINDOW):
        changed[place] = {65: 67, 67: 71, 71: 84, 84: 65}[changed[place]]
    return bytes(changed)


def test_each_base_that_leaves_is_counted_with_its_reason(tmp_path: Path) -> None:
    """Copies on both strands with a letter changed, exact copies, and stretches of low complexity."""
    first = LETTERS[: NUM_WINDOWS * WINDOW]
    near = with_a_change_in_each_window(first)
    inputs = fasta(
        tmp_path / "in.fa", first=first, near=near, other_strand=other_strand(with_a_change_in_each_window(near)),
        again=first + LETTERS[-WINDOW:],
        simple=b"A" * WINDOW + b"AC" * (WINDOW // 2),
    )
    # One letter of 128 takes 21 of 108 k-mers: of all that either has 67 % are in common, after two changes 50 %.
    cfg = settings(
        inputs, tmp_path / "out", split=NO_SPLIT, max_low_complexity_fraction=0.5, near_duplicates=NearDuplicatesConfig(threshold=0.3)
    )
    preprocess(cfg)
    rows, dropped = stored_rows(tmp_path / "out")["train"], read_manifest(tmp_path / "out").dropped
    assert [row[1:3] for row in rows] == [*(("first", WINDOW * number) for number in range(NUM_WINDOWS)), ("again", NUM_WINDOWS * WINDOW)]
    wanted = {"near_duplicate_windows": 2 * NUM_WINDOWS, "duplicate_windows": NUM_WINDOWS, "low_complexity_windows": 2}
    found = {reason: counts for reason, counts in dropped.items() if counts.get("windows")}
    assert found == {reason: {"windows": number, "bases": number * WINDOW} for reason, number in wanted.items()}


def test_relatives_share_a_split(tmp_path: Path) -> None:
    """A record, and a piece of it read from the other strand, whatever the seed; unrelated records part."""
    families = {name: LETTERS[6000 * number : 6000 * number + 5000] for number, name in enumerate("abcdefgh")}
    pieces = {f"{name}_piece": other_strand(letters[1500:4000]) for name, letters in families.items()}
    inputs = fasta(tmp_path / "in.fa", **families, **pieces)
    places: dict[str, set[str]] = {name: set() for name in families}
    for seed in range(2):
        folder = tmp_path / str(seed)
        preprocess(settings(inputs, folder, remove_duplicates=False, split=SplitConfig(by="cluster", val=0.5, test=0, seed=seed)))
        split_of = {row[1]: split for split, rows in stored_rows(folder).items() for row in rows}
        assert set(split_of) == {*families, *pieces}
        for name in families:
            assert split_of[name] == split_of[f"{name}_piece"]
            places[name].add(split_of[name])
    assert any(len(splits) > 1 for splits in places.values()), "it depends on the seed"


def test_leakage_is_said_and_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Half of val stands in train, out of phase and on the other strand, where no window is the same."""
    train, own = LETTERS[:8000], LETTERS[20000:22000]
    inputs = fasta(tmp_path / "in.fa", train=train, val=other_strand(train[1010:3010]) + own)
    split = SplitConfig(by="named", val_records=("val",), max_leakage=0.05)
    cfg = settings(inputs, tmp_path / "out", split=split)
    with pytest.raises(DataError, match=r"^train holds 5\d(\.\d+)? ?% of the \d+-mers of val, more than .*max_leakage \(0\.05\) allows"):
        preprocess(cfg)
    assert not (tmp_path / "out").exists() or files_of(tmp_path / "out") == {}
    caplog.set_level(logging.INFO, logger="hyena_glt")
    preprocess(replace(cfg, preprocessing=replace(cfg.preprocessing, split=replace(split, max_leakage=1.0))))
    found = read_manifest(tmp_path / "out").leakage["val"]
    assert found["kmer_share"] == pytest.approx(0.5, abs=0.06)
    assert any("val" in message and "train" in message for message in caplog.messages)


def test_a_run_that_ends_between_index_and_manifest_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "out"
    cfg = settings(fasta(tmp_path / "in.fa", lambda_=LETTERS), output)
    preprocess(cfg)
    whole, write_bytes = files_of(output), module.write_bytes
    shutil.rmtree(output)

    def until_the_manifest(path: Location, content: bytes) -> None:
        if path.name == MANIFEST:
            raise RuntimeError("killed")
        write_bytes(path, content)

    with monkeypatch.context() as killed:
        killed.setattr(module, "write_bytes", until_the_manifest)
        with pytest.raises(RuntimeError, match="killed"):
            preprocess(cfg)
    assert (output / INDEX).exists() and validate_data(output)["damage"]
    preprocess(cfg)
    assert files_of(output) == whole
