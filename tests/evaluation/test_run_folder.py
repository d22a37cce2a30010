"""Reading a run folder: resumed runs, evaluations that replace each other, and folders that are no run."""

from __future__ import annotations

import json

import pytest

from hyena_glt.config import config_from_dict
from hyena_glt.errors import CheckpointError
from hyena_glt.evaluation.run_folder import Run, read_evaluations, read_run, reports_that_count, run_folder_of, save_evaluation


def test_a_resumed_run_takes_back_what_lay_beyond_its_start():
    written = [
        {"kind": "start", "step": 0}, {"kind": "train", "step": 10, "loss": 3.0}, {"kind": "eval", "step": 10, "loss": 3.1},
        {"kind": "train", "step": 20, "loss": 2.0}, {"kind": "train", "step": 25, "loss": 1.9}, {"kind": "end", "step": 10},
        {"kind": "start", "step": 10}, {"kind": "train", "step": 20, "loss": 2.5}, {"kind": "train", "step": 30, "loss": 2.4},
    ]
    kept = [(r["kind"], r["step"], r.get("loss")) for r in reports_that_count(written)]
    assert kept == [
        ("start", 0, None), ("train", 10, 3.0), ("eval", 10, 3.1), ("start", 10, None), ("train", 20, 2.5), ("train", 30, 2.4),
    ]


def test_of_two_reports_for_a_step_the_later_wins():
    assert reports_that_count([{"kind": "train", "step": 5, "loss": 1.0}, {"kind": "train", "step": 5, "loss": 2.0}]) == [
        {"kind": "train", "step": 5, "loss": 2.0}
    ]


def test_warnings_of_one_step_all_stay():
    warnings = [{"kind": "warning", "step": 5, "message": message} for message in ("a", "b", "a")]
    assert reports_that_count(warnings) == warnings[:2]


def test_the_roll_back_that_led_to_a_start_stays():
    back = {"kind": "warning", "step": 15, "message": "a spike", "event": "rolled_back", "back_to": 10}
    written = [
        {"kind": "start", "step": 0}, {"kind": "train", "step": 12, "loss": 3.0}, {"kind": "warning", "step": 12, "message": "a"}, back,
        {"kind": "start", "step": 10}, {"kind": "train", "step": 11, "loss": 2.0},
    ]
    assert [report["step"] for report in reports_that_count(written)] == [0, 10, 11, 15] and back in reports_that_count(written)


def test_a_line_cut_short_is_left_out(tmp_path):
    (tmp_path / "config.yaml").write_text("{}")
    whole = {"kind": "train", "step": 5, "loss": 1.0}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(whole) + '\n{"kind": "train", "step": 10, "lo')
    assert read_run(tmp_path).reports == [whole]


def test_run_folder_is_found_from_inside(tmp_path):
    step = tmp_path / "checkpoints" / "step_00000005"
    step.mkdir(parents=True)
    (tmp_path / "metrics.jsonl").touch()
    (tmp_path / "config.yaml").write_text("{}")
    for path in (tmp_path, tmp_path / "checkpoints", step, tmp_path / "checkpoints" / "latest"):
        assert run_folder_of(path) == tmp_path
    with pytest.raises(CheckpointError, match=r"metrics.jsonl holds no report yet; wait for the run's first step"):
        read_run(tmp_path)


def test_no_run(tmp_path):
    empty = tmp_path / "a" / "b" / "c"
    empty.mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"no run at .*c: neither it nor the two folders above hold metrics.jsonl and config.yaml"):
        read_run(empty)


def test_an_evaluation_replaces_the_one_of_the_same_subject(tmp_path):
    checkpoint = tmp_path / "checkpoints" / "step_00000005"
    first = {"checkpoint": "c", "data": "d", "metrics": {"loss": 1.0, "accuracy": 0.5}}
    other = first | {"data": "e"}
    again = first | {"metrics": {"accuracy": 0.6, "loss": 0.9}}
    for entry in (first, other, again):
        assert save_evaluation(checkpoint, entry) == tmp_path / "evaluation.json"
    assert read_evaluations(tmp_path) == [other, again]


def test_a_checkpoint_without_a_run_keeps_its_evaluation_beside_it(tmp_path):
    assert save_evaluation(tmp_path, {"checkpoint": "c", "data": "d", "metrics": {}}) == tmp_path / "evaluation.json"


def test_metrics_of_one_checkpoint_and_data_come_together(tmp_path):
    entry = {"checkpoint": "c", "data": "d", "metrics": {"loss": 1.0}, "notes": []}
    run = Run(tmp_path, config_from_dict({}), [], {}, [
        entry, entry | {"checkpoint": "old", "metrics": {"accuracy": 0.1}}, entry | {"metrics": {"bleu": 3.0}, "notes": ["on 8 windows"]},
    ])
    assert run.evaluation == {"checkpoint": "c", "data": "d", "metrics": {"loss": 1.0, "bleu": 3.0}, "notes": ["on 8 windows"]}
    assert Run(tmp_path, config_from_dict({}), [], {}, []).evaluation is None
