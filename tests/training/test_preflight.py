"""The probes of the doctor: they see files that are not shared, ports that are closed, and leave the run folder as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyena_glt.data.storage import names_in
from hyena_glt.errors import StorageError
from hyena_glt.training import preflight
from tests import stores

s3, bucket = stores.s3, stores.s3_bucket  # fixtures
MB = 1 << 20


def test_probes_lie_in_the_nearest_folder_that_exists(tmp_path: Path) -> None:
    folder = preflight.make_probe_folder(str(tmp_path / "runs/first"), "x")
    assert Path(folder).parent == tmp_path
    assert not (tmp_path / "runs").exists()
    preflight.remove_probe_folder(folder)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("remote", [False, True])
def test_files_of_others(tmp_path: Path, request: pytest.FixtureRequest, remote: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Locally and in an object store: what was written is read, what holds another's content or is not there is missing."""
    monkeypatch.setattr(preflight, "SEEN_WITHIN_S", 0.3)
    place = str(request.getfixturevalue("bucket") / "run") if remote else str(tmp_path)
    folder = preflight.make_probe_folder(place, "x")
    assert preflight.write_file(folder, "10.0.0.1", MB) > 0
    assert preflight.write_file(folder, "10.0.0.2", MB) > 0
    reading = preflight.read_files(folder, ["10.0.0.1", "10.0.0.2", "10.0.0.3"])
    assert reading["missing"] == ["10.0.0.3"] and reading["mb_per_s"] > 0
    if not remote:
        (Path(folder) / "10.0.0.2").write_bytes(b"something else")
        assert preflight.read_files(folder, ["10.0.0.2"]) == {"missing": ["10.0.0.2"], "mb_per_s": None}
    assert (preflight.free_space(folder) is None) == remote
    preflight.remove_probe_folder(folder)
    left = names_in(request.getfixturevalue("bucket")) if remote else list(tmp_path.iterdir())
    assert not left


def test_a_folder_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    """On a node without the shared mount; a folder of its own would look like success."""
    with pytest.raises(StorageError, match="No such file or directory"):
        preflight.write_file(str(tmp_path / "missing"), "10.0.0.1", MB)


def test_doors() -> None:
    port, closed = preflight.listen("127.0.0.1"), preflight.free_port("127.0.0.1")
    assert preflight.unreachable({"open": ("127.0.0.1", port), "closed": ("127.0.0.1", closed)}) == ["closed"]


def test_paths_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "train.h5").touch()
    assert preflight.sees([str(tmp_path), str(tmp_path / "train.h5"), str(tmp_path / "val.h5")]) == [str(tmp_path / "val.h5")]


def test_a_machine_without_some_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "PACKAGES", ("numpy", "no-such-package"))
    found = preflight.machine(None)
    assert found["versions"]["no-such-package"] is None and found["versions"]["numpy"]
    assert found["temporary"] is None and found["open_files"] != 0
