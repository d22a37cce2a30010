"""Leakage of stored rows: what was copied into val on purpose is found, and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hyena_glt.config import TokenizationConfig
from hyena_glt.data.dataset import open_rows
from hyena_glt.dna import reverse_complement
from hyena_glt.evaluation.data_leakage import SplitLeakage, measure_leakage
from tests.data.small_folder import CHAR, random_letters, write_folder

TRAIN = random_letters(12_000, seed=1)
NEW = random_letters(12_000, seed=2)


def leakage(
    tmp_path: Path, val: bytes, *, max_length: int = 300, max_rows: int = 1000, tokenization: TokenizationConfig = CHAR
) -> SplitLeakage:
    folder = write_folder(
        tmp_path / "out", {"a": TRAIN, "val": val}, max_length=max_length, rows_per_group=9, rows_per_shard=25, tokenization=tokenization
    )
    train, held_out = (open_rows(str(folder), split) for split in ("train", "val"))
    return measure_leakage(train, {"val": held_out}, max_rows, lambda rows: None)["val"]


@pytest.mark.parametrize("copy", [TRAIN[3000:6000], reverse_complement(TRAIN[3000:6000])], ids=["same strand", "other strand"])
def test_copied_windows(tmp_path, copy):
    found = leakage(tmp_path, NEW[:3000] + copy)
    assert (found.rows, found.exact_rows, found.shares.near_duplicate_share) == (20, 10, 0.5)
    assert found.shares.kmer_share == pytest.approx(0.5, abs=0.05)
    assert (found.shares.half_found_share, found.shares.mostly_found_share) == (0.5, 0.5)
    assert found.worst[0] == ("val:3,001-3,300", 1.0)


def test_nothing_in_common(tmp_path):
    found = leakage(tmp_path, NEW[:3000])
    assert (found.exact_rows, found.shares.kmer_share, found.shares.near_duplicate_share) == (0, 0.0, 0.0)


@pytest.mark.parametrize("tokenization", [CHAR, TokenizationConfig(kind="kmer", kmer_size=4)], ids=["char", "kmer"])
def test_kmers_across_the_cuts_of_train_are_found(tmp_path, tokenization):
    found = leakage(tmp_path, TRAIN[3007:5007], max_length=40, tokenization=tokenization)
    assert found.exact_rows == 0
    # Only what crosses from one row group to the next is lost.
    assert found.shares.kmer_share > 0.9 and found.shares.scale == 1


def test_changed_bases(tmp_path):
    changed = bytearray(TRAIN[:6000])
    for place in np.random.default_rng(0).choice(6000, 30, replace=False):
        changed[place] = ord("A") if changed[place] != ord("A") else ord("C")
    found = leakage(tmp_path, bytes(changed))
    assert found.exact_rows < 12 and 0.8 < found.shares.kmer_share < 0.95 and 0.05 < found.shares.near_duplicate_share


def test_some_rows_stand_for_all(tmp_path):
    found = leakage(tmp_path, NEW[:6000] + TRAIN[:6000], max_rows=8)
    assert (found.rows, found.shares.windows, found.exact_rows) == (8, 8, 4)
