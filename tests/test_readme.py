"""The README says what is true: its Python runs, its tree is the tree, its commands and settings exist."""

from __future__ import annotations

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


@pytest.mark.slow
def test_the_python_runs_as_written(tmp_path: Path) -> None:
    code = "".join(re.findall(r"```python\n(.*?)```", README, re.DOTALL))
    (tmp_path / "pipelines").symlink_to(ROOT / "pipelines")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    beats, shape_and_bits = done.stdout.strip().splitlines()
    assert beats.startswith("[")
    assert shape_and_bits.startswith("(32,) [")


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
