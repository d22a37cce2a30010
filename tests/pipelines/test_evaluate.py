"""`evaluate` on real runs: its numbers, its choice of data, what it writes, and what it refuses."""

from __future__ import annotations

import json
import shutil

import pytest

from hyena_glt.config import config_from_dict, load_config
from hyena_glt.errors import CheckpointError, ConfigError, DataError
from hyena_glt.inference import load_model
from hyena_glt.training.metrics import read_reports
from pipelines.evaluate import evaluate, locate_heldout
from tests.tiny_run import random_model, tiny_config, train_tiny, write_data, write_lambda_data


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("causal")
    data = write_lambda_data(folder / "data", {"kind": "char"})
    return train_tiny(tiny_config(folder / "run", data, causal=True), folder / "run", steps=60)


def test_result_and_what_is_written(trained):
    result = evaluate(str(trained))
    assert set(result["metrics"]) == {"loss", "perplexity", "bits_per_base", "accuracy"}
    assert result["metrics"]["bits_per_base"] == result["bits_per_base"]
    assert result["data"].endswith("data/test") and result["rows"] == 38 and result["scored_tokens"] == 4851 - 38
    assert list(result["baselines"]) == ["uniform", *(f"markov_{k}" for k in range(9))]
    bits_by_name = {"uniform": 2.0} | {k: result["baselines"][f"markov_{k}"] for k in range(9)}
    assert result["beats"] == [name for name, bits in bits_by_name.items() if result["bits_per_base"] < bits]
    assert "uniform" in result["beats"]
    evaluate(str(trained), metrics=("loss",))
    evaluate(str(trained / "checkpoints" / "latest"))
    entries = json.loads((trained / "evaluation.json").read_text())
    assert [sorted(entry["metrics"]) for entry in entries] == [["loss"], ["accuracy", "bits_per_base", "loss", "perplexity"]]


def test_validation_split_gives_the_validation_loss_of_training(trained):
    (last,) = [r for r in read_reports(trained / "metrics.jsonl") if r["kind"] == "eval"][-1:]
    result = evaluate(str(trained), eval_data=str(trained.parent / "data" / "val"), metrics=("loss", "accuracy"))
    assert last["step"] == 60
    assert result["metrics"]["loss"] == pytest.approx(last["loss"], rel=1e-5)
    assert result["metrics"]["accuracy"] == pytest.approx(last["accuracy"])


def test_rows_cut_shorter_score_fewer_tokens(trained):
    result = evaluate(str(trained), overrides=("data.sequence_length=64",), metrics=("loss",))
    assert result["rows"] == 76 and result["scored_tokens"] == 4851 - 76


def test_lower_precision_changes_little(trained):
    full, half = (evaluate(str(trained), overrides=(f"hardware.precision={p}",), metrics=("loss",)) for p in ("fp32", "bf16"))
    assert 0 < abs(full["metrics"]["loss"] - half["metrics"]["loss"]) < 0.01


def test_bleu_says_what_it_was_taken_on(trained):
    result = evaluate(str(trained), metrics=("bleu",))
    assert 0 < result["metrics"]["bleu"] < 100
    assert result["notes"] == ["BLEU was taken on 506 tokens of 8 windows, spread evenly over the split"]


def test_dry_run_measures_nothing(trained, capsys):
    before = (trained / "evaluation.json").exists()
    plan = evaluate(str(trained), dry_run=True)
    assert plan["metrics"] == ["loss", "perplexity", "bits_per_base", "accuracy"] and plan["rows"] == 38
    assert "  train_path: " in capsys.readouterr().err
    assert (trained / "evaluation.json").exists() == before


@pytest.mark.parametrize("tokenization", [{"kind": "kmer", "kmer_size": 3}, {"kind": "kmer", "kmer_size": 3, "kmer_stride": 1}])
def test_masked_models_meet_the_flanks(tmp_path, monkeypatch, tokenization):
    monkeypatch.setattr("hyena_glt.evaluation.baselines.HIGHEST_FLANKS", 3)  # 6 needs tables of 4^13
    data = write_lambda_data(tmp_path / "data", tokenization)
    run = train_tiny(tiny_config(tmp_path / "run", data, causal=False, tokenization=tokenization), tmp_path / "run", steps=5)
    result = evaluate(str(run))
    assert "mlm_accuracy" in result["metrics"]
    assert ("bits_per_base" in result["metrics"]) == ("kmer_stride" not in tokenization)
    assert [name for name in result["baselines"] if name.startswith("flanks")] == [f"flanks_{k}" for k in range(1, 4)]


def test_without_the_training_split_there_are_no_baselines(trained, tmp_path):
    heldout = tmp_path / "elsewhere"
    shutil.copytree(trained.parent / "data", heldout)
    result = evaluate(str(trained), eval_data=str(heldout), overrides=(f"data.train_path={tmp_path}/gone",), metrics=("loss",))
    assert result["baselines"] == {} and result["beats"] == []
    assert result["notes"][0].startswith("No baselines, because the training split cannot be read:")
    assert "nothing is there" in result["notes"][0]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"train_path": "data"}, ("data", "test")),
        ({"train_path": "data/train"}, ("data", "test")),
        ({"train_path": "data", "eval_data": "data/val"}, ("data", "val")),
        ({"train_path": "data", "eval_data": "no_test"}, ("no_test", "val")),
        ({"train_path": "no_test", "val_path": "data/val"}, ("data", "val")),
        ({"train_path": "no_test"}, ("no_test", "val")),
    ],
)
def test_where_held_out_data_comes_from(tmp_path, settings, expected):
    write_lambda_data(tmp_path / "data", {"kind": "char"})
    tokenizer = random_model(tmp_path / "run", causal=True).tokenizer
    write_data(tmp_path / "no_test", tokenizer, {"train": b"ACGT" * 30, "val": b"ACGT" * 30}, max_length=40)
    cfg = config_from_dict({"data": {key: str(tmp_path / value) for key, value in settings.items()}})
    assert locate_heldout(cfg) == (tmp_path / expected[0], expected[1])


