"""The command line: what each command hands to its pipeline, what it prints, how it exits. The pipelines have their own tests."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from unittest.mock import create_autospec

import pytest

from hyena_glt.cli import COMMANDS, main
from hyena_glt.config import Config, dump_config, load_config
from hyena_glt.errors import CheckpointError, ConfigError, DataError

ROOT = Path(__file__).parents[1]


@pytest.fixture
def pipeline(monkeypatch):
    """Put a stand-in with the real signature in a pipeline's place."""

    def stand_in(module: str, name: str, outcome: dict | BaseException):
        home = importlib.import_module(f"pipelines.{module}")
        function = create_autospec(
            getattr(home, name), **{"side_effect" if isinstance(outcome, BaseException) else "return_value": outcome}
        )
        monkeypatch.setattr(home, name, function)
        return function

    return stand_in


def run(capsys, *argv: str) -> tuple[int, dict, list[str]]:
    """Exit status, the JSON on the last line of stdout ({} where there is nothing), the lines of stderr."""
    status = main(argv)
    out, err = capsys.readouterr()
    return status, json.loads(out.splitlines()[-1]) if out else {}, err.splitlines()


# What reaches the pipelines


@pytest.mark.parametrize("flag", ["--input_path", "--in"])
def test_abbreviated_and_unknown_flags_are_refused(capsys, flag):
    assert run(capsys, "preprocess", flag, "a.fa")[0] == 2


def test_preprocess(pipeline, capsys):
    called = pipeline("preprocess", "preprocess", {"status": "ok", "rows": 3})
    argv = ["preprocess", "--input", "data/[1]: *.fa", "small_model.yaml", "--output", "null", "output.chunk_size=7", "--dry-run"]
    assert run(capsys, *argv) == (0, {"status": "ok", "rows": 3}, [])
    wanted = load_config("small_model.yaml", ['preprocessing.input_path="data/[1]: *.fa"', 'output.path="null"', "output.chunk_size=7"])
    called.assert_called_once_with(wanted, dry_run=True)
    assert (wanted.preprocessing.input_path, wanted.output.path) == ("data/[1]: *.fa", "null")


@pytest.mark.parametrize("flags", [["--config", "small_model.yaml", "--output_dir", "runs/é"], ["small_model.yaml", "--output-dir=runs/é"]])
def test_pretrain(pipeline, capsys, flags):
    called = pipeline("pretrain", "pretrain", {"status": "ok"})
    assert run(capsys, "pretrain", *flags, "training.seed=5")[0] == 0
    called.assert_called_once_with(
        load_config("small_model.yaml", ["training.output_dir=runs/é", "training.seed=5"]),
        init_only=False, dry_run=False, probe_steps=None,
    )


def test_pretrain_init_only_without_a_file(pipeline, capsys):
    called = pipeline("pretrain", "pretrain", {"parameters": 9})
    assert run(capsys, "pretrain", "--mode", "init_only", "model.num_layers=2")[:2] == (0, {"parameters": 9})
    called.assert_called_once_with(load_config(overrides=["model.num_layers=2"]), init_only=True, dry_run=False, probe_steps=None)


def test_evaluate(pipeline, capsys):
    called = pipeline("evaluate", "evaluate", {"loss": 1.5})
    argv = [
        "--model_path",
        "checkpoints/epoch_50/",
        "--eval_data",
        "data/test",
        "--metrics",
        "mlm_accuracy,perplexity",
        "training.batch_size=2",
    ]
    assert run(capsys, "evaluate", *argv)[:2] == (0, {"loss": 1.5})
    wanted = {
        "eval_data": "data/test",
        "metrics": ("mlm_accuracy", "perplexity"),
        "overrides": ("training.batch_size=2",),
        "dry_run": False,
    }
    called.assert_called_once_with("checkpoints/epoch_50/", **wanted)


def test_embed(pipeline, capsys):
    called = pipeline("embed", "embed", {"vectors": 3})
    argv = ["runs/a", "--input", "a.fa", "--output_dir", "out", "--per", "window", "--batch_size", "4", "cluster.num_cpus=2"]
    assert run(capsys, "embed", *argv)[:2] == (0, {"vectors": 3})
    called.assert_called_once_with(
        "runs/a", sequences="a.fa", output_dir="out", per="window", batch_size=4, overrides=("cluster.num_cpus=2",),
    )


