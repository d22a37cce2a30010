"""Relative paths: below cluster.storage_path where it is set, refused in a job, as they are anywhere else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.paths import PATHS, placed, with_storage
from hyena_glt.config import load_config
from hyena_glt.config.settings import SETTINGS, section_type
from hyena_glt.errors import ConfigError
from pipelines.evaluate import evaluate
from pipelines.preprocess import preprocess
from pipelines.pretrain import pretrain
from pipelines.sweep import sweep

ADVICE = (
    "is relative, and a job runs in a copy of the code that Ray deletes afterwards; give an absolute path that every node sees, or a URL"
)
STORAGE = "; or set cluster.storage_path, which relative paths are then below"


@pytest.fixture
def in_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Ray tells the driver of a job that came with a working directory."""
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"runtime_env": {"working_dir": "gcs://_ray_pkg_1.zip"}}))


def test_relative_paths_lie_below_the_storage_path() -> None:
    cfg = with_storage(load_config("population.yaml", [
        "cluster.storage_path=/mnt/shared/", "data.train_path=[data/a, /abs/b, s3://c/d]", "training.init_from=runs/first", "tune={}",
        "preprocessing.split={by: interval, val_intervals: [places.bed.gz, '20:1-5,000'], test_intervals: '20:6,000-7,000'}",
    ]))
    assert cfg.data.train_path == ("/mnt/shared/data/a", "/abs/b", "s3://c/d")
    assert (cfg.training.init_from, cfg.training.output_dir) == ("/mnt/shared/runs/first", "/mnt/shared/runs/hyena-glt")
    assert cfg.tune and cfg.tune.output_dir == "/mnt/shared/runs/hyena-glt-sweep"
    split, variants = cfg.preprocessing.split, cfg.preprocessing.variants
    assert split.val_intervals == ("/mnt/shared/places.bed.gz", "20:1-5,000") and split.test_intervals == "20:6,000-7,000"
    assert variants and variants.path == "/mnt/shared/tests/data/population/chr20_2.34M.vcf.gz"
    assert with_storage(cfg) == cfg


def test_a_url_as_storage() -> None:
    cfg = with_storage(load_config(None, ["cluster.storage_path=s3://bucket/all", "output.path=data/x"]))
    assert (cfg.output.path, cfg.output.scratch_path) == ("s3://bucket/all/data/x", None)
    twice = with_storage(cfg)
    assert twice.output.path == cfg.output.path


def test_nothing_moves_without_one() -> None:
    cfg = load_config("quickstart.yaml")
    assert placed(cfg, "pretrain") is cfg


def test_every_setting_with_a_path_is_known() -> None:
    named = {
        path for path, declared in SETTINGS.items()
        if section_type(declared) is None and path.endswith(("path", "_dir", "init_from", "eval_data", "_intervals"))
    }
    assert named - {"cluster.storage_path"} == set(PATHS)


@pytest.mark.usefixtures("in_job")
@pytest.mark.parametrize(
    ("pipeline", "settings", "problems"),
    [
        (
            preprocess, ["preprocessing.input_path=[a.fa, /b.fa]", "output.path=s3://bucket/x"],
            [f"preprocessing.input_path: a.fa {ADVICE}{STORAGE}", f"output.scratch_path: .hyena-glt {ADVICE}{STORAGE}"],
        ),
        (
            pretrain, ["data.train_path=/data", "data.val_path=data", "model.name=m"],
            [f"data.val_path: data {ADVICE}{STORAGE}", f"training.output_dir: runs/m {ADVICE}{STORAGE}"],
        ),
        (sweep, ["data.train_path=/data", "tune.space=mixers", "tune.output_dir=s"], [f"tune.output_dir: s {ADVICE}{STORAGE}"]),
    ],
)
def test_a_job_refuses_relative_paths(pipeline, settings: list[str], problems: list[str]) -> None:
    with pytest.raises(ConfigError) as refusal:
        pipeline(load_config(None, settings))
    assert list(refusal.value.problems) == problems


@pytest.mark.usefixtures("in_job")
def test_an_evaluation_as_a_job_refuses_them_too() -> None:
    with pytest.raises(ConfigError) as refusal:
        evaluate("runs/x", eval_data="data/test")
    assert list(refusal.value.problems) == [f"PATH: runs/x {ADVICE}", f"--eval_data: data/test {ADVICE}"]


@pytest.mark.usefixtures("in_job")
def test_a_job_with_a_storage_path_goes_on(tmp_path: Path) -> None:
    cfg = load_config(None, [f"cluster.storage_path={tmp_path}", "data.train_path=data/x"])
    assert placed(cfg, "pretrain").data.train_path == f"{tmp_path}/data/x"


def test_a_storage_path_says_where_it_is() -> None:
    with pytest.raises(ConfigError, match="cluster.storage_path must be an absolute path or a URL, got shared"):
        load_config(None, ["cluster.storage_path=shared"])
