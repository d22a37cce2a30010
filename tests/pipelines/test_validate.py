"""`validate-data`: damage first; of whole data their numbers, and the page where it is asked for."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from hyena_glt.cli import main
from pipelines.validate import validate_data
from tests.data.small_folder import random_letters, write_folder


@pytest.fixture
def folder(tmp_path) -> Path:
    letters = random_letters(4000)
    return write_folder(tmp_path / "out", {"a": letters, "val": letters[:500] + random_letters(500, seed=1)}, max_length=100)


def test_whole_data(folder, tmp_path, caplog):
    caplog.set_level(logging.INFO, "pipelines")
    result = validate_data(folder, output_dir=tmp_path / "new" / "report")
    assert (result["path"], result["files"], result["rows"], result["damage"]) == (str(folder), 2, 50, [])
    assert result["splits"]["train"]["rows"] == 40 and result["leakage"]["val"]["exact_rows"] == 5
    assert result["report"] == str(tmp_path / "new" / "report" / "data_report.html")
    assert Path(result["report"]).read_text(encoding="utf-8").startswith("<!doctype html>")
    assert [record.message.partition(":")[0] for record in caplog.records] == ["train", "val", "val in train"]
    json.dumps(result)


def test_without_a_page_nothing_is_written(folder):
    before = sorted(folder.rglob("*"))
    result = validate_data(folder / "val", max_rows=7)
    assert "report" not in result and result["splits"]["train"]["rows_looked_at"] == 7
    assert sorted(folder.rglob("*")) == before


def test_damaged_data_get_no_page(folder, tmp_path, caplog):
    (folder / "notes.txt").touch()
    result = validate_data(folder, output_dir=tmp_path / "report")
    assert result == {"path": str(folder), "files": 2, "rows": 50, "damage": [f"{folder / 'notes.txt'}: is not in the manifest; remove it"]}
    assert not (tmp_path / "report").exists() and "no report is written of damaged data" in caplog.text


def test_nothing_held_out(tmp_path):
    result = validate_data(write_folder(tmp_path / "out", {"a": random_letters(300)}, max_length=100))
    assert result["leakage"] == {} and list(result["splits"]) == ["train"]


def test_command(folder, tmp_path, capsys):
    assert main(["validate-data", "--data_path", str(folder), "--output_dir", str(tmp_path / "r"), "--max_rows", "5"]) == 0
    out, _ = capsys.readouterr()
    result = json.loads(out.splitlines()[-1])
    assert result["splits"]["val"]["rows_looked_at"] == 5 and Path(result["report"]).is_file()
    assert main(["validate-data", str(folder), "--max_rows", "0"]) == 2
    assert capsys.readouterr().err == "error: --max_rows must be a whole number above 0, got 0\n"
