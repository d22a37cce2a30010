"""What is refused before a job is sent, and what is sent."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.parcel import COMMIT, ROOT, code_commit, given_paths, packed, sent_variables
from hyena_glt.cli import _job, main
from hyena_glt.config import config_to_dict, load_config
from hyena_glt.errors import StorageError
from tests.small_disk import disk

PLACES = ["data.train_path=/data/x", "training.output_dir=/runs/x"]


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    """What `hyena-glt submit` says and exits with 2 for, without a cluster anywhere."""
    assert main(["submit", "--address", "http://127.0.0.1:9", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    return [line.removeprefix("error: ") for line in err.splitlines()]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ([], "submit needs a command behind --, such as: hyena-glt submit -- pretrain CONFIG"),
        (["--"], "submit needs a command behind --, such as: hyena-glt submit -- pretrain CONFIG"),
        (["--", "pretran"], "unknown command pretran; did you mean pretrain?"),
        (
            ["--", "report", "x"],
            "report cannot be submitted as a job; preprocess, pretrain, sweep, evaluate, doctor can, such as: hyena-glt submit -- pretrain "
            "CONFIG",
        ),
        (["--", "pretrain", "--outptu_dir", "x"], "unrecognized arguments: --outptu_dir; did you mean --output_dir?"),
        (["--", "pretrain", "training.sed=3"], "training.sed: unknown setting; did you mean training.seed? (override)"),
        (
            ["--", "pretrain", *PLACES, "cluster.address=10.0.0.1:6379"],
            "cluster.address: a job runs on the cluster that it is submitted to; leave it out",
        ),
        (["--", "pretrain", *PLACES, "compression.method=int8"], "compression.method: int8 is not built yet; remove it"),
        (
            ["--", "pretrain", "data.train_path=/data", "training.output_dir=runs/x"],
            "training.output_dir: runs/x is relative, and a job runs in a copy of the code that Ray deletes afterwards; give an absolute "
            "path that every node sees, or a URL; or set cluster.storage_path, which relative paths are then below",
        ),
        (
            ["--", "doctor", "data.train_path=/data", "preprocessing.input_path=genomes"],
            "preprocessing.input_path: genomes is relative, and a job runs in a copy of the code that Ray deletes afterwards; give an "
            "absolute path that every node sees, or a URL",
        ),
        (["--", "sweep", *PLACES, "--space", "mixerz", "--output_dir", "/s"], "tune.space: no space or file mixerz; did you mean mixers?"),
        (["--", "evaluate"], "evaluate needs PATH (or --model_path)"),
        (
            ["--", "evaluate", "/runs/x", "data.train_path=data/x"],
            "data.train_path: data/x is relative, and a job runs in a copy of the code that Ray deletes afterwards; give an absolute path "
            "that every node sees, or a URL",
        ),
        (["--", "evaluate", "/runs/x", "training.batch_size=x"], "training.batch_size: found x, wanted a whole number (override)"),
        (
            ["--", "evaluate", "/runs/x", "--eval_data", "s3://me:pass/word@b/x"],
            "--eval_data: a URL with a password, which logs would show; put it into the environment of the cluster's nodes (or a "
            "Kubernetes secret), where storage and W&B look for their keys",
        ),
        (["two words", "--", "pretrain", *PLACES], "--submission_id must be letters, digits, dots, dashes and underscores, got two words"),
        (["../x", "--", "pretrain", *PLACES], "--submission_id must be letters, digits, dots, dashes and underscores, got ../x"),
        (["--env", "NO_SUCH", "--", "pretrain", *PLACES], "--env: NO_SUCH is not set here"),
        (
            ["--env", "WANDB_API_KEY", "--", "pretrain", *PLACES],
            "--env: WANDB_API_KEY looks like a secret, and Ray writes what a job is sent into its logs; put it into the environment of the "
            "cluster's nodes (or a Kubernetes secret), where storage and W&B look for their keys",
        ),
    ],
)
def test_refused_before_anything_is_sent(capsys, monkeypatch, words: list[str], problem: str) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "canary")
    assert refusal(capsys, *words) == [problem]


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("ray://10.0.0.1:10001", "--address must be the URL of the cluster's dashboard, such as http://127.0.0.1:8265, got ray://10.0.0.1:10001"),
        ("10.0.0.1:6379", "--address must be the URL of the cluster's dashboard, such as http://127.0.0.1:8265, got 10.0.0.1:6379"),
        (
            "http://me:word@10.0.0.1:8265",
            "--address: a password in a URL stands in the process list; leave it out, the cluster asks for its token",
        ),
    ],
)
def test_addresses_that_are_none(capsys, address: str, problem: str) -> None:
    assert main(["status", "--address", address]) == 2
    assert capsys.readouterr().err == f"error: {problem}\n"


def test_what_cannot_be_packed_is_not_the_servers_fault(capsys, monkeypatch, tmp_path: Path) -> None:
    """A TMPDIR that is gone stands for any error of this machine's files, as a full disk."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    assert main(["submit", "--address", "http://127.0.0.1:9", "--", "pretrain", *PLACES]) == 1
    pattern = rf"error: {tmp_path}/gone/hyena-glt-job-\w+/?: could not be read or written \(No such file or directory\); when that is .*\n"
    assert re.fullmatch(pattern, capsys.readouterr().err)


