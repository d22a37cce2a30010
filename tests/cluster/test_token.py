"""Tokens: made for clusters that start here, shown to clusters elsewhere, and one sentence where they do not fit."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from cluster.token import ask_for_own_token, ask_for_token, make_token, refused, token_place
from hyena_glt.errors import ClusterError

VARIABLES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_JOB_CONFIG_JSON_ENV_VAR", "RAY_RAYLET_PID", "RAY_ADDRESS")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Somebody who has never started Ray."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    return tmp_path


def test_a_token_is_made_once_for_its_owner_alone(home: Path) -> None:
    file = home / ".ray" / "auth_token"
    make_token()
    first = file.read_text()
    assert re.fullmatch(r"[0-9a-f]{64}", first) and file.stat().st_mode & 0o777 == 0o600
    file.chmod(0o644)  # as Ray leaves its own
    make_token()
    assert file.read_text() == first and file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in file.parent.iterdir()] == ["auth_token"]


@pytest.mark.parametrize(("name", "value"), [("RAY_AUTH_MODE", "disabled"), ("RAY_AUTH_TOKEN", "given")])
def test_none_is_made_where_it_would_not_be_asked_for(home: Path, monkeypatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    make_token()
    assert not (home / ".ray").exists()


def test_a_token_that_cannot_be_made(home: Path, monkeypatch) -> None:
    (home / "file").write_text("")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(home / "file" / "token"))
    with pytest.raises(ClusterError) as error:
        make_token()
    assert str(error.value) == (
        f"{home}/file/token: no token could be made for the cluster (File exists); set RAY_AUTH_TOKEN_PATH to a file that can be written, "
        f"or RAY_AUTH_MODE=disabled where everybody who reaches this machine may run code on it"
    )


def test_the_token_is_found_where_ray_looks(home: Path, monkeypatch) -> None:
    assert token_place() is None
    make_token()
    assert token_place() == str(home / ".ray" / "auth_token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(home / "other"))
    assert token_place() is None
    (home / "other").write_text("x")
    assert token_place() == str(home / "other")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "x")
    assert token_place() == "RAY_AUTH_TOKEN"


def test_the_token_is_asked_for_where_there_is_one(home: Path) -> None:
    ask_for_token()
    assert "RAY_AUTH_MODE" not in os.environ
    make_token()
    ask_for_token()
    assert os.environ.pop("RAY_AUTH_MODE") == "token"


def test_the_first_cluster_has_a_token_too(home: Path) -> None:
    ask_for_own_token()
    assert os.environ.pop("RAY_AUTH_MODE") == "token" and token_place() == str(home / ".ray" / "auth_token")


def test_nothing_is_set_that_ray_would_not_hear_of(home: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", sys)
    ask_for_own_token()
    assert "RAY_AUTH_MODE" not in os.environ
    assert str(refused("http://h:1")) == (
        "http://h:1: this cluster asks for a token, and Ray was imported before RAY_AUTH_MODE=token was set; set it first"
    )


@pytest.mark.parametrize("name", ["RAY_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR"])
def test_who_starts_no_cluster_makes_no_token(home: Path, monkeypatch, name: str) -> None:
    monkeypatch.setenv(name, "x")
    ask_for_own_token()
    assert token_place() is None and "RAY_AUTH_MODE" not in os.environ


@pytest.mark.parametrize(
    ("name", "value"), [("RAY_AUTH_MODE", "disabled"), ("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"), ("RAY_RAYLET_PID", "1")]
)
def test_what_was_said_otherwise_and_the_clusters_own_mode_stand(home: Path, monkeypatch, name: str, value: str) -> None:
    make_token()
    monkeypatch.setenv(name, value)
    ask_for_token()
    assert os.environ.get("RAY_AUTH_MODE") == (value if name == "RAY_AUTH_MODE" else None)


def test_what_a_refusal_says(home: Path, monkeypatch) -> None:
    assert str(refused("http://h:1")) == (
        "http://h:1: this cluster asks for a token, and there is none here; write the cluster's own (`ray get-auth-token` on its head) to "
        "~/.ray/auth_token, readable by you alone, or name its file in RAY_AUTH_TOKEN_PATH"
    )
    make_token()
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert str(refused("http://h:1")) == "http://h:1: this cluster asks for a token, and RAY_AUTH_MODE is 'disabled' here; leave it out"
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert str(refused("http://h:1")) == (
        f"http://h:1: this cluster asks for another token than that in {home}/.ray/auth_token; take the cluster's own "
        f"(`ray get-auth-token` on its head)"
    )
