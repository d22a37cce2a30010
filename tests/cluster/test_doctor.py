"""`hyena-glt doctor` on real Ray nodes: on this machine alone, and on machines of namespaces with defects planted in them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.parcel import given_paths
from cluster.paths import with_storage
from hyena_glt import __version__
from hyena_glt.cli import main
from hyena_glt.config import load_config
from hyena_glt.errors import ConfigError
from pipelines.doctor import doctor, read, written
from tests.cluster.machines import ROOT, Machine, machines, must_end_well
from tests.waiting import HANG_S

ADDRESS = "10.77.0.1:6379"
FAST_CLOCK = """
import sys, time
right = time.time
if any("default_worker" in word for word in sys.orig_argv):  # `ray start` itself would take it for a time-out
    time.time = lambda: right() + 400
"""

NOT_INSTALLED = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("hyena_glt", "pipelines", "cluster"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
"""


def test_which_paths_are_tried() -> None:
    """All that any command reads or writes: of a glob the folder above its matches, of intervals the files among them."""
    given = given_paths(with_storage(load_config(None, [
        "cluster.storage_path=/mnt/s", "tune.space=mixers", "training.init_from=runs/old", "data.train_path=[a,/b]", "data.eval_data=a",
        "preprocessing.input_path=['genomes/*/x.fa', '/g/y.fa', 's3://bucket/g/*.fa']", "preprocessing.variants.path=v.vcf.gz",
        "preprocessing.split.by=interval", "preprocessing.split.val_intervals=['chr1:1-500', val.bed]", "output.path=s3://bucket/data",
        "model.name=m",
    ])))
    assert written(given) == ["/mnt/s/runs/m", "/mnt/s/runs/m-sweep", "s3://bucket/data", "/mnt/s/.hyena-glt"]
    assert read(given) == [
        "/mnt/s/genomes", "/g/y.fa", "s3://bucket/g", "/mnt/s/v.vcf.gz", "/mnt/s/val.bed", "/mnt/s/a", "/b", "/mnt/s/runs/old",
    ]


def test_a_job_is_refused_a_relative_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where Ray's own command sent it; what is not set stays untried."""
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"runtime_env": {"working_dir": "gcs://x.zip"}}))
    with pytest.raises(ConfigError, match=r"^training\.init_from: runs/old is relative, and a job runs in a copy of the code"):
        doctor(load_config(None, ["training.init_from=runs/old"]))


