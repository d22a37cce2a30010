"""`make quickstart` keeps what the README says of it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hyena_glt.training.metrics import METRICS_FILE, last_reports

ROOT = Path(__file__).parents[2]


@pytest.mark.long
def test_quickstart(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.quickstart", "--output_dir", str(tmp_path)], cwd=tmp_path, capture_output=True, text=True,
        timeout=290, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    evaluation = json.loads((tmp_path / "run" / "evaluation.json").read_text())[0]
    train = last_reports(tmp_path / "run" / METRICS_FILE)["train"]
    page = (tmp_path / "report" / "report.html").read_text()

    assert train["bits_per_base"] < 1.98
    assert evaluation["bits_per_base"] < evaluation["baselines"]["markov_0"]
    assert evaluation["baselines"].keys() == {"uniform", *(f"markov_{order}" for order in range(9))}
    assert 0 in evaluation["beats"]
    assert page.count("<svg") >= 3 and f"{evaluation['bits_per_base']:.3f}" in page
    for place in ("data", "run", "report/report.html"):
        assert str(tmp_path / place) in done.stdout and (tmp_path / place).exists()
    assert "hyena-glt pretrain" in done.stdout
    assert not re.search(r"\(pid=|WARNING|raylet", done.stderr), done.stderr
