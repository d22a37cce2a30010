"""Where layers come from: YAML files with the files that they include, and `section.key=value` overrides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from .layers import GIVEN, Layer
from .settings import suggest
from .values import convert

SHIPPED = Path(__file__).parents[2] / "pipelines" / "configs"
"""Where a bare file name is looked up when the including folder has no such file."""
OVERRIDE = "override"
"""What messages call the layer of overrides."""


def override_layer(overrides: Sequence[str]) -> Layer:
    """The layer of `section.key=value` strings; a value is a YAML list or quoted text where it opens like one, else plain text."""
    layer = Layer(OVERRIDE)
    for override in overrides:
        path, equals, value = override.partition("=")
        try:
            node = _override_node(value.strip())
        except yaml.YAMLError as problem:
            layer.refuse(path, f"found {value}, which is not YAML: {_reason(problem)}", OVERRIDE)
            continue
        if not equals:
            layer.refuse(path, "no value; an override is section.key=value", OVERRIDE)
        elif path == "include":
            layer.refuse(path, "`include` stands at the top of a YAML file, not among overrides", OVERRIDE)
        else:
            layer.take(path, node, OVERRIDE)
    layer.refuse_settings_of_sections_turned_off()
    return layer


def overridden(overrides: Sequence[str]) -> list[str]:
    """The settings, by canonical path, to which `section.key=value` strings give a value; a section that they turn off counts as one."""
    return [path for path, value in override_layer(overrides).values.items() if value is not GIVEN]


def _override_node(value: str) -> yaml.Node:
    if value.startswith(tuple("[{\"'")):
        return yaml.compose(value, Loader=yaml.SafeLoader)
    return yaml.ScalarNode("tag:yaml.org,2002:str", value)


def file_layers(name: str | Path) -> list[Layer]:
    """The layers of a file: those of the files that it includes, in order, then its own."""
    return list(_layers(str(name), Path(), ()))


def text_layer(text: str, origin: str, *, numbered: bool = False) -> Layer:
    """The layer of a YAML text; `numbered` as in `Layer`."""
    return _read(text, Layer(origin, numbered=numbered))[0]


def _layers(name: str, folder: Path, including: tuple[Path, ...]) -> Iterator[Layer]:
    """Includes first; `including` is the chain of files that led here."""
    path = _locate(name, folder)
    layer = Layer(str(path), numbered=True)
    if path in including:
        layer.problems.append(f"{name}: includes itself, by way of {' -> '.join(map(str, including))}")
    elif text := _text(path, layer):
        layer, includes = _read(text, layer)
        for include in includes:
            yield from _layers(include, path.parent, (*including, path))
    yield layer


def _locate(name: str, folder: Path) -> Path:
    """The named file relative to a folder, else the shipped one of that name."""
    path, shipped = folder / name, SHIPPED / name
    return shipped if not path.exists() and shipped.is_file() and Path(name).name == name else path


def _text(path: Path, layer: Layer) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        shipped = sorted(file.name for file in SHIPPED.glob("*.yaml"))
        hint = suggest(path.name, shipped) or f"; shipped by name: {', '.join(shipped)}"
        layer.problems.append(f"{path}: no such file{hint}")
    except (OSError, UnicodeDecodeError) as problem:
        layer.problems.append(f"{path}: cannot be read as a YAML file: {problem}")
    return ""


def _read(text: str, layer: Layer) -> tuple[Layer, tuple[str, ...]]:
    """Fill a layer from a YAML text; gives the names that it includes too."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as problem:
        layer.problems.append(f"{layer.origin}: not YAML: {_reason(problem)}")
        return layer, ()
    if node is None:
        return layer, ()
    if not isinstance(node, yaml.MappingNode):
        layer.problems.append(f"{layer.origin}: wanted sections of settings at the top level")
        return layer, ()
    layer.take_all("", node)
    layer.refuse_settings_of_sections_turned_off()
    return layer, _includes(node, layer)


def _includes(node: yaml.MappingNode, layer: Layer) -> tuple[str, ...]:
    for key, value in node.value:
        if key.value == "include":
            try:
                names = convert(value, str | tuple[str, ...])
                return (names,) if isinstance(names, str) else names
            except ValueError as problem:
                layer.refuse("include", str(problem), layer.line(key))
    return ()


def _reason(problem: yaml.YAMLError) -> str:
    """A YAML error on one line, with its place."""
    mark = getattr(problem, "problem_mark", None)
    place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return place + str(getattr(problem, "problem", None) or problem).replace("\n", " ")
