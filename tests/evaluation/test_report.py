"""The report's words and pictures."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from hyena_glt.config import config_from_dict
from hyena_glt.evaluation.figures import MAX_POINTS, Level, Series, curves, gains
from hyena_glt.evaluation.parts import flatten, table
from hyena_glt.evaluation.report import verdict
from hyena_glt.evaluation.run_folder import Run

BASELINES = {"uniform": 2.0, "markov_0": 1.99, "markov_1": 1.95, "markov_2": 1.9}


def run_with(tmp_path, **evaluation):
    settings = config_from_dict({"tokenization": {"kind": "char"}})
    report = {"kind": "eval", "step": 50, "loss": 1.38}
    return Run(tmp_path, settings, [report], {}, [evaluation] if evaluation else [])


@pytest.mark.parametrize(
    ("bits", "beats", "expected"),
    [
        (1.85, ["uniform", 0, 1, 2], "1.8500 bits per base on held-out windows, 0.0500 below the best baseline, Markov order 2 (1.9000). "
                                     "The model beats uniform guessing and Markov models of every order from 0 to 2."),
        (1.94, ["uniform", 0, 1], "1.9400 bits per base on held-out windows, 0.0400 above the best baseline, Markov order 2 (1.9000). "
                                  "The model beats uniform guessing and Markov models of order 0, 1."),
        (2.5, [], "2.5000 bits per base on held-out windows, 0.6000 above the best baseline, Markov order 2 (1.9000). "
                  "The model beats no baseline yet."),
    ],
)
def test_verdict(tmp_path, bits, beats, expected):
    evaluation = {"bits_per_base": bits, "baselines": BASELINES, "beats": beats, "metrics": {}}
    assert verdict(run_with(tmp_path, **evaluation), evaluation) == expected


def test_verdict_without_bits_baselines_or_evaluation(tmp_path):
    run = run_with(tmp_path)
    assert verdict(run, None) == "Not evaluated on held-out data yet; the last validation loss was 1.3800 nats per token at step 50."
    hidden = {"bits_per_base": None, "baselines": BASELINES, "beats": [], "metrics": {"mlm_accuracy": 0.31}}
    assert verdict(run, hidden).endswith("no bits per base: 31.0% of hidden bases are predicted right.")
    alone = {"bits_per_base": 1.9, "baselines": {}, "beats": [], "metrics": {}}
    assert verdict(run, alone) == "1.9000 bits per base on held-out windows; there are no baselines to compare with."


def test_pictures_are_svg_without_colours_of_their_own():
    lines = [Series("training", [1, 2, 3], [2.5, 2.0, 1.9]), Series("validation", [2, 3], [2.1, 1.95], dots=True)]
    svg = curves(lines, x_label="steps", y_label="bits", levels=[Level("uniform", 2.0)])
    texts = {node.text for node in ElementTree.fromstring(svg).iter() if node.tag.endswith("text")}
    assert {"training", "validation", "uniform", "steps", "bits"} <= texts
    assert "var(--first)" in svg and "#0" not in svg
    bars = gains(["uniform", "this model"], [2.0, 1.9], 2.0, "this model", unit="base")
    texts = {node.text for node in ElementTree.fromstring(bars).iter() if node.tag.endswith("text")}
    assert {"uniform", "this model", "2.000", "1.900"} <= texts


def test_long_runs_are_thinned():
    points = list(range(100_000))
    short, long = (curves([Series("", p, p)], x_label="", y_label="") for p in (points[:MAX_POINTS], points))
    assert len(long) < 1.5 * len(short)


def test_cells_are_escaped_and_json_is_flattened():
    assert "<td>&lt;b&gt;</td>" in table(["a"], [("<b>",)])
    assert flatten({"a": {"b": 1}, "c": [1, "x"], "d": [{"e": None}]}) == [("a.b", "1"), ("c", "1, x"), ("d.0.e", "None")]
