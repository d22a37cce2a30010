"""The names that a user imports, and that importing the package costs nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

import hyena_glt

ROOT = Path(__file__).parents[1]
NAMES = [
    "CheckpointError",
    "ClusterError",
    "Config",
    "ConfigError",
    "DataError",
    "HyenaError",
    "Tokenizer",
    "__version__",
    "build_tokenizer",
    "embed",
    "evaluate",
    "generate",
    "load_config",
    "load_model",
    "preprocess",
    "pretrain",
    "report",
    "score",
    "validate_data",
]


def test_all_is_pinned():
    assert hyena_glt.__all__ == NAMES
    assert dir(hyena_glt) == NAMES
    assert len(NAMES) <= 20


@pytest.mark.parametrize("name", [name for name in NAMES if name != "__version__"])
def test_each_name_is_the_object_in_its_home(name):
    assert getattr(hyena_glt, name) is getattr(import_module(hyena_glt._HOMES[name]), name)


def test_type_checkers_see_the_same_names():
    guarded = next(node for node in ast.parse(Path(hyena_glt.__file__).read_text()).body if isinstance(node, ast.If))
    homes = {
        alias.name: f"hyena_glt.{node.module}" if node.level else node.module
        for node in guarded.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert homes == hyena_glt._HOMES


def test_unknown_name():
    with pytest.raises(AttributeError, match="module 'hyena_glt' has no attribute 'pretran'"):
        hyena_glt.pretran  # noqa: B018


def modules_after(code: str) -> set[str]:
    """The top-level packages that a fresh interpreter holds after running some code."""
    report = "\nimport sys; print(*sorted({name.split('.')[0] for name in sys.modules}), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code + report], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def test_import_is_light():
    assert not {"torch", "ray", "numpy", "yaml", "pipelines"} & modules_after("import hyena_glt")


def test_help_is_light():
    assert not {"torch", "ray", "numpy", "yaml", "pipelines"} & modules_after("from hyena_glt.cli import main; main(['--help'])")


def test_settings_need_neither_torch_nor_ray():
    assert not {"torch", "ray", "pyarrow"} & modules_after("from hyena_glt.cli import main; main(['config', 'show'])")


def test_dependencies_are_pinned_for_ci():
    """Each direct dependency and test tool has its exact version in constraints.txt, and nothing else has."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(name for extra in project["optional-dependencies"].values() for name in extra)]
    names = {requirement.split(">=")[0].split("[")[0].lower() for requirement in wanted} - {"hyena-glt"}
    pinned = [line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert {name.lower() for name, _ in pinned} == names
