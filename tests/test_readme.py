"""The README says what is true: its Python and its examples run, its tree is the tree, its commands and settings exist."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hyena_glt.cli import main
from hyena_glt.config import load_config
from hyena_glt.model.count import count_parameters

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SOURCES = README.partition("| source | settings | example")[2].partition("\n\n")[0].splitlines()[2:]
"""The rows of the table of sources."""


@pytest.mark.slow
def test_the_python_runs_as_written(tmp_path: Path) -> None:
    code = "".join(re.findall(r"```python\n(.*?)```", README, re.DOTALL))
    (tmp_path / "pipelines").symlink_to(ROOT / "pipelines")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    beats, shape_and_bits, generated = done.stdout.strip().splitlines()
    assert beats.startswith("[")
    assert shape_and_bits.startswith("(32,) [")
    assert re.fullmatch(r"\['ATG[ACGT]*'\]", generated)


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("row", SOURCES, ids=[row.split("|")[1].strip()[:30] for row in SOURCES])
def test_each_source_runs_as_written(row: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """At a root of its own, which has the files that the commands name."""
    for name in ("pipelines", "tests"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    words = re.search(r"`hyena-glt (.+?)` \|$", row)[1].split()
    done = run_command(words, capsys)
    assert Path(done["path"]).parent == tmp_path / "data" and done["splits"]["train"]["rows"] > 0
    valid = run_command(["validate-data", done["path"]], capsys)
    assert valid["damage"] == [] and valid["rows"] == sum(split["rows"] for split in done["splits"].values())


def run_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> dict:
    """What a command prints as its result."""
    status, printed = main(words), capsys.readouterr()
    assert status == 0, printed.err
    return json.loads(printed.out.splitlines()[-1])


def test_the_tree_is_the_tree() -> None:
    fences = re.findall(r"^```\w*\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    block = next(fence for fence in fences if fence.startswith("hyena_glt/"))
    parent, listed = "", set()
    for line in block.splitlines():
        name = line.split("/")[0]
        parent = parent if name.startswith(" ") else name.strip()
        path = ROOT / parent / name.strip() if name.startswith(" ") else ROOT / parent
        assert path.is_dir(), line
        listed.add(path)
    packages = {path.parent for path in (ROOT / "hyena_glt").glob("*/__init__.py")}
    assert packages <= listed


def test_named_files_exist() -> None:
    for name in re.findall(r"`((?:hyena_glt|tests|pipelines|cluster)/[\w./]+)`", README):
        assert (ROOT / name).exists(), name
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for target in re.findall(r"^make ([\w-]+)", README, re.MULTILINE):
        assert target in targets


def test_commands_exist(capsys: pytest.CaptureFixture[str]) -> None:
    for command in set(re.findall(r"`hyena-glt ([\w-]+)", README)) - {"config"}:
        with pytest.raises(SystemExit) as exit_:
            main([command, "--help"])
        assert exit_.value.code == 0
        assert command in capsys.readouterr().out


def test_parameter_table() -> None:
    rows = re.findall(r"^\| `(\w+\.yaml)` \| (\d+) x ([\d,]+) \| ([\d,]+) \| ([\d,]+) \|", README, re.MULTILINE)
    assert len(rows) == 4
    for preset, layers, width, context, parameters in rows:
        cfg = load_config(preset).model
        assert (cfg.num_layers, f"{cfg.hidden_size:,}", f"{cfg.max_position_embeddings:,}") == (int(layers), width, context)
        assert f"{count_parameters(cfg, vocab_size=4096, causal=False):,}" == parameters
