"""A sweep's table, importances and page, from a made folder whose answer is known: the rate decides, the decay does nothing."""

from __future__ import annotations

import json
import math
import random
import re

import pyarrow.parquet as pq
import pytest

from hyena_glt.config import dump_config, load_config
from hyena_glt.evaluation import sweep_importance
from hyena_glt.evaluation.sweep_folder import SPACE_FILE, Sweep, read_sweep, write_parquet
from hyena_glt.evaluation.sweep_page import render
from hyena_glt.training.metrics import METRICS_FILE
from hyena_glt.training.trials import Trial, run_folder, spent, write_trial

DOMAINS = {
    "training.learning_rate": ["loguniform", 1e-5, 1e-1], "training.weight_decay": ["choice", 0.0, 0.1],
    "model.mixers": ["choice", ["se", "li"], ["hyena"]],
}
RESULT = {"tokens": 1, "device_hours": 0.5, "share_of_full_grid": 0.25, "best_config": "/s/best.yaml", "ended_by": None}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Twenty trials, the last without a validation."""
    folder, draw = tmp_path_factory.mktemp("sweep"), random.Random(0)
    space = {"settings": DOMAINS, "search": "random", "num_trials": 20, "metric": "val_loss", "scheduler": {"kind": "asha"}}
    (folder / SPACE_FILE).write_text(json.dumps(space))
    for number in range(20):
        rate = 10 ** draw.uniform(-5, -1)
        settings = {
            "training.learning_rate": rate, "training.weight_decay": draw.choice([0.0, 0.1]),
            "model.mixers": draw.choice([["se", "li"], ["hyena"]]),
        }
        failed, looks = number == 19, 4 if number % 4 == 0 else 1
        trial = Trial(
            id=f"{number:03d}", settings=settings, status="failed" if failed else "finished" if looks == 4 else "stopped",
            error="the <loss> is nan" if failed else None,
        )
        write_trial(folder, trial)
        run = run_folder(folder, trial.id)
        run.mkdir(parents=True)
        (run / "config.yaml").write_text(dump_config(load_config()))
        reports = [{"kind": "start", "step": 0, "tokens": 0, "elapsed_s": 0.0, "device": "cpu", "world_size": 2, "total_steps": 40}]
        for look in range(1, 1 if failed else looks + 1):
            loss = 1.4 + 0.2 * abs(math.log10(rate) + 4) + 0.4 / look
            reports.append({
                "kind": "eval", "step": 10 * look, "tokens": 100 * look, "elapsed_s": 9.0 * look, "total_steps": 40, "loss": loss
            })
        (run / METRICS_FILE).write_text("".join(json.dumps(report) + "\n" for report in reports))
    return read_sweep(folder)


def test_the_best_is_a_finished_one(sweep: Sweep) -> None:
    finished = [row for row in sweep.rows if row.status == "finished"]
    assert sweep.best() == min(finished, key=lambda row: row.best_value or 9.0)
    assert sweep.counts() == {"finished": 5, "stopped": 14, "failed": 1}


def test_the_table(sweep: Sweep) -> None:
    rows = pq.read_table(write_parquet(sweep)).to_pylist()
    assert rows[0]["step"] == 40 and rows[0]["device_hours"] == pytest.approx(4 * 9 * 2 / 3600) and rows[0]["best_step"] == 40
    assert json.loads(rows[0]["model.mixers"]) in (["se", "li"], ["hyena"])
    assert rows[19]["val_loss"] is None and rows[19]["error"] == "the <loss> is nan" and rows[0]["error"] is None


@pytest.mark.parametrize("with_optuna", [True, False])
def test_importances_find_what_decided(sweep: Sweep, with_optuna: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not with_optuna:
        monkeypatch.setattr(sweep_importance, "find_spec", lambda name: None)
    found, how = sweep_importance.importance(sweep)
    assert next(iter(found)) == "training.learning_rate" and sum(found.values()) == pytest.approx(1)
    assert how == (sweep_importance.BY_OPTUNA if with_optuna else sweep_importance.BY_RANKS)


def test_the_page(sweep: Sweep) -> None:
    page = render(sweep, RESULT)
    best = sweep.best()
    assert best is not None and f"Trial {best.id} is the best of 20: val_loss {best.best_value:.4f}" in page
    assert page.count("<svg") == 3 and "Trial 019 failed: the &lt;loss&gt; is nan" in page and "<loss>" not in page
    ids = re.findall(r"<tr[^>]*><td>(\d{3})</td>", page)
    assert len(ids) == 20 and ids[-1] == "019"
    assert "ended early: tune.max_hours is used up" in render(sweep, RESULT | {"ended_by": "tune.max_hours is used up"})


def test_what_was_spent_counts_what_was_thrown_away() -> None:
    def report(kind: str, step: int, seconds: float) -> dict[str, object]:
        return {"kind": kind, "step": step, "tokens": 10 * step, "elapsed_s": seconds}

    adopted = {"kind": "adopted", "step": 4}
    first = [report("start", 0, 0.0), report("train", 4, 2.0), report("train", 7, 4.0)]
    assert spent([]) == (0, 0, 0.0)
    assert spent([*first, adopted, report("start", 4, 1.5), report("eval", 9, 3.5)]) == (7 + 5, 120, 4.0 + 2.0)
    assert spent([*first, report("start", 4, 2.0), report("end", 6, 3.0)]) == (7 + 2, 90, 4.0 + 1.0)
