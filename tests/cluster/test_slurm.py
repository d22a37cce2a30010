"""The Slurm script on two machines of namespaces, under a stand-in for Slurm: Ray starts on both, the command's end is the job's."""

from __future__ import annotations

import json
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.cluster import slurm_node
from tests.cluster.machines import Machine, environment, machines
from tests.cluster.shipped_files import CLUSTER
from tests.tiny_run import write_lambda_data
from tests.waiting import HANG_S, wait_until

SCRIPT = CLUSTER / "slurm.sh"
JOB = "7"
PORT = 20007


@dataclass(frozen=True)
class Allocation:
    """Two machines that take steps, and the folder that both see."""

    nodes: list[Machine]
    shared: Path

    def submit(self, *words: str) -> subprocess.Popen:
        """Start the batch script on the first node, as sbatch does."""
        given = {
            "SLURM_JOB_ID": JOB, "SLURM_NNODES": "2", "SLURM_CPUS_ON_NODE": "1", "HOME": str(self.shared), "TMPDIR": "/tmp",
            "PATH": f"{self.shared / 'bin'}:{environment()['PATH']}",
            "SLURM_NODE_SOCKETS": ":".join(str(self.shared / f"{number}.socket") for number in range(2)),
            "RAY_gcs_rpc_server_reconnect_timeout_s": "10",  # else the other node looks for the head that has ended for a minute
        }
        return self.nodes[0].popen(
            ["bash", str(SCRIPT), *words], given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=self.shared
        )

    def told_slurm(self) -> str:
        """What scontrol was called with."""
        said = self.shared / "scontrol"
        return said.read_text() if said.exists() else ""


@pytest.fixture
def allocation(tmp_path: Path) -> Iterator[Allocation]:
    (tmp_path / "bin").mkdir()
    _script(tmp_path / "bin/srun", f'exec {sys.executable} {slurm_node.__file__} step "$@"')
    _script(tmp_path / "bin/scontrol", f'echo "$@" >> {tmp_path}/scontrol')
    with machines(2) as nodes:
        for number, node in enumerate(nodes):
            node.popen([sys.executable, slurm_node.__file__, "serve", str(tmp_path / f"{number}.socket")])
        wait_until(lambda: len(list(tmp_path.glob("*.socket"))) == 2)
        yield Allocation(nodes, tmp_path)


def _script(path: Path, line: str) -> None:
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)


def finished(job: subprocess.Popen) -> tuple[int, str, str]:
    """(Exit status, output, errors) of a job, once it has ended."""
    out, err = job.communicate(timeout=HANG_S)
    return job.returncode, out, err


def result(out: str) -> dict[str, object]:
    """The line of JSON that the command printed among Ray's."""
    return json.loads(next(line for line in out.splitlines() if line.startswith('{"status"')))


