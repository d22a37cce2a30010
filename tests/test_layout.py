"""The shape of the code: which way imports point, who may import ray and torch, sizes, types, docstrings, the top level."""

from __future__ import annotations

import ast
import statistics
import subprocess
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("hyena_glt", "pipelines", "cluster", "tune_spaces")

# Imports point down this list. Parts of one layer may use each other one way only.
LAYERS = (
    ("hyena_glt.cli",),
    ("pipelines",),
    ("cluster", "tune_spaces", "hyena_glt.evaluation"),
    ("hyena_glt.training", "hyena_glt.inference"),
    ("hyena_glt.data", "hyena_glt.model", "hyena_glt.objectives"),
    ("hyena_glt.tokenizers",),
    ("hyena_glt.config",),
    ("hyena_glt.dna", "hyena_glt.errors", "hyena_glt.files"),
)
FACADE = "hyena_glt"
"""The package's own __init__ names things of every layer, imports them on first use, and stands outside the order."""

MAY_IMPORT_RAY = (
    "hyena_glt.data",
    "hyena_glt.training.failures",
    "hyena_glt.training.gang",
    "hyena_glt.training.gauges",
    "hyena_glt.training.launch",
    "hyena_glt.training.worker",
    "hyena_glt.inference",
    "pipelines",
    "cluster",
    "tune_spaces",
)
MUST_NOT_IMPORT_TORCH = ("hyena_glt.config", "hyena_glt.dna", "hyena_glt.cli", "tune_spaces", "cluster")

TOP_LEVEL = {
    *(".ci", ".gitignore", ".rayignore", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md"),
    *("constraints.txt", "pyproject.toml"),
    *PACKAGES,
    "tests",
}


def sources() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, anywhere in it, with absolute names."""
    package = module_name(path) if path.name == "__init__.py" else module_name(path).rpartition(".")[0]
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            # `from . import launch` names a module, `from .launch import run` a name in one.
            yield from (f"{base}.{alias.name}" for alias in node.names)


def lies_in(module: str, packages: tuple[str, ...]) -> str | None:
    return next((package for package in packages if module == package or module.startswith(f"{package}.")), None)


def layer_of(module: str) -> tuple[int, str] | None:
    return next(((depth, part) for depth, layer in enumerate(LAYERS) if (part := lies_in(module, layer))), None)


def part_imports() -> set[tuple[tuple[int, str], tuple[int, str], str]]:
    """(layer and part that imports, layer and part imported, the file) for imports between parts of ours."""
    edges = set()
    for path in sources():
        here = layer_of(module_name(path))
        for there in map(layer_of, imports(path)):
            if here and there and here != there:
                edges.add((here, there, str(path.relative_to(ROOT))))
    return edges


def functions() -> list[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    found = []
    for path in sources():
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found.append((f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", node))
    return found


def public_functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Functions of a module, and methods and constructors of its classes, where no name begins with an underscore."""
    classes = [node for node in parse(path).body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    bodies = [parse(path).body, *(node.body for node in classes)]
    for node in (node for body in bodies for node in body):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (not node.name.startswith("_") or node.name == "__init__"):
            yield node


def num_lines(node: ast.AST) -> int:
    return node.end_lineno - node.lineno + 1


def assert_none(found: Iterable[str]) -> None:
    """Nothing was found; else the test shows all of it."""
    lines = sorted(found)
    assert not lines, "\n" + "\n".join(lines)


def test_every_module_has_a_place_in_the_order():
    assert [module_name(path) for path in sources() if not layer_of(module_name(path))] == [FACADE]


def test_imports_point_down():
    assert_none(f"{file} imports {there[1]}" for here, there, file in part_imports() if there[0] < here[0])


def test_parts_of_one_layer_use_each_other_one_way():
    edges = {(here[1], there[1]): file for here, there, file in part_imports() if here[0] == there[0]}
    assert_none(f"{file} imports {b}, and {edges[b, a]} imports {a}" for (a, b), file in edges.items() if a < b and (b, a) in edges)


def test_who_imports_ray():
    importers = {module_name(path) for path in sources() if any(lies_in(name, ("ray",)) for name in imports(path))}
    assert_none(name for name in importers if not lies_in(name, MAY_IMPORT_RAY))
    assert importers, "nothing imports ray, so this test looks in the wrong place"


def test_who_imports_torch():
    importers = {module_name(path) for path in sources() if any(lies_in(name, ("torch",)) for name in imports(path))}
    assert_none(name for name in importers if lies_in(name, MUST_NOT_IMPORT_TORCH))
    assert importers, "nothing imports torch, so this test looks in the wrong place"


def test_file_sizes():
    lines = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in sources()}
    assert_none(f"{name}: {number} lines" for name, number in lines.items() if number > 600)
    assert statistics.median(lines.values()) <= 180


def test_function_sizes():
    lines = {name: num_lines(node) for name, node in functions()}
    assert_none(f"{name}: {number} lines" for name, number in lines.items() if number > 80)
    assert statistics.median(lines.values()) <= 12


def test_every_file_begins_with_a_docstring():
    assert_none(str(path.relative_to(ROOT)) for path in sources() if not ast.get_docstring(parse(path)))


def test_public_functions_have_types():
    missing = []
    for path in sources():
        for node in public_functions(path):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
            bare = [arg.arg for arg in arguments if arg and not arg.annotation and arg.arg not in ("self", "cls")]
            if bare or node.returns is None:
                missing.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {', '.join(bare) or 'return'}")
    assert_none(missing)


def test_constructors_name_their_arguments():
    """`**kwargs` would take a misspelt argument without a word."""
    assert_none(name for name, node in functions() if node.name == "__init__" and node.args.kwarg)


def test_nothing_unexpected_at_the_top():
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listing.returncode:
        pytest.skip("not a git checkout")
    assert_none({name.split("/")[0] for name in listing.stdout.split("\0") if name} - TOP_LEVEL)


def test_sizes_of_test_files():
    tests = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in (ROOT / "tests").rglob("*.py")}
    assert_none(f"{path.relative_to(ROOT)}: {number} lines" for path, number in tests.items() if number > 600)
