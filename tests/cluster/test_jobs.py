"""Jobs on a real Ray head: what comes out, how they end, how they are stopped, and a log whose stream breaks."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir
from typing import TextIO

import pytest
from ray.job_submission import JobDetails

from cluster.jobs import Transcript, _checked_url, _outcome, _server, logs
from cluster.parcel import code_commit
from hyena_glt.cli import main
from hyena_glt.errors import HyenaError, JobError, StorageError
from hyena_glt.training.checkpoint import newest_whole, read_info
from hyena_glt.training.gauges import GAUGES
from tests.cluster.head import CANARY, ROOT, Head, Proxy, finish, status_of, text_of
from tests.waiting import HANG_S, wait_until

GENOME = ROOT / "pipelines" / "genomes" / "phix174.fa"
TINY = [
    "model.hidden_size=16", "model.num_layers=2", "model.mixers=[se,li]", "model.max_position_embeddings=64", "tasks.causal_lm.weight=1",
    "training.batch_size=4", "training.eval_max_rows=8", "logging.log_interval=1", "logging.use_tensorboard=false",
    "logging.save_interval=100000", "hardware.precision=fp32", "data.train_path=data",
]

IMPATIENT = "import sys; import cluster.jobs; cluster.jobs.ABSENCE_S = 1.0; from hyena_glt.cli import main; sys.exit(main())"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(head: Head) -> dict:
    """The result of a preprocessing, sent as Ray's own command sends it."""
    return sent_by_ray(
        head, "preprocess", f"preprocessing.input_path={GENOME}", "output.path=data", "preprocessing.max_length=64",
        "preprocessing.split.by=tail", "tokenization.kind=char", f"cluster.storage_path={head.storage}",
    )


