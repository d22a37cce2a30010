"""What pages of results show of a command."""

from __future__ import annotations

import pytest

from tests.benchmarks.page import shown


@pytest.mark.parametrize(("words", "text"), [
    (["python", "a.py", "/w/data/20.fa.gz", "--out", "/o"], "python a.py .../20.fa.gz --out .../o"),
    (["a", "data.train_path=[/w/a,/w/b]", "x=/w/c"], "a 'data.train_path=[.../a,.../b]' x=.../c"),
    (["a", "s3://bucket/data", "tests/b.py", "16 / 2"], "a s3://bucket/data tests/b.py '16 / 2'"),
])
def test_folders_of_the_machine_are_cut_off(words: list[str], text: str) -> None:
    assert shown(words) == text
