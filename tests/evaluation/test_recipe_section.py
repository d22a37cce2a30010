"""Sections of the report about the recipe, the cost, the domains and the statistics, from reports and settings alone."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from hyena_glt.config import config_from_dict
from hyena_glt.evaluation.cost import cost, duration, in_words
from hyena_glt.evaluation.domains_section import domains
from hyena_glt.evaluation.heat_map import MAX_COLUMNS, heat_map
from hyena_glt.evaluation.panels import Band, band_lanes, short_rate
from hyena_glt.evaluation.recipe_section import recipe
from hyena_glt.evaluation.run_folder import Run
from hyena_glt.evaluation.statistics_section import statistics
from hyena_glt.training.checkpoint import Progress

START = {"kind": "start", "step": 0, "world_size": 2, "global_rows": 8, "num_rows": 80, "width": 64, "padding_share": 0.0, "device": "cpu"}
RECIPE = {
    "training": {"max_steps": 40, "learning_rate": 1e-3, "batch_size": 4, "stages": [
        {"name": "initial learning", "steps": 20, "warmup_steps": 5, "batch_ramp": [0.5, 1]},
        {"name": "fine-tuning", "learning_rate": 1e-4, "schedule": "cosine", "dropout": 0.1},
    ]},
    "curriculum": {"sequence_length": {"values": [16, 64], "at": [1], "by": "plateau"},
                   "mask_probability": {"values": [0.3, 0.15], "at": [30], "by": "step"}},
}


def run(settings, *reports, **progress):
    return Run(Path("run"), config_from_dict(settings), list(reports), {}, [], Progress(**progress))


def train(step, **figures):
    return {"kind": "train", "step": step, "total_steps": 40, "tokens": 512 * step, "elapsed_s": 3.0 * step} | figures


def end(step=40, reason="finished"):
    return {"kind": "end", "step": step, "total_steps": 40, "tokens": 512 * step, "elapsed_s": 3.0 * step, "reason": reason}


def texts(svg):
    return [node.text for node in ElementTree.fromstring(svg).iter() if node.tag.endswith("text")]


def cells(page):
    return [re.findall("<td[^>]*>([^<]*)</td>", row) for row in re.findall("<tr.*?</tr>", page)[1:]]


def test_the_table_has_a_row_for_each_change():
    page = recipe(run(RECIPE, START, train(40), end(), moves={"sequence_length": [25]}))
    assert cells(page) == [
        ["0", "0.00", "initial learning", "1e-3, constant, warm-up of 5 steps", "4", "16", "0", "30 %"],
        ["10", "0.50", "initial learning", "1e-3, constant, warm-up of 5 steps", "8", "16", "0", "30 %"],
        ["20", "1.50", "fine-tuning", "1e-4, cosine to 1e-5", "8", "16", "0.1", "30 %"],
        ["25", "2.00", "fine-tuning", "1e-4, cosine to 1e-5", "8", "64", "0.1", "30 %"],
        ["30", "2.50", "fine-tuning", "1e-4, cosine to 1e-5", "8", "64", "0.1", "15 %"],
    ]
    assert page.count("<td class=muted>") == 5 + 3 + 5 + 5, "what stays as it was steps back"


def test_the_picture_names_stages_panels_and_events():
    back = {"kind": "warning", "step": 35, "message": "", "event": "rolled_back", "back_to": 30}
    skipped = {"kind": "warning", "step": 38, "message": "", "event": "skipped"}
    page = recipe(run(RECIPE, START, train(40), end(), back, skipped, moves={"sequence_length": [25]}))
    found = " ".join(texts(page[page.index("<svg") : page.index("</svg>") + 6]))
    for name in ("initial learning", "fine-tuning", "rate", "a step", "a row", "dropout", "hidden", "validation stopped falling",
                 "back to a checkpoint", "step left out", "optimizer steps"):
        assert name in found, name
    assert "where the run stands" not in found and "easiest" not in found and "what is planned" not in page


def test_an_unfinished_run_shows_its_plan():
    page = recipe(run(RECIPE, START, train(10)))
    assert "where the run stands" in page and "what is planned" in page and len(cells(page)) == 4
    stopped = recipe(run(RECIPE, START, train(25), end(25, "early_stopping")))
    assert "where the run stands" not in stopped and [row[0] for row in cells(stopped)] == ["0", "10", "20"]


def test_a_run_that_went_on_with_other_limits_shows_what_ran():
    logged = [train(10, learning_rate=1e-3), train(30, learning_rate=9e-5)]
    page = recipe(run(RECIPE, START, *logged))
    assert "as it ran" in page and ">planned<" in page
    assert "as it ran" not in recipe(run(RECIPE, START, train(10, learning_rate=1e-3)))


def test_no_recipe():
    plain = {"training": {"max_steps": 40, "warmup_steps": 5}}
    assert recipe(run(plain, START | {"global_rows": 64}, train(40), end())) is None
    assert recipe(run(RECIPE, {"kind": "start", "step": 0}, train(40))) is None, "the plan is not known"
    assert recipe(run(RECIPE, START | {"global_rows": 7}, train(40))) is None, "config.yaml is of another start"


def test_names_of_short_stages_do_not_run_into_each_other():
    wide, short = Band("wide", 0, 900), [Band(f"a stage with a long name {n}", 900 + 10 * n, 910 + 10 * n) for n in range(3)]
    assert band_lanes([wide, *short], 1000) == [0, 0, 1, 2]
    assert band_lanes([Band("a", 0, 500), Band("b", 500, 1000)], 1000) == [0, 0]


@pytest.mark.parametrize("value, expected", [(5e-4, "5e-4"), (1.25e-3, "1.25e-3"), (0.02, "0.02"), (0, "0"), (1500, "1.5k")])
def test_short_rates(value, expected):
    assert short_rate(value, 0) == expected


def test_cost():
    ended = cost(run(RECIPE, START, train(40), end()))
    assert (ended.device, ended.devices, ended.hours, ended.hours_left) == ("CPU", 2, pytest.approx(240 / 3600), None)
    assert in_words(ended) == "0.0667 CPU-hours on 2 CPUs: 307k tokens per CPU-hour, with the time for starting, evaluating and saving."
    open_end = cost(run(RECIPE, START | {"device": "NVIDIA H100"}, train(10)))
    assert open_end.hours_left == pytest.approx(open_end.hours * 240 / 40), "10 of 40 steps, but 40 of 280 rows"
    assert in_words(open_end).endswith("The 30 steps that are left will take about 0.1 GPU-hours at this pace, 3 min.")
    assert cost(run(RECIPE, START, end(20, "interrupted"))).hours_left > 0
    assert cost(run({}, START, {"kind": "train", "step": 1})) is None


@pytest.mark.parametrize("seconds, expected", [(61, "61 s"), (3600, "60 min"), (9000, "2 h 30 min")])
def test_durations(seconds, expected):
    assert duration(seconds) == expected


def test_domains():
    reports = [
        train(20, **{"tokens/human": 300, "tokens/mouse": 100}), {"kind": "eval", "step": 20, "loss/human": 1.2, "loss/mouse": 1.3},
        train(40, **{"tokens/human": 600, "tokens/mouse": 200}), {"kind": "eval", "step": 40, "loss/human": 1.25, "loss/mouse": 1.1},
    ]
    page = domains(run({}, START, *reports))
    assert cells(page) == [["human", "600", "75 %", "1.2500", "1.2000 at step 20"], ["mouse", "200", "25 %", "1.1000", "1.1000 at step 40"]]
    assert page.count("<svg ") == 2 and "Validation loss by domain" in page
    assert domains(run({}, START, *reports[::2])).count("<svg ") == 1, "no validation"
    assert domains(run({}, START, train(40))) is None


def test_statistics():
    figures = {f"{name}/{part}": 1.0 for name in ("grad_norm", "weight_norm") for part in ("norm", "block_10", "block_2", "embedding")}
    activations = {"activation_rms/block_2": 0.5, "activation_rms/block_10": float("nan")}
    page = statistics(run({}, START, *({"kind": "statistics", "step": step} | figures | activations for step in (10, 20))))
    assert page.count("<svg ") == 3 and "largest magnitude" not in page
    names = texts(page[page.index("<svg") : page.index("</svg>") + 6])
    parts = ["embedding", "block 2", "block 10", "norm"]
    assert [name for name in names if name in parts] == parts
    assert statistics(run({}, START, train(40))) is None


def test_a_long_heat_map_stays_small():
    steps = np.arange(1, 50 * MAX_COLUMNS)
    values = np.exp(np.random.default_rng(0).normal(size=(64, len(steps))))
    assert len(heat_map([f"block {n}" for n in range(64)], steps, values)) < 400_000
