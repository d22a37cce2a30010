"""All files under cluster/: no port open to the world, no secret, one version of Ray, in the package; the image's recipe."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from hyena_glt import __version__
from tests.cluster.shipped_files import CLUSTER, LAUNCHERS, MANIFESTS, OTHERS, ROOT, open_doors, secrets_in

ALL = [*LAUNCHERS, *MANIFESTS, *OTHERS]
STARTING = [path for path in ALL if path.name != "grafana.json"]


def test_nothing_is_left_out() -> None:
    there = {path for path in CLUSTER.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert there == set(ALL)
    packaged = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["cluster"]
    assert {path for pattern in packaged for path in CLUSTER.glob(pattern)} == set(ALL)


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_no_door_and_no_secret(path: Path) -> None:
    text = path.read_text()
    assert not open_doors(text)
    assert not secrets_in(text)


@pytest.mark.parametrize("path", STARTING, ids=lambda path: path.name)
def test_each_cluster_asks_for_a_token(path: Path) -> None:
    text = path.read_text()
    assert "RAY_AUTH_MODE=token" in text or "authOptions: {mode: token}" in text


@pytest.mark.parametrize(
    "text",
    ["- ray start --head --dashboard-host=0.0.0.0", "serviceType: LoadBalancer", 'CidrIpv6: "::/0"', "EXPOSE 8265", "enableIngress: true"],
)
def test_doors_are_seen(text: str) -> None:
    assert open_doors(text)


@pytest.mark.parametrize(
    "text",
    [
        "WANDB_API_KEY: 0123456789abcdef", "export RAY_AUTH_TOKEN='abcdefgh12'", "AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG",
        "AKIAIOSFODNN7EXAMPLE", "https://me:hunter2@example.org/", "token: " + "0f" * 32,
    ],
)
def test_secrets_are_seen(text: str) -> None:
    assert secrets_in(text)


def test_versions_agree() -> None:
    pinned = re.search(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    for path in MANIFESTS:
        assert re.search(r"rayVersion: (\S+)", path.read_text()).group(1) == pinned.group(1)
    for path in [*LAUNCHERS, *MANIFESTS]:
        assert set(re.findall(r"image: (\S+)", path.read_text())) == {f"REGISTRY/hyena-glt:{__version__}"}


def instructions() -> list[tuple[str, str]]:
    """Of the Dockerfile: (word, the rest), continued lines joined."""
    lines = re.sub(r"\\\n", " ", (CLUSTER / "Dockerfile").read_text()).splitlines()
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines if line.strip() and not line.startswith("#")]


def test_the_image_holds_the_pinned_packages_and_all_our_code() -> None:
    steps = instructions()
    installs = [rest for word, rest in steps if word == "RUN" and "pip install" in rest]
    assert installs and all("-c constraints.txt" in rest for rest in installs)
    copied = {name for word, rest in steps if word == "COPY" for name in rest.split()[:-1]}
    assert all((ROOT / name).exists() for name in copied)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {pattern.rstrip("*") for pattern in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert packages <= copied
    assert {"pyproject.toml", "constraints.txt", project["project"]["readme"], *project["project"]["license-files"]} <= copied
    extras = re.search(r"\.\[([\w,]+)\]", installs[-1]).group(1).split(",")
    assert set(extras) == set(project["project"]["optional-dependencies"]) - {"dev"}


def test_the_image_holds_the_programs_that_others_call() -> None:
    [packages] = [rest for word, rest in instructions() if word == "RUN" and "apt-get install" in rest]
    assert {"gcc", "libc6-dev", "openssh-client", "procps", "rsync", "wget"} <= set(packages.split())  # Triton, the launcher, KubeRay


def test_the_image_runs_without_root_and_asks_for_no_secret() -> None:
    steps = instructions()
    assert [rest for word, rest in steps if word == "USER"][-1] == "ray"
    assert {word for word, _ in steps} <= {"FROM", "RUN", "WORKDIR", "COPY", "USER", "ENV"}
    assert [rest for word, rest in steps if word == "FROM"] == ["python:3.11-slim"]