def test_variants(pipeline, capsys):
    called = pipeline("variants", "variants", {"alleles": 3})
    argv = ["runs/a", "--vcf", "a.vcf.gz", "--reference", "a.fa", "--output_dir", "out", "--batch_size", "4", "cluster.num_cpus=2"]
    assert run(capsys, "variants", *argv)[:2] == (0, {"alleles": 3})
    called.assert_called_once_with(
        "runs/a", vcf="a.vcf.gz", reference="a.fa", output_dir="out", batch_size=4, overrides=("cluster.num_cpus=2",),
    )


def test_evaluate_a_run_by_its_path(pipeline, capsys):
    called = pipeline("evaluate", "evaluate", {})
    assert run(capsys, "evaluate", "runs/lr=3", "--dry-run")[0] == 0
    called.assert_called_once_with("runs/lr=3", eval_data=None, metrics=(), overrides=(), dry_run=True)


def test_report(pipeline, capsys):
    called = pipeline("report", "report", {"report": "out/report.html"})
    assert run(capsys, "report", "--checkpoint_dir", "checkpoints/", "--output_dir", "out/")[:2] == (0, {"report": "out/report.html"})
    called.assert_called_once_with("checkpoints/", output_dir="out/")


@pytest.mark.parametrize(("damage", "status"), [([], 0), (["train/part-00000.parquet: its checksum is off"], 1)])
def test_validate_data(pipeline, capsys, damage, status):
    called = pipeline("validate", "validate_data", {"damage": damage})
    assert run(capsys, "validate-data", "--data_path", "data/p") == (status, {"damage": damage}, [f"error: {line}" for line in damage])
    called.assert_called_once_with("data/p", output_dir=None)


def test_validate_data_with_a_report(pipeline, capsys):
    called = pipeline("validate", "validate_data", {"damage": []})
    assert run(capsys, "validate-data", "data/p", "--output_dir", "out", "--max_rows", "500")[0] == 0
    called.assert_called_once_with("data/p", output_dir="out", max_rows=500)


def test_debug_data(pipeline, capsys):
    called = pipeline("debug_data", "debug_data", {"batches": []})
    assert run(capsys, "debug-data", "small_model.yaml", "training.seed=5", "--batches", "3", "--step_ms", "12.5")[0] == 0
    called.assert_called_once_with(load_config("small_model.yaml", ["training.seed=5"]), batches=3, step_ms=12.5)


@pytest.mark.parametrize("words", [["sweep", "--space", "mixers"], ["pretrain", "--sweep", "mixers"]])
def test_sweep(pipeline, capsys, words):
    called = pipeline("sweep", "sweep", {"status": "finished"})
    assert run(capsys, *words, "small_model.yaml", "--dry-run")[0] == 0
    called.assert_called_once_with(load_config("small_model.yaml", ["tune.space=mixers"]), dry_run=True)


# config


def test_config_check_lists_what_would_stop(capsys):
    status, result, err = run(capsys, "config", "check", "compression.method=fp16", "output.format=hdf5", "tune.output_dir=gs://x")
    assert status == 0
    assert result["not_built"] == {
        "pretrain": ["compression.method: fp16 is not built yet; remove it"],
        "sweep": ["tune.output_dir: object stores and other remote places (gs://x) are not built yet; give a local path"],
    }
    assert err == [
        "note: pretrain would stop: compression.method: fp16 is not built yet; remove it",
        "note: sweep would stop: tune.output_dir: object stores and other remote places (gs://x) are not built yet; give a local path",
    ]


def test_config_show_prints_the_tree_and_nothing_else(capsys):
    assert main(["config", "show", "training.seed=4"]) == 0
    assert capsys.readouterr().out == dump_config(load_config(overrides=["training.seed=4"]))


def test_bad_settings_are_listed_before_anything_starts(pipeline, capsys):
    called = pipeline("pretrain", "pretrain", {})
    assert run(capsys, "pretrain", "training.sead=1", "training.batch_size=x") == (
        2,
        {},
        [
            "error: training.sead: unknown setting; did you mean training.seed? (override)",
            "error: training.batch_size: found x, wanted a whole number (override)",
        ],
    )
    called.assert_not_called()


def test_a_flag_and_a_setting_that_disagree(capsys):
    assert run(capsys, "pretrain", "--output_dir", "a", "training.output_dir=b")[2] == [
        "error: training.output_dir: two values for one setting, b (training.output_dir) and a (training.output_dir); keep one (override)"
    ]


