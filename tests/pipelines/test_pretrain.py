"""Pretraining as a user calls it: what it refuses before it starts, the plan, the first weights, and a short real run on Ray."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from pathlib import Path

import pytest

from hyena_glt.config import load_config
from hyena_glt.errors import CheckpointError, ClusterError, ConfigError, DataError, HyenaError
from hyena_glt.evaluation.run_folder import read_run
from hyena_glt.inference import load_model
from hyena_glt.training.metrics import METRICS_FILE, last_reports, read_reports
from pipelines.preprocess import preprocess
from pipelines.pretrain import pretrain, resolve
from tests.tiny_run import write_lambda_data
from tests.waiting import wait_until

GENOMES = Path(__file__).parents[2] / "pipelines" / "genomes"
GUIDE = Path(__file__).parents[1] / "config" / "guide_blocks"


def make_data(folder: Path, *settings: str) -> Path:
    given = [
        f"preprocessing.input_path={GENOMES}", f"output.path={folder}", "preprocessing.max_length=64", "tokenization.kind=char",
        "preprocessing.split.by=tail", *settings,
    ]
    preprocess(load_config(None, list({setting.split("=")[0]: setting for setting in given}.values())))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Path:
    """The phage genomes as windows of 64 bases."""
    return make_data(tmp_path_factory.mktemp("data") / "phages")


def config(data: Path, run: Path, *settings: str):
    given = [
        "model.hidden_size=16", "model.num_layers=2", "model.mixers=[se,li]", "model.max_position_embeddings=64",
        "tasks.causal_lm.weight=1",
        "training.max_steps=4", "training.batch_size=4", "training.eval_max_rows=8", "logging.log_interval=1", "logging.eval_interval=2",
        "logging.save_interval=2", f"data.train_path={data}", f"training.output_dir={run}", *settings,
    ]
    return load_config(None, list({setting.split("=")[0]: setting for setting in given}.values()))


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """A short real run with most of the optional parts on, and its result."""
    run = tmp_path_factory.mktemp("runs") / "trained"
    result = pretrain(config(data, run, "hardware.zero_stage=2", "hardware.precision=bf16", "hardware.gradient_checkpointing=true",
                             "hardware.pin_memory=true", "training.gradient_accumulation_steps=2", "cluster.train_workers=2"))
    return run, result


@pytest.mark.slow
def test_a_run_leaves_what_was_promised(trained: tuple[Path, dict], data: Path) -> None:
    run, result = trained
    assert result["status"] == "finished" and result["steps"] == 4 and result["val_loss"] > 0 and result["cpu_hours"] > 0
    assert result["tokens_per_cpu_hour"] == pytest.approx(result["tokens"] / result["cpu_hours"])
    plan = read_run(run).plan()
    assert (plan.total_steps, plan.world_size, plan.width) == (4, 2, 64), "the run folder alone tells the plan"
    assert {p.name for p in run.iterdir()} >= {"config.yaml", "environment.json", METRICS_FILE, "logs", "checkpoints"}
    assert list((run / "logs").glob("events*"))
    environment = json.loads((run / "environment.json").read_text())
    assert environment["versions"]["deepspeed"] and environment["command"] and len(environment["inputs"]) == 2
    assert {p.name for p in (run / "checkpoints").iterdir()} == {"step_00000002", "step_00000004", "latest", "best_model"}
    assert {p.name for p in (run / "checkpoints" / "step_00000004").iterdir()} == {
        "model.safetensors", "optimizer", "config.yaml", "tokenizer.json", "checkpoint.json"
    }
    train = [report for report in read_reports(run / METRICS_FILE) if report["kind"] == "train"]
    assert [report["step"] for report in train] == [1, 2, 3, 4]
    assert train[0].keys() >= {"loss", "perplexity", "bits_per_base", "accuracy", "learning_rate", "grad_norm", "tokens_per_s", "epoch"}
    assert all(report["straggler_gap_s"] >= 0 and report["slowest_rank"] in (0, 1) for report in train)
    assert last_reports(run / METRICS_FILE)["start"]["precision"] == "bf16"
    assert load_config(run / "config.yaml").data.val_path == str(data)


@pytest.mark.slow
@pytest.mark.parametrize(("settings", "error", "text"), [
    (["training.learning_rate=1e-3"], ConfigError, "is the folder of another run; these settings differ from its config.yaml: "
     "training.learning_rate. Take them back to go on with it, or choose a new folder"),
    (["hardware.zero_stage=1"], ConfigError, "hardware.zero_stage: .* was started with 2, and a run keeps its stage; set it back"),
    (["training.max_steps=6", "cluster.train_workers=3", "cluster.num_cpus=3"], HyenaError, r"3 workers of "),
])
def test_an_earlier_run_is_not_mixed_with_another(
    trained: tuple[Path, dict], data: Path, settings: list[str], error: type, text: str
) -> None:
    common = ["hardware.zero_stage=2", "training.gradient_accumulation_steps=2", "cluster.train_workers=2"]
    with pytest.raises(error, match=text):
        pretrain(config(data, trained[0], *common, *settings))


@pytest.mark.slow
def test_other_data_is_refused(trained: tuple[Path, dict], data: Path, tmp_path: Path) -> None:
    other = make_data(tmp_path / "other", "preprocessing.split.val=0.1")
    moved = data.rename(data.with_name("moved"))
    other.rename(data)
    try:
        with pytest.raises(CheckpointError, match="was trained on other data than what .* now holds; choose a new training.output_dir"):
            pretrain(config(data, trained[0], "hardware.zero_stage=2", "training.gradient_accumulation_steps=2"))
    finally:
        data.rename(tmp_path / "back")
        moved.rename(data)


def test_a_folder_with_other_files(data: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ConfigError, match="holds other files and no config.yaml of a run; choose an empty or new folder"):
        pretrain(config(data, tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(("settings", "error", "text"), [
    (["model.vocab_size=4096"], ConfigError,
     "model.vocab_size: 4096 does not fit the data, whose char tokenizer has 4 symbols; set it to 4 or leave"),
    (["model.max_position_embeddings=32"], ConfigError,
     r"rows of 64 tokens are longer than model.max_position_embeddings \(32\); raise that, or set data.sequence_length to at most 32"),
    (["training.max_steps=null"], ConfigError, "one of num_epochs, max_steps and max_tokens is needed"),
    (["data.train_path=/nowhere"], DataError, "/nowhere is neither a preprocessing output nor one of its split folders: nothing is there"),
    (["data.train_path=null"], ConfigError, "data.train_path: needed to train"),
    (["hardware.num_gpus=4"], ClusterError, r"4 GPUs are asked for .*, and this cluster has 0"),
    (["cluster.train_workers=64"], ClusterError,
     "64 workers of 1 CPUs .* do not fit this cluster's 2 CPUs; ask for less, or tell a local Ray"),
    (["hardware.precision=fp16"], ConfigError, "hardware.precision: fp16 needs a GPU; use fp32 or bf16 on a CPU"),
    (["training.init_from=/nowhere"], CheckpointError, "no checkpoint at /nowhere"),
    (["data.max_shift=65"], ConfigError, r"data.max_shift \(65\) must be at most the 64 tokens of a row of "),
    (["compression.method=int8"], ConfigError, "compression.method: int8 is not built yet"),
    (["curriculum.sequence_length={values: [64, 128], at: [1]}", "model.max_position_embeddings=128"], ConfigError,
     "curriculum.sequence_length.values: 128 is longer than the data's rows of 64 tokens, which are cut and never joined"),
    (["curriculum.difficulty={values: [0.5, 1], at: [1], measure: repeats}"], ConfigError,
     "curriculum.difficulty.measure: .*phages has no weights that tell repeats; preprocess with soft_masked: weight"),
])
def test_refused_before_anything_starts(data: Path, tmp_path: Path, settings: list[str], error: type, text: str) -> None:
    with pytest.raises(error, match=text):
        pretrain(config(data, tmp_path / "run", *settings))
    assert not (tmp_path / "run").exists()


def test_dry_run_says_what_would_happen(data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    settings = ["training.warmup_steps=10", "hardware.pin_memory=true", "hardware.compile_model=true", "cluster.train_workers=2"]
    result = pretrain(config(data, tmp_path / "run", *settings), dry_run=True, probe_steps=3)
    assert (result["status"], result["steps"], result["workers"], result["tokens_per_step"]) == ("planned", 4, 2, 2 * 4 * 64)
    assert result["probe_steps"] == 3 and result["estimated_s"] > 4 * result["tokens_per_step"] / result["probe_tokens_per_s"] > 0
    assert result["estimated_cpu_hours"] == pytest.approx(2 * result["estimated_s"] / 3600)
    assert re.search(r"about \d+ s: 4 steps at [\d,]+ tokens/s \(measured over 3 steps\)", caplog.text)
    assert result["memory_per_worker"]["total_gb"] > 0 and result["shards"] == 1
    assert "warmup_steps (10) is not shorter than the run (4 steps)" in caplog.text
    assert "without a GPU these have no effect: hardware.pin_memory, hardware.compile_model" in caplog.text
    assert not list(tmp_path.iterdir()), "the probe leaves nothing"


def test_dry_run_that_is_interrupted_ends_and_leaves_nothing(data: Path, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def interrupt() -> None:
        wait_until(lambda: signal.getsignal(signal.SIGTERM) is not before)
        os.kill(os.getpid(), signal.SIGTERM)

    sender = threading.Thread(target=interrupt)
    sender.start()
    with pytest.raises(ClusterError, match="^interrupted while the run was timed; nothing of the probe is left$"):
        pretrain(config(data, tmp_path / "run"), dry_run=True, probe_steps=10**6)
    sender.join()
    assert not list(tmp_path.iterdir())


def test_dry_run_shows_the_timeline(data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    settings = [
        "training.stages=[{name: early, steps: 2, batch_ramp: [0.5, 1]}, {name: late, steps: 2, learning_rate: 1e-4, dropout: 0.1}]",
        "curriculum.sequence_length={values: [16, 64], at: [2], by: step}", "training.max_steps=null",
    ]
    result = pretrain(config(data, tmp_path / "run", *settings), dry_run=True, probe_steps=0)
    wanted = [(0, "early", 2, 16), (1, "early", 4, 16), (2, "late", 4, 64)]
    assert [(state["step"], state["stage"], state["rows"], state["tokens_per_row"]) for state in result["timeline"]] == wanted
    assert "from step 1 (epoch 0.00): rows 4, tokens per step 256" in caplog.text
    assert "from step 2 (epoch 0.01): stage late, peak learning rate 0.0001, tokens per row 64, dropout 0.1" in caplog.text
    assert "estimated_s" not in result


def test_dry_run_of_a_mixture_says_its_shares_and_epochs(data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    phage = write_lambda_data(tmp_path / "lambda", {"kind": "char"}, max_length=64)
    settings = [f"data.train_path=[{data}, {phage}]", "data.mixture_weights=[1, 3]", "training.max_steps=null", "training.num_epochs=2"]
    result = pretrain(config(data, tmp_path / "run", *settings), dry_run=True, probe_steps=0)
    assert list(result["domains"]) == ["phages", "lambda"] and result["shards"] == 2
    rows, epochs = ([domain[key] for domain in result["domains"].values()] for key in ("rows", "epochs"))
    assert [rows[0] * epochs[0], rows[1] * epochs[1]] == pytest.approx([0.5 * sum(rows), 1.5 * sum(rows)], rel=0.01)
    assert re.search(r"lambda: 7\d\.\d % of the rows drawn, \d\.\d\d epochs of it", caplog.text)
    assert resolve(config(data, tmp_path / "run", *settings))[0].data.val_path == (str(data), str(phage))


def test_first_weights_of_the_guides_own_settings(tmp_path: Path) -> None:
    block = next(path for path in sorted(GUIDE.glob("*.yaml")) if "hyena-glt-base" in path.read_text())
    small = ["model.hidden_size=32", "model.num_layers=7", "model.num_attention_heads=2", "model.intermediate_size=64"]
    result = pretrain(load_config(block, [*small, f"training.output_dir={tmp_path / 'run'}"]), init_only=True)
    loaded = load_model(tmp_path / "run")
    assert result["status"] == "initialized"
    assert result["parameters"] == sum(p.numel() for p in loaded.model.parameters())
    assert loaded.tokenizer.vocab_size == 4096 and not loaded.causal
    with pytest.raises(ConfigError, match="has checkpoints already; choose a new folder"):
        pretrain(load_config(block, [*small, f"training.output_dir={tmp_path / 'run'}"]), init_only=True)


@pytest.mark.slow
def test_training_starts_from_the_first_weights(data: Path, tmp_path: Path) -> None:
    settings = ["tokenization.kind=char", "training.max_steps=1", "training.learning_rate=1e-12"]
    pretrain(config(data, tmp_path / "run", *settings), init_only=True)
    first = load_model(tmp_path / "run").model.state_dict()
    result = pretrain(config(data, tmp_path / "run", *settings))
    last = load_model(tmp_path / "run" / "checkpoints" / "latest").model.state_dict()
    assert result["steps"] == 1 and re.search("step_00000001$", result["checkpoint"])
    assert all((first[name] - last[name]).abs().max() < 1e-6 for name in first)


@pytest.mark.slow
def test_only_adamw_takes_a_range_of_workers(data: Path, tmp_path: Path) -> None:
    given = config(data, tmp_path / "run", "cluster.train_workers=[1,2]", "training.optimizer=muon")
    with pytest.raises(ConfigError) as caught:
        pretrain(given, dry_run=True, probe_steps=0)
    assert str(caught.value) == (
        "cluster.train_workers: the number of workers of a range changes, and DeepSpeed can divide the state of adamw anew, not that of "
        "muon; give one number, or set hardware.zero_stage to 0"
    )


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", [pytest.param("lion", marks=pytest.mark.long), "muon"])
def test_only_adamw_goes_on_with_another_number_of_workers(data: Path, tmp_path: Path, optimizer: str) -> None:
    settings = [f"training.optimizer={optimizer}", "training.learning_rate=1e-3", "training.batch_size=2"]
    pretrain(config(data, tmp_path / "run", *settings, "cluster.train_workers=1", "training.gradient_accumulation_steps=2"))
    with pytest.raises(ConfigError, match=f"written by 1 workers, and 2 are asked for; DeepSpeed can divide .*, not that of {optimizer}"):
        pretrain(config(data, tmp_path / "run", *settings, "cluster.train_workers=2", "training.gradient_accumulation_steps=2"))