def test_it_is_a_script_that_bash_takes() -> None:
    assert SCRIPT.stat().st_mode & stat.S_IXUSR
    done = subprocess.run(["bash", "-n", str(SCRIPT)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_shellcheck_finds_nothing() -> None:
    done = subprocess.run([Path(sys.executable).with_name("shellcheck"), SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_bad_calls_are_sentences(tmp_path: Path) -> None:
    done = subprocess.run(["bash", str(SCRIPT)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, f"usage: sbatch --nodes=N {SCRIPT} COMMAND [CONFIG] [section.key=value ...]\n")
    bash = shutil.which("bash")
    done = subprocess.run([bash, str(SCRIPT), "doctor"], capture_output=True, text=True, env={"PATH": str(tmp_path)})
    assert done.returncode == 1
    assert done.stderr == "error: hyena-glt is not on the PATH; activate its environment, then sbatch again\n"


STANDINS = {
    "srun": 'while [ "$1" != bash ]; do shift; done\nSLURM_NODEID=0 exec "$@"',
    "ray": 'while [ "$1" != -- ]; do shift; done\nshift\n"$@"',
    "hostname": "echo 127.0.0.1",
}
"""One node without Slurm and Ray, in shell."""
SAVES = "trap 'exit 130' TERM"
FAILS = "trap 'exit 1' TERM"
DIES = ":"  # as preprocess does, and a run that still plans


@pytest.mark.parametrize(
    ("notice", "answer", "status", "told"),
    [
        (signal.SIGUSR1, SAVES, 130, f"requeue {JOB}\n"),
        (signal.SIGUSR1, DIES, 143, f"requeue {JOB}\n"),
        (signal.SIGUSR1, FAILS, 1, ""),
        (signal.SIGTERM, SAVES, 130, ""),  # scancel
        (signal.SIGTERM, DIES, 143, ""),
    ],
)
def test_what_a_notice_ended_is_queued_again(tmp_path: Path, notice: signal.Signals, answer: str, status: int, told: str) -> None:
    (tmp_path / "bin").mkdir()
    for name, lines in STANDINS.items():
        _script(tmp_path / "bin" / name, lines)
    _script(tmp_path / "bin/hyena-glt", f"{answer}\ntouch {tmp_path}/began\nwhile :; do sleep 0.05; done")
    _script(tmp_path / "bin/scontrol", f'echo "$@" >> {tmp_path}/scontrol')
    given = {
        "SLURM_JOB_ID": JOB, "SLURM_NNODES": "1", "SLURM_CPUS_ON_NODE": "1", "HOME": str(tmp_path),
        "PATH": f"{tmp_path / 'bin'}:{environment()['PATH']}",
    }
    job = subprocess.Popen(["bash", str(SCRIPT), "preprocess"], env=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_until((tmp_path / "began").exists, process=job)
    job.send_signal(notice)
    _, err = job.communicate(timeout=HANG_S)
    assert job.returncode == status, err
    said = tmp_path / "scontrol"
    assert (said.read_text() if said.exists() else "") == told


@pytest.mark.slow
def test_one_command_runs_over_all_nodes(allocation: Allocation) -> None:
    """The doctor over both: all is well; the token was needed, lay where only its owner reads, and is gone."""
    job = allocation.submit("doctor", f"training.output_dir={allocation.shared}/runs")
    token = allocation.shared / f".hyena-glt/jobs/{JOB}/token"
    wait_until(lambda: token.exists() and token.stat().st_size == 64, process=job)
    assert (stat.S_IMODE(token.stat().st_mode), stat.S_IMODE(token.parent.stat().st_mode)) == (0o600, 0o700)
    secret = token.read_text()
    status, out, err = finished(job)
    found = result(out)
    assert (status, found["status"]) == (0, "healthy"), err
    assert sorted(found["nodes"]) == ["10.77.0.1", "10.77.0.2"]
    assert found["sums"]["processes"] == 2 and found["sums"]["gb_per_s"] > 0
    assert not token.parent.exists()
    assert secret not in out + err
    assert allocation.told_slurm() == ""


@pytest.mark.long
def test_a_command_that_fails_fails_the_job(allocation: Allocation) -> None:
    status, out, err = finished(allocation.submit("pretrain", "nothing.yaml"))
    assert status == 2, out + err
    assert "error: nothing.yaml" in err


@pytest.mark.long
def test_a_ray_that_does_not_start_fails_the_job(allocation: Allocation) -> None:
    """symmetric-run itself ends with 0 there; the other node, which does not find the head, does not end the job before it."""
    listen = f"import socket, time; s = socket.create_server(('10.77.0.1', {PORT})); time.sleep(1000)"
    allocation.nodes[0].popen([sys.executable, "-c", listen])
    status, out, err = finished(allocation.submit("doctor"))
    assert status == 1, out + err
    assert "error: Ray ended on machine1 before the command did" in err
    assert err.splitlines()[-1] == (
        "error: the command did not run to its end, because Ray did not start on all 2 nodes or ended on one; see above"
    )


@pytest.mark.long
def test_when_time_is_nearly_up_the_run_saves_and_is_queued_again(allocation: Allocation) -> None:
    """SIGUSR1 to the batch script, as --signal asks for; the job that comes back goes on where the first stopped."""
    data, run = write_lambda_data(allocation.shared / "data", {"kind": "char"}), allocation.shared / "run"
    words = [
        "pretrain", f"data.train_path={data}", "model.hidden_size=32", "model.num_layers=3", "model.mixers=[se,mr,li]",
        "tokenization.kind=char", "model.max_position_embeddings=128", "training.batch_size=8", "logging.use_tensorboard=false",
        "logging.log_interval=1", "cluster.train_workers=2", f"training.output_dir={run}",
    ]
    job = allocation.submit(*words, "training.max_steps=100000")
    wait_until((run / "metrics.jsonl").exists, process=job)
    [script] = psutil.Process(job.pid).children()  # popen's process is nsenter, which became the script's parent in the machine
    script.send_signal(signal.SIGUSR1)
    status, out, err = finished(job)
    assert (status, result(out)["status"]) == (130, "interrupted"), err
    assert allocation.told_slurm() == f"requeue {JOB}\n"
    steps = result(out)["steps"]
    assert steps > 0
    status, out, err = finished(allocation.submit(*words, f"training.max_steps={steps + 5}"))
    assert (status, result(out)["steps"]) == (0, steps + 5), err
    assert f"going on from step {steps}" in err.replace(",", "")