def test_refusals(trained, tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint at .*it is not a step folder"):
        evaluate(str(tmp_path))
    with pytest.raises(ConfigError, match=r"unknown metric acuracy; did you mean accuracy\?"):
        evaluate(str(trained), metrics=("acuracy",))
    with pytest.raises(DataError, match="nothing is there"):
        evaluate(str(trained), eval_data=str(tmp_path / "missing"))
    with pytest.raises(CheckpointError, match="another architecture"):
        evaluate(str(trained), overrides=("model.hidden_size=16",))
    with pytest.raises(DataError, match="^test.h5: .*nothing is there; check the path"):
        evaluate(str(trained), eval_data="test.h5")
    other = write_lambda_data(tmp_path / "kmers", {"kind": "kmer", "kmer_size": 2})
    with pytest.raises(DataError, match="was tokenized in another way than the model's training data: .*kind is 'kmer' in the data"):
        evaluate(str(trained), eval_data=str(other))


@pytest.mark.parametrize("override", [
    "training.learning_rate=1", "hardware.zero_stage=2", "data.shuffle_row_groups=3", "preprocessing.max_length=9", "tune.seed=3",
    "logging={log_interval: 4}", "curriculum=null",
])
def test_settings_that_no_evaluation_reads_are_refused(trained, override):
    with pytest.raises(ConfigError) as caught:
        evaluate(str(trained), overrides=(override, "training.batch_size=4", "data.pin_memory=true"))
    path = {"logging={log_interval: 4}": "logging.log_interval"}.get(override, override.split("=")[0])
    assert [problem.split(":")[0] for problem in caught.value.problems] == [path, "hardware.pin_memory"]
    assert caught.value.problems[1].startswith(
        "hardware.pin_memory: has no effect on an evaluation; remove it. These have: data.eval_data, data.train_path, data.val_path, "
    )


def test_how_far_it_is_shows_without_a_terminal(trained, capsys):
    evaluate(str(trained), metrics=("loss",))
    assert capsys.readouterr().err.startswith("evaluating: 5 of 5 batches, ")


def test_a_split_folder_whose_name_is_that_of_an_output(tmp_path):
    tokenizer = random_model(tmp_path / "run", causal=True).tokenizer
    output = write_data(tmp_path / "test", tokenizer, {"train": b"ACGT" * 9, "val": b"ACGT" * 9}, max_length=40)
    assert locate_heldout(config_from_dict({"data": {"eval_data": str(output)}})) == (output, "val")


def test_rows_longer_than_the_model_reads(trained, tmp_path):
    long = write_lambda_data(tmp_path / "long", {"kind": "char"}, max_length=200)
    with pytest.raises(ConfigError, match=r"have 200 tokens, the model reads at most 128; evaluate with data.sequence_length=128"):
        evaluate(str(trained), eval_data=str(long))
    result = evaluate(str(trained), eval_data=str(long), overrides=("data.sequence_length=128",), metrics=("loss",))
    assert result["rows"] == 50


def test_data_without_a_scorable_token(trained, tmp_path):
    tokenizer = random_model(tmp_path / "run", causal=True).tokenizer
    data = write_data(tmp_path / "n", tokenizer, {"train": b"ACGT", "test": b"N" * 50}, max_length=10)
    with pytest.raises(DataError, match="no token of its 5 rows can be scored"):
        evaluate(str(trained), eval_data=str(data))


def test_a_preprocessing_without_held_out_rows(trained, tmp_path):
    tokenizer = random_model(tmp_path / "run", causal=True).tokenizer
    data = write_data(tmp_path / "all", tokenizer, {"train": b"ACGT" * 10}, max_length=10)
    with pytest.raises(DataError, match="holds nothing out: it has neither test nor val rows"):
        evaluate(str(trained), eval_data=str(data))
    assert load_config(trained / "config.yaml").data.eval_data is None
    with pytest.raises(ConfigError, match="data.eval_data: not set, and neither is data.train_path"):
        evaluate(str(trained), overrides=("data.train_path=null", "data.val_path=null"))


def test_a_mixture_is_evaluated_on_data_that_are_named_and_beside_all_that_it_saw(trained, tmp_path):
    data, phages = trained.parent / "data", tmp_path / "phages"
    write_data(phages, load_model(trained).tokenizer, {"train": b"ACGT" * 3000}, max_length=128)
    mixture = (f"data.train_path=[{data}, {phages}]",)
    with pytest.raises(ConfigError, match="data.eval_data: the run has several datasets; name the one to evaluate on with --eval_data"):
        evaluate(str(trained), overrides=mixture)
    alone, both = (evaluate(str(trained), eval_data=str(data), overrides=given, metrics=("loss",)) for given in ((), mixture))
    assert both["metrics"] == alone["metrics"]
    assert both["baselines"]["uniform"] == 2.0 and both["baselines"]["markov_8"] != alone["baselines"]["markov_8"]
