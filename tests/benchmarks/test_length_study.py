"""The study of lengths and rates: its table of records whose answer is known, and the comparison at equal time, tiny, on CPUs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.equal_time import training_seconds
from tests.tiny_run import write_lambda_data

ROOT = Path(__file__).parents[2]
TINY = [
    "model.hidden_size=16", "model.num_layers=2", "model.num_attention_heads=2", "model.mixers=[se,li]", "model.max_position_embeddings=64",
    "data.sequence_length=64", "data.max_shift=0", "training.eval_max_rows=8", "cluster.num_cpus=3", "cluster.train_workers=1",
    "hardware.num_workers=0",
]


def study(*words: str) -> None:
    command = [sys.executable, str(ROOT / "tests/benchmarks/length_study.py"), *words]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


def record(seed: int, bits: float, seconds: float, **settings: object) -> dict[str, object]:
    return {
        "settings": {**settings, "training.seed": seed}, "status": "finished", "error": None, "tokens": 2_000_000, "device": "cpu",
        "parameters": 1000, "tokens_per_s": 1.0, "training_s": seconds,
        "curve": [[seconds, 1_000_000, 3.0], [2 * seconds, 2_000_000, bits]],  # with compiling and validation
    }


def lengths(values: list[int], seconds: float, *bits: float) -> list[dict[str, object]]:
    return [record(seed, value, seconds, **{"curriculum.sequence_length.values": values}) for seed, value in enumerate(bits)]


def test_the_table_compares_seed_by_seed_and_says_where_times_differ(tmp_path: Path) -> None:
    arms = [*lengths([8, 8, 8, 8], 10.0, 1.5, 1.7, 1.9), *lengths([1, 2, 4, 8], 10.2, 1.6, 1.8, 2.0)]
    rates = [record(seed, bits + seed / 10, 5.0, **{"training.learning_rate": rate})
             for rate, bits in ((0.008, 1.5), (0.016, 1.3)) for seed in (0, 1, 2)]
    rates[-1]["status"] = "failed"
    (tmp_path / "length_study.json").write_text(json.dumps({"lengths_chr20": arms, "rates_large": []}))
    (tmp_path / "out").mkdir()
    for name, found in {"time_chr20": arms, "time_bacteria": [*arms[:3], *lengths([1, 2, 4, 8], 12.0, 1.6)], "rates_large": rates}.items():
        (tmp_path / "out" / f"{name}.json").write_text(json.dumps(found))
    study("table", str(tmp_path / "out"), "--results", str(tmp_path))
    page = (tmp_path / "length_study.md").read_text()
    # Student's t for three values 0.2 apart: 4.3027 * 0.2 / sqrt(3).
    for took in ("20, 20, 20", "10, 10, 10"):  # at equal tokens everything, at equal time the training
        assert page.count(f"| 8 | 3 | 1.7000 ± 0.4968 | - | 2.0 | {took} |\n| 1-2-4-8 | 3 | 1.8000 ± 0.4968 | 0.1000 ± 0.0000 |") == 1
    assert "The slowest arm trained 2.0% longer than the fastest (means of the seeds).\n" in page
    assert "The slowest arm trained 20.0% longer than the fastest (means of the seeds), more than 5%: **this is no comparison" in page
    assert "| 0.008 | 3 | 1.6000 ± 0.2484 | 0.2000 ± 0.0000 | 0 |\n| 0.016 | 2 | 1.3500 ± 0.6353 | - | 1 |" in page
    assert page.index("Lengths at equal tokens, chr20") < page.index("Lengths at equal time, bacteria")
    assert "Not run: lengths_bacteria, rates_small." in page


def test_compiling_is_not_training() -> None:
    """Four quarters of three lines of 5 steps, a second a step but for the first line after a new length."""
    rates = [100 / 5, 100 / 30, 20, 20, 20, 100 / 30, 20, 20, 20, 20, 20, 20]
    lines = [{"step": 5 * number, "tokens": 100 * number, "tokens_per_s": rate} for number, rate in enumerate(rates, 1)]
    assert training_seconds(lines) == pytest.approx(60)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_all_arms_train_at_once_for_the_same_time(tmp_path: Path) -> None:
    write_lambda_data(tmp_path / "chr20", {"kind": "char"}, max_length=64)
    words = ["run", str(tmp_path), str(tmp_path / "out"), "--sweeps", "time_chr20", "--seconds", "10", "--seeds", "1", "--set", *TINY]
    study(*words)
    trials = json.loads((tmp_path / "out/time_chr20.json").read_text())
    steps = json.loads((tmp_path / "out/time_chr20/steps.json").read_text())
    assert [one["status"] for one in trials] == ["finished"] * 3 and set(steps) == {"short", "curriculum", "full"}
    assert {tuple(one["settings"]["curriculum.sequence_length.values"]) for one in trials} == {(8,) * 4, (8, 16, 32, 64), (64,) * 4}
    assert all(len(one["curve"]) == 4 for one in trials), "each arm validates at the quarters of its steps"
    assert all(0 < one["training_s"] < one["curve"][-1][0] for one in trials), "validation is left out"
    before = (tmp_path / "out/time_chr20/full/trials/000/metrics.jsonl").stat().st_mtime_ns
    study(*words)
    assert (tmp_path / "out/time_chr20/full/trials/000/metrics.jsonl").stat().st_mtime_ns == before
    study("table", str(tmp_path / "out"), "--results", str(tmp_path))
    assert "## Lengths at equal time, chr20" in (tmp_path / "length_study.md").read_text()