def sent_by_ray(head: Head, command: str, *words: str) -> dict:
    """The result of a command that Ray's own command sends from a checkout, and follows."""
    sending = [Path(sys.executable).with_name("ray"), "job", "submit", "--address", head.dashboard, "--working-dir", "."]
    done = subprocess.run(
        [*sending, "--", "python", "-m", f"pipelines.{command}", *words],
        cwd=ROOT, env=head.environment() | {"RAY_AUTH_MODE": "token"}, capture_output=True, text=True, timeout=HANG_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return next(json.loads(line) for line in reversed(done.stdout.splitlines()) if line.startswith("{"))


@dataclass(frozen=True)
class Stopped:
    """A pretraining that was submitted, with W&B on, followed through a connection that broke twice, and stopped."""

    run: Path
    status: int
    """Exit status of whoever followed it."""
    result: dict
    said: str
    while_running: dict[str, str]
    """The status of each job while it ran."""
    arguments: list[str]
    """Of all processes of the cluster while it ran."""
    figures: str
    """What the metrics endpoint of the node said while it ran."""
    stop: tuple[int, dict, str]
    lost: tuple[int, dict, str]
    """Of another that followed it, whose connection was cut for good."""


@pytest.fixture(scope="module")
def stopped(head: Head, data: dict) -> Iterator[Stopped]:
    proxy, dead = (Proxy(int(head.dashboard.rpartition(":")[2])) for _ in range(2))
    run = head.storage / "runs" / "stopped"
    metrics = run / "metrics.jsonl"
    following = head.start(
        "submit", "first", "--address", proxy.url, "--env", "WANDB_MODE", "--", *pretraining(head, 100000), "logging.use_wandb=true",
        env=head.environment() | {"WANDB_MODE": "offline"},  # else W&B would take the canary for its key, and ask its server
    )
    try:
        for steps in (5, 20):
            wait_until(lambda steps=steps: metrics.exists() and len(metrics.read_text().splitlines()) > steps)
            assert proxy.cut()
        lost = head.start("logs", "first", "--address", dead.url, program=("-c", IMPATIENT))
        assert any("step" in line for line in lost.stderr)  # it shows the job's log
        dead.close()
        arguments = head.arguments()
        wait_until(lambda: "ray_hyena_glt_loss{" in text_of(head.metrics))
        figures = text_of(head.metrics)
        jobs = head.run("status", "--address", head.dashboard)[1]["jobs"]
        stop = head.run("stop", "first", "--address", head.dashboard)
        running = {job["submission_id"]: job["status"] for job in jobs}
        yield Stopped(run, *finish(following), running, arguments, figures, stop, finish(lost))
    finally:
        head.run("stop", "first", "--address", head.dashboard)  # where something failed before it was
        following.kill()
        proxy.close()
        dead.close()


def pretraining(head: Head, steps: int, run: str = "stopped") -> list[str]:
    return ["pretrain", *TINY, f"training.max_steps={steps}", f"cluster.storage_path={head.storage}", f"training.output_dir=runs/{run}"]


def test_preprocessed_by_rays_own_command(head: Head, data: dict) -> None:
    assert data["path"] == f"{head.storage}/data" and data["splits"]["train"]["rows"] > 50
    assert sent_with(head, "README.md") and not sent_with(head, "tests")


def test_a_pretraining_by_rays_own_command(head: Head, data: dict) -> None:
    command, *words = pretraining(head, 3, run="by_ray")
    result = sent_by_ray(head, command, *words)
    assert (result["status"], result["steps"], result["run"]) == ("finished", 3, f"{head.storage}/runs/by_ray")


def test_a_sweep(head: Head, data: dict) -> None:
    """Over a space of the user's own, which is on the client alone."""
    space = head.folder / "rates.yaml"
    space.write_text("settings: {training.learning_rate: {grid: [1e-3, 1e-2]}}\nsearch: grid\n")
    settings = ("training.max_steps=4", "logging.eval_interval=2", "cluster.train_workers=1", f"cluster.storage_path={head.storage}")
    status, result, said = head.submit("sweep", "--space", str(space), "--output_dir", "runs/sweep", *TINY, *settings)
    assert status == 0, said
    assert (result["status"], result["trials"]) == ("finished", {"finished": 2, "planned": 2})
    assert {path.name for path in (head.storage / "runs" / "sweep").iterdir()} >= {"best.yaml", "sweep.parquet", "trials"}


def test_a_stopped_job_has_saved(head: Head, stopped: Stopped) -> None:
    assert stopped.while_running["first"] == "running"
    assert stopped.stop[0] == 0 and stopped.stop[1]["status"] == "stopped"
    assert (stopped.status, stopped.result["status"], stopped.result["run"]) == (130, "interrupted", str(stopped.run))
    saved = newest_whole(stopped.run, [])
    assert saved is not None and read_info(saved).progress.step == stopped.result["steps"] > 20


def test_each_line_of_its_log_came_once(head: Head, stopped: Stopped) -> None:
    status, result, whole = head.run("logs", "first", "--address", head.dashboard)
    assert (status, result) == (130, stopped.result)
    ours = ("`hyena-glt logs first` follows it", "the job server does not answer")
    assert [line for line in stopped.said.splitlines() if not any(text in line for text in ours)] == whole.splitlines()
    assert "interrupted: saving a checkpoint" in whole


def test_prometheus_finds_the_figures_of_each_worker(stopped: Stopped) -> None:
    lines = [line for line in stopped.figures.splitlines() if line.startswith("ray_hyena_glt_")]
    shown = {line.partition("{")[0].removeprefix("ray_hyena_glt_") for line in lines}
    assert {"step", "first_step", "loss", "tokens_per_s", "learning_rate", "loader_wait_share"} <= shown <= set(GAUGES)
    assert all('run="stopped"' in line and 'rank="0"' in line for line in lines)
    assert max(float(line.split()[-1]) for line in lines if line.startswith("ray_hyena_glt_step{")) > 5


def test_a_server_that_stays_away(stopped: Stopped) -> None:
    status, result, said = stopped.lost
    assert (status, result) == (1, {})
    assert said.splitlines()[-1] == (
        "error: the job server has not answered for 1 s (ConnectionError); job first may well go on, and `hyena-glt logs first` follows it "
        "again"
    )


def test_what_was_sent_with_it(head: Head, stopped: Stopped) -> None:
    sent = next(place for place in sent_with(head, "config.yaml") if not (place / "space.yaml").exists())
    assert {path.name for path in sent.iterdir()} - {"__pycache__"} == {"hyena_glt", "pipelines", "cluster", "tune_spaces", "config.yaml"}
    environment = json.loads((stopped.run / "environment.json").read_text())
    assert environment["command"][1:] == ["pretrain", "config.yaml"] and environment["commit"] == code_commit()


def sent_with(head: Head, name: str) -> list[Path]:
    """The working directories on the head that hold a file or folder of that name."""
    return [path.parent for path in (head.session / "runtime_resources" / "working_dir_files").glob(f"*/{name}")]


def test_an_evaluation(head: Head, stopped: Stopped) -> None:
    status, scores, said = head.submit("evaluate", str(stopped.run), "--metrics", "loss")
    assert status == 0, said
    assert scores["checkpoint"].startswith(str(stopped.run)) and scores["metrics"]["loss"] > 0


@pytest.mark.long
def test_a_stopped_run_goes_on_to_its_end(head: Head, stopped: Stopped) -> None:
    steps = stopped.result["steps"] + 3
    status, result, said = head.submit(*pretraining(head, steps))
    assert (status, result["status"], result["steps"]) == (0, "finished", steps), said
    assert f"going on from step {steps - 3}" in said


def test_a_job_that_fails_says_so(head: Head, data: dict) -> None:
    """Two at once, not waited for: settings that do not fit the output folder, and a genome that is not there."""
    words = ["submit", "--no-wait", "--address", head.dashboard]
    same = ["preprocess", f"preprocessing.input_path={GENOME}", "output.path=data", f"cluster.storage_path={head.storage}"]
    missing = ["preprocess", "preprocessing.input_path=none.fa", "output.path=other", f"cluster.storage_path={head.storage}"]
    jobs = {"wrong": ("--submission_id", "wrong", "--", *same), "missing": ("missing", "--", *missing)}
    for name, process in [(name, head.start(*words, *job)) for name, job in jobs.items()]:
        assert finish(process)[:2] == (0, {"submission_id": name, "status": "submitted"})
    following = {name: head.start("logs", name, "--address", head.dashboard) for name in ("wrong", "missing", "nothing")}
    again = head.start(*words, *jobs["wrong"])
    status, result, said = finish(following["wrong"])
    assert (status, result) == (2, {}) and f"{head.storage}/data is the output folder of another run" in said
    assert said.splitlines()[-1] == "error: job wrong failed with exit status 2; its log is above"
    status, _, said = finish(following["missing"])
    assert status == 1 and said.splitlines()[-1] == "error: job missing failed with exit status 1; its log is above"
    known = head.run("status", "wrong", "--address", head.dashboard)[1]
    assert known.pop("seconds") > 0
    assert known == {"submission_id": "wrong", "status": "failed", "command": "preprocess", "exit_status": 2}
    assert finish(following["nothing"])[::2] == (
        1, f"error: {head.dashboard}: there is no such job; `hyena-glt status` lists those that there are\n"
    )
    status, _, said = finish(again)
    assert status == 1 and said.splitlines()[-1] == (
        f"error: {head.dashboard}: a job of this id was submitted before; choose another --submission_id, or leave it out"
    )


def test_a_run_that_the_cluster_has_no_room_for_waits(head: Head, data: dict) -> None:
    """It may be about to grow; here it is not."""
    status, result, said = head.submit(*pretraining(head, 5, run="waits"), "hardware.num_gpus=2", "cluster.start_timeout_s=6")
    assert (status, result) == (1, {})
    assert "waiting for room for 2 workers of 1 CPU and 1 GPU: the cluster has 2 CPUs and 0 GPUs" in said
    assert "found no room within 6 s (cluster.start_timeout_s)" in said


def test_no_secret_is_anywhere(head: Head, stopped: Stopped) -> None:
    """The head's environment holds secrets, which all that it starts inherit: none stands in a file, W&B's too, or a command line."""
    token = (head.folder / "home" / ".ray" / "auth_token").read_bytes()
    assert any("raylet" in word for word in stopped.arguments)
    assert not any(CANARY in word or token.decode() in word for word in stopped.arguments)
    files = [head.folder / "head.log", *(path for folder in (head.storage, head.session) for path in folder.rglob("*") if path.is_file())]
    assert any("checkpoints" in path.parts for path in files) and any(path.name == "raylet.out" for path in files)
    assert any(path.suffix == ".wandb" for path in files) and any(path.name == "debug-internal.log" for path in files)
    for path in files:
        try:
            content = path.read_bytes()
        except FileNotFoundError:  # the head lives
            continue
        assert CANARY.encode() not in content and token not in content, path


# Tokens


def test_a_job_server_without_the_token(head: Head) -> None:
    words = ("status", "--address", head.dashboard)
    cases = {
        "none": (head.environment("none"), "this cluster asks for a token, and there is none here; write"),
        "wrong": (head.environment("wrong"), f"this cluster asks for another token than that in {head.folder}/wrong/.ray/auth_token; take"),
        "off": (head.environment() | {"RAY_AUTH_MODE": "disabled"}, "and RAY_AUTH_MODE is 'disabled' here; leave it out"),
    }
    started = {name: head.start(*words, env=env) for name, (env, _) in cases.items()}
    for name, process in started.items():
        status, result, said = finish(process)
        assert (status, result) == (1, {}) and len(said.splitlines()) == 1, said
        assert said.startswith(f"error: {head.dashboard}: ") and cases[name][1] in said
    for path in ("/api/version", "/api/jobs/", "/nodes", "/api/cluster_status"):
        assert status_of(head.dashboard + path) == 401, path
    assert status_of(f"{head.dashboard}/api/jobs/", {"Authorization": f"Bearer {'0' * 64}"}) == 403


def test_no_server(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:9")
    assert main(["status"]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        "error: http://127.0.0.1:9: no job server answers; is the cluster up, and its dashboard's port forwarded to this machine?"
    )


@pytest.mark.parametrize(("error", "place"), [
    (OSError(errno.ENOSPC, "No space left on device"), gettempdir()),
    (PermissionError(errno.EACCES, "Permission denied", "/code/x.py"), "/code/x.py"),
])
def test_a_file_here_is_not_the_servers(monkeypatch: pytest.MonkeyPatch, error: OSError, place: str) -> None:
    """As where Ray writes its archive of what it sends."""
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")  # set by it, and restored behind the test
    monkeypatch.setattr("ray.job_submission.JobSubmissionClient", lambda url: None)
    problem = rf"^{place}: could not be read or written \({error.strerror}\); when that is cured, "
    with pytest.raises(StorageError, match=problem), _server("http://127.0.0.1:9"):
        raise error


def test_an_open_way_for_the_token_is_named(caplog: pytest.LogCaptureFixture) -> None:
    for address in ("http://127.0.0.1:8265", "http://localhost:8265/", "https://10.0.0.1"):
        assert _checked_url(address) == address.rstrip("/") and not caplog.messages
    _checked_url("http://10.0.0.1:8265")
    assert caplog.messages == [
        "note: the token goes to 10.0.0.1 unencrypted; forward the dashboard's port to this machine (ray dashboard, kubectl port-forward, "
        "ssh -L), or put https before it"
    ]


@pytest.mark.parametrize(
    ("ended", "problem", "status"),
    [
        ({"status": "FAILED", "driver_exit_code": -9}, "job j failed with exit status 137; its log is above", 137),
        ({"status": "FAILED", "message": "the node\nis gone"}, "job j failed: the node is gone", 1),
        ({"status": "STOPPED"}, "job j was stopped", 130),
    ],
)
def test_other_ends(ended: dict, problem: str, status: int) -> None:
    with pytest.raises(JobError) as error:
        _outcome("j", JobDetails(type="SUBMISSION", entrypoint="x", **ended), Transcript(io.StringIO()))
    assert (str(error.value), error.value.exit_status) == (problem, status)


# The transcript


class Quiet:
    """A job server that knows one job, which has ended, and its log of one line."""

    def get_job_info(self, name: str) -> JobDetails:
        return JobDetails(type="SUBMISSION", submission_id=name, entrypoint="x", status="SUCCEEDED")

    async def tail_job_logs(self, name: str) -> AsyncIterator[str]:
        yield "step 1\n"


@pytest.mark.parametrize(("place", "status", "problem"), [
    ("pipe", 141, "nobody reads the log any more; the job goes on"),  # as a shell says that SIGPIPE ended it
    ("/dev/full", 1, "the log could not be written ([Errno 28] No space left on device); the job goes on"),
])
def test_an_output_that_takes_nothing_more_ends_it(monkeypatch: pytest.MonkeyPatch, place: str, status: int, problem: str) -> None:
    """As of `hyena-glt logs first 2>&1 | head`, whose stream has not broken: no other would do better."""
    monkeypatch.setattr("cluster.jobs._server", lambda address: nullcontext(Quiet()))
    monkeypatch.setattr("cluster.jobs.RETRY_S", 0.0)
    with _taking_nothing(place) as out:
        monkeypatch.setattr(sys, "stderr", out)
        with pytest.raises(HyenaError) as error:
            logs("first", address=None)
        assert (str(error.value), error.value.exit_status) == (problem, status)


def test_a_reader_that_left_hears_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error has nowhere to go either, and does not become another one."""
    monkeypatch.setattr("cluster.jobs._server", lambda address: nullcontext(Quiet()))
    monkeypatch.setattr("cluster.jobs.RETRY_S", 0.0)
    with _taking_nothing("pipe") as out:
        monkeypatch.setattr(sys, "stderr", out)
        assert main(["logs", "first"]) == 141


def _taking_nothing(place: str) -> TextIO:
    """Unbuffered, so that nothing is left for its close to fail on."""
    if place != "pipe":
        return io.TextIOWrapper(open(place, "wb", buffering=0), write_through=True)
    reading, writing = os.pipe()
    os.close(reading)
    return io.TextIOWrapper(open(writing, "wb", buffering=0), write_through=True)


def test_a_stream_that_begins_again_repeats_nothing() -> None:
    out = io.StringIO()
    text = Transcript(out)
    whole = "one\ntwo\n" + json.dumps({"status": "finished"}) + "\nlast words"
    for length in (3, 9, 7, len(whole), len(whole)):
        text.begin()
        for start in range(0, length, 4):
            text.take(whole[start : min(start + 4, length)])
    assert out.getvalue() == whole
    assert text.result() == {"status": "finished"}


def test_a_log_without_a_result() -> None:
    text = Transcript(io.StringIO())
    text.take("{not json}\n[1]\nTraceback\n")
    assert text.result() is None