# Usage


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        ("pretran", "unknown command pretran; did you mean pretrain?"),
        ("config chek", "unknown command config chek; did you mean config check?"),
        ("xyz", f"unknown command xyz; there are {', '.join(COMMANDS)}"),
        ("sweep a.yaml --spcae=x", "unrecognized arguments: --spcae=x; did you mean --space?"),
        ("pretrain small_model.yaml --mode init_only --sweep x", "--mode init_only builds one model, and --sweep trains many; keep one"),
        ("debug-data --batches 0", "--batches must be a whole number above 0, got 0"),
        ("debug-data --step_ms x", "--step_ms must be a number of milliseconds above 0, got x"),
        ("validate-data a --max_rows -3", "--max_rows must be a whole number above 0, got -3"),
        ("pretrain --outptu_dir a", "unrecognized arguments: --outptu_dir; did you mean --output_dir?"),
        ("pretrain --distributed", "unrecognized arguments: --distributed; see `hyena-glt pretrain --help`"),
        ("pretrain --mode x", "argument --mode: invalid choice: "),
        ("pretrain --config", "argument --config: expected one argument; see `hyena-glt pretrain --help`"),
        ("pretrain a.yaml b.yaml", "pretrain takes one CONFIG, got a.yaml, b.yaml; a setting is section.key=value"),
        ("pretrain a.yaml --config b.yaml", "pretrain takes one CONFIG, got b.yaml, a.yaml; a setting is section.key=value"),
        ("pretrain training.seed 3", "pretrain takes one CONFIG, got training.seed, 3; a setting is section.key=value"),
        ("pretrain missing.yaml", "missing.yaml: no such file; shipped by name: "),
        ("evaluate", "evaluate needs PATH (or --model_path)"),
        ("embed a --output_dir c", "embed needs --input"),
        ("embed a --input b --output_dir c --per base", "argument --per: invalid choice: "),
        ("variants a --vcf b --output_dir c", "variants needs --reference"),
        ("variants a --vcf b --reference c --output_dir d --batch_size 0", "--batch_size must be a whole number above 0, got 0"),
        ("validate-data", "validate-data needs PATH (or --data_path)"),
        ("validate-data a b.c=3", "validate-data takes no settings, got b.c=3"),
        ("report a", "report needs --output_dir"),
        ("report --output_dir a", "report needs PATH (or --checkpoint_dir)"),
    ],
)
def test_bad_usage(capsys, argv, problem):
    status, result, (line,) = run(capsys, *argv.split())
    assert (status, result) == (2, {})
    assert line.startswith(f"error: {problem}") if problem.endswith(": ") else line == f"error: {problem}"


@pytest.mark.parametrize(
    ("outcome", "status", "err"),
    [
        (DataError("a.fa: line 3: not FASTA"), 1, ["error: a.fa: line 3: not FASTA"]),
        (CheckpointError("one\ntwo"), 1, ["error: one", "two"]),
        (ConfigError("a", "b"), 2, ["error: a", "error: b"]),
        (KeyboardInterrupt(), 130, ["interrupted"]),
        ({"status": "interrupted"}, 130, []),
        ({"status": "ok"}, 0, []),
    ],
)
def test_exit_status(pipeline, capsys, outcome, status, err):
    pipeline("pretrain", "pretrain", outcome)
    result = outcome if isinstance(outcome, dict) else {}
    assert run(capsys, "pretrain") == (status, result, err)


def test_a_bug_keeps_its_traceback(pipeline):
    pipeline("pretrain", "pretrain", ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        main(["pretrain"])


def test_what_a_pipeline_prints_goes_to_stderr(monkeypatch, capsys):
    module = importlib.import_module("pipelines.pretrain")

    def chatty(cfg: Config, *, init_only: bool, dry_run: bool, probe_steps: int | None) -> dict:
        print("chatter")
        return {"status": "ok"}

    monkeypatch.setattr(module, "pretrain", chatty)
    assert main(["pretrain"]) == 0
    assert capsys.readouterr() == ('{"status": "ok"}\n', "chatter\n")


@pytest.mark.parametrize("argv", [["--help"], ["-h"], ["config", "--help"]])
def test_help_names_every_command(capsys, argv):
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {name} " in out for name in COMMANDS)


@pytest.mark.parametrize("argv", [[], ["config"]])
def test_no_command_shows_the_help_and_is_bad_usage(capsys, argv):
    assert main(argv) == 2
    assert capsys.readouterr().out.startswith("usage: hyena-glt COMMAND")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_each_command_names_its_flags(capsys, name):
    with pytest.raises(SystemExit) as stop:
        main([*name.split(), "--help"])
    out = capsys.readouterr().out
    assert stop.value.code == 0
    assert COMMANDS[name].help in out and all(flag.name in out for flag in COMMANDS[name].flags)


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == "0.1.0\n"


def test_as_a_program():
    """Exit status and streams of a real process."""
    done = subprocess.run([sys.executable, "-m", "hyena_glt.cli", "pretran"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "error: unknown command pretran; did you mean pretrain?\n")