def test_a_full_disk_is_named_when_packing(tmp_path: Path, monkeypatch) -> None:
    place = tmp_path / "disk"
    with disk(place) as resize:
        resize(64)
        monkeypatch.setattr("tempfile.tempdir", str(place))
        problem = rf"^{place}/hyena-glt-job-\w+: could not be read or written \(No space left on device\); when that is cured, "
        with pytest.raises(StorageError, match=problem), packed(_job(["pretrain", *PLACES])):
            pass
        assert not list(place.glob("hyena-glt-job-*"))


@pytest.mark.parametrize("command", ["logs", "stop"])
def test_commands_that_need_a_job(capsys, command: str) -> None:
    assert main([command]) == 2
    assert capsys.readouterr().err == f"error: {command} needs ID (or --submission_id)\n"


def test_variables_that_may_travel(monkeypatch) -> None:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://10.0.0.1:9000/store@home")
    sent = {"TOKENIZERS_PARALLELISM": "false", "AWS_ENDPOINT_URL": "http://10.0.0.1:9000/store@home"}
    assert sent_variables(tuple(sent)) == sent


def test_settings_travel_resolved() -> None:
    words = ["small_model.yaml", "--output_dir", "runs/a b", "cluster.storage_path=/mnt/s", "--dry-run", "--probe_steps", "3"]
    job = _job(["pretrain", *words])
    assert shlex.split(job.entrypoint) == ["python", "-m", "pipelines.pretrain", "config.yaml", "--probe_steps", "3", "--dry_run"]
    with packed(job) as folder:
        sent = load_config(folder / "config.yaml")
    assert config_to_dict(sent) == config_to_dict(job.cfg)
    assert sent.training.output_dir == "/mnt/s/runs/a b" and sent.model.name == load_config("small_model.yaml").model.name


def test_an_evaluation_travels_as_it_is() -> None:
    job = _job(["evaluate", "/runs/lr=3", "--metrics", "loss,perplexity", "training.batch_size=2"])
    wanted = "python -m pipelines.evaluate /runs/lr=3 --metrics loss,perplexity training.batch_size=2"
    assert shlex.split(job.entrypoint) == wanted.split() and job.cfg is None


def test_a_doctor_travels_without_default_folders() -> None:
    """No run folder is set, and none is made up."""
    job = _job(["doctor", "quickstart.yaml", "output.path=/mnt/s/data"])
    assert shlex.split(job.entrypoint) == ["python", "-m", "pipelines.doctor", "config.yaml"]
    assert {name: path for name, path in given_paths(job.cfg).items() if path} == {"output.path": "/mnt/s/data"}


def test_a_search_space_travels_along(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("settings: {training.learning_rate: {loguniform: [1e-4, 1e-2]}}\nnum_trials: 2\n")
    job = _job(["pretrain", "--sweep", str(tmp_path / "mine.yaml"), "cluster.storage_path=/mnt/s", "data.train_path=x"])
    assert job.command == "sweep"
    with packed(job) as folder:
        assert (folder / "space.yaml").read_text() == (tmp_path / "mine.yaml").read_text()
        assert load_config(folder / "config.yaml").tune.space == "space.yaml"


def test_only_what_a_job_needs_travels() -> None:
    with packed(_job(["pretrain", *PLACES])) as folder:
        files = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
        assert {path.parts[0] for path in files} == {"hyena_glt", "pipelines", "cluster", "tune_spaces", "config.yaml"}
        assert {path.suffix for path in files} == {".py", ".yaml"}
        assert sum((folder / path).stat().st_size for path in files) < 3 << 20
        done = subprocess.run(
            [sys.executable, "-c", "import pipelines.sweep, hyena_glt; print(hyena_glt.__file__)"], cwd=folder, capture_output=True,
            text=True, env={"PATH": "", "HOME": str(folder)},
        )
        assert done.stdout.startswith(str(folder)), done.stderr
    assert not folder.exists()


def test_which_commit_the_code_is(monkeypatch) -> None:
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    if head:
        assert code_commit() in (head, f"{head}-dirty")
    monkeypatch.setenv(COMMIT, "0123abc")
    assert code_commit() == "0123abc"
    monkeypatch.delenv(COMMIT)
    monkeypatch.setenv("PATH", "")
    assert code_commit() is None