def examine(head: Machine, *settings: str) -> tuple[int, dict, str]:
    """(Exit status, result, what went to stderr) of the doctor, started on the head."""
    done = head.run([sys.executable, "-m", "hyena_glt.cli", "doctor", f"cluster.address={ADDRESS}", *settings])
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout.splitlines()[-1]), done.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_one_machine_without_a_cluster(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a lab with one workstation runs first. It leaves no trace where the run will go."""
    status = main(["doctor", "quickstart.yaml", f"training.output_dir={tmp_path}/runs/first", f"output.path={tmp_path}/data"])
    out, err = capsys.readouterr()
    result = json.loads(out.splitlines()[-1])
    assert (status, result["status"]) == ((1, "broken") if result["breaks"] else (0, "healthy"))
    [(name, found)] = result["nodes"].items()
    assert found["machine"]["versions"]["hyena-glt"] == __version__
    assert abs(found["clock_offset_s"]) < 1
    assert set(result["storage"]) == {f"{tmp_path}/runs/first", f"{tmp_path}/data"}
    assert all(speed > 0 for place in result["storage"].values() for speed in place[name].values())
    assert result["sums"] is None
    assert list(tmp_path.iterdir()) == []
    header, row = err.splitlines()[:2]
    assert header.split()[:4] == ["node", "host", "python", "torch"]
    assert row.startswith(name)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_workers_that_never_come_are_a_finding(capsys: pytest.CaptureFixture[str]) -> None:
    """Of a cluster, by its address; the node that there is, is examined all the same."""
    status = main(["doctor", "cluster.address=auto", "cluster.train_workers=[3,8]", "cluster.start_timeout_s=0"])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (status, result["status"], len(result["nodes"])) == (1, "broken", 1)
    assert result["breaks"][0].startswith(
        "3 workers of 1 CPU found no room within 0 s (cluster.start_timeout_s): the cluster has 2 CPUs, of which "
    )


@pytest.mark.slow
def test_a_node_that_comes_later_is_examined() -> None:
    """A head without a CPU, as of a cluster that grows."""
    with machines(2) as (head, worker):
        must_end_well(head.ray_starting("--head", "--port=6379", "--include-dashboard=false", "--num-cpus=0"))
        examining = head.popen(
            [sys.executable, "-m", "hyena_glt.cli", "doctor", f"cluster.address={ADDRESS}", "cluster.train_workers=1"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        first = next((line for line in examining.stderr if "waiting for room" in line), "")
        must_end_well(worker.ray_starting(f"--address={ADDRESS}", "--num-cpus=1"))
        out, said = examining.communicate(timeout=HANG_S)
    assert first.startswith("waiting for room for a worker of 1 CPU: the cluster has 0 CPUs"), first
    assert set(json.loads(out.splitlines()[-1])["nodes"]) == {"10.77.0.1", "10.77.0.2"}, said


@pytest.fixture
def sick(tmp_path: Path) -> Iterator[tuple[Machine, Path]]:
    """A head on which all is well, of a cluster whose two other nodes have all manner of defects; and the folder that all should share."""
    shared = tmp_path / "shared"
    (shared / "data").mkdir(parents=True)
    with machines(3) as (head, worker, bare):
        must_end_well(head.ray_starting("--head", "--port=6379", "--include-dashboard=false"))
        for place, size in {str(shared): "1g", "/dev/shm": "64m", "/tmp/ray": "300m"}.items():  # the first in the place of the shared one
            worker.mount(place, size)
        few_files = ["prlimit", "--nofile=900:900"]
        join = f"--address={ADDRESS}"
        must_end_well(
            worker.ray_starting(join, "--num-gpus=1", env={"PYTHONPATH": str(_other_code(tmp_path / "other"))}, under=few_files),
            bare.ray_starting(join, env={"PYTHONPATH": str(_no_code(tmp_path / "none"))}),
        )
        assert worker.run(["fallocate", "--length=290M", "/tmp/ray/ballast"]).returncode == 0
        yield head, shared


def _other_code(folder: Path) -> Path:
    """This project, a version earlier, beside another DeepSpeed, where Python's clock is ahead."""
    for package in ("hyena_glt", "cluster"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    code = folder / "hyena_glt/__init__.py"
    code.write_text(code.read_text().replace(f'__version__ = "{__version__}"', '__version__ = "0.0.9"'))
    (folder / "sitecustomize.py").write_text(FAST_CLOCK)
    (folder / "deepspeed-0.18.0.dist-info").mkdir()
    (folder / "deepspeed-0.18.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: deepspeed\nVersion: 0.18.0\n")
    return folder


def _no_code(folder: Path) -> Path:
    """This project is not installed."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(NOT_INSTALLED)
    return folder


@pytest.mark.slow
def test_planted_defects_are_found(sick: tuple[Machine, Path]) -> None:
    head, shared = sick
    status, result, err = examine(head, f"training.output_dir={shared}/runs", f"data.train_path={shared}/data")
    assert (status, result["status"]) == (1, "broken")
    wanted = [
        f"node 10.77.0.2: has hyena-glt 0.0.9, and the driver has {__version__}; install hyena-glt {__version__}, or the same image, .*",
        r"node 10.77.0.2: has deepspeed 0.18.0, and the driver has \S+; install deepspeed \S+, or the same image, on every node",
        "node 10.77.0.2: offers 1 GPU to Ray, and nvidia-smi finds none; mend the driver, or start Ray there with --num-gpus=0",
        r"node 10.77.0.2: the disk of /tmp/ray/session_\S+ is 9\d% full \(\d+ MB free\), and Ray stops writing to it at 95%; .*",
        "node 10.77.0.2: /dev/shm holds 67 MB, too little for Ray's objects, NCCL and loader processes; start its container with .*",
        "node 10.77.0.2: a process may open only 900 files; run `ulimit -n 65536` before `ray start` there",
        r"node 10.77.0.2: its clock is (400.0|399.9) s ahead of the driver's; let chrony or systemd-timesyncd set it",
        f"node 10.77.0.2: does not see {shared}/data; mount the storage that holds it there, at the same path",
        r"node 10.77.0.3: the probes do not run there \(ModuleNotFoundError: .*\); install the driver's hyena-glt on it",
        f"node 10.77.0.2: cannot use {shared}/runs .*; mount the shared storage there, at the same path and writable",
        r"node 10.77.0.2: torch cannot compute on the GPUs that Ray hands out there \(.*\); install the build of torch that fits .*",
    ]
    assert len(result["breaks"]) == len(wanted), err
    for found, pattern in zip(result["breaks"], wanted, strict=True):
        assert re.fullmatch(pattern, found), found
        assert f"error: {found}\n" in err
    assert result["warnings"] == []
    assert result["sums"]["processes"] == 2  # the two that answer
    assert [path.name for path in shared.iterdir()] == ["data"]


@pytest.mark.long
def test_nodes_that_do_not_find_each_other_by_gloo() -> None:
    """gloo told to take connections on loopback: the nodes reach each other, and sums do not."""
    with machines(2) as (head, worker):
        must_end_well(head.ray_starting("--head", "--port=6379", "--include-dashboard=false"))
        must_end_well(worker.ray_starting(f"--address={ADDRESS}", env={"GLOO_SOCKET_IFNAME": "lo"}))
        status, result, _ = examine(head)
        assert status == 1
        [found] = result["breaks"]
        assert re.fullmatch(
            r"2 processes cannot sum by gloo \(.+\); set GLOO_SOCKET_IFNAME to the network interface that joins the nodes, before "
            r"`ray start` on each", found,
        ), found
