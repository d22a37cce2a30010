"""From layers to the tree: defaults < included files < the YAML file < overrides, every problem in one ConfigError."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import yaml

from ..errors import ConfigError
from .layers import GIVEN, Layer
from .settings import SETTINGS, join, parent_of, section_type
from .sources import file_layers, override_layer, text_layer
from .tree import Config

Section = TypeVar("Section")


def load_config(path: str | Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Read the tree of settings from a YAML file and `section.key=value` overrides, each optional.

    A bare file name that is not here is looked up among the shipped files.

    Raises:
        ConfigError: with every problem: dotted path, what was found, what was wanted, where.
    """
    layers = file_layers(path) if path is not None else []
    return _resolve([*layers, override_layer(overrides)])


def config_from_text(text: str, origin: str) -> Config:
    """The tree that `dump_config` wrote; `origin` says in messages where it stands.

    Raises:
        ConfigError: as `load_config`.
    """
    return _resolve([text_layer(text, origin, numbered=True)])


def config_from_dict(settings: Mapping[str, Any]) -> Config:
    """The tree that `config_to_dict` wrote; sections and settings that are left out have their defaults.

    Raises:
        ConfigError: as `load_config`.
    """
    return _resolve([text_layer(yaml.safe_dump(dict(settings)), "settings")])


def _resolve(layers: list[Layer]) -> Config:
    problems = [problem for layer in layers for problem in layer.problems]
    values = _merge(layers)
    problems += _settle_objectives(layers, values)
    damaged = set().union(*(layer.damaged for layer in layers))
    sections = _sections(Config, "", values, damaged, problems)
    # What the sections must agree on is only known once each of them stands.
    cfg = None if problems else _build(Config, "", sections, problems)
    if cfg is None:
        raise ConfigError(*dict.fromkeys(problems))
    return cfg


def _merge(layers: list[Layer]) -> dict[str, Any]:
    """Later layers win; turning a section off forgets what earlier layers set in it, setting something in it turns it on."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for section in [path for path, value in layer.values.items() if value is None and section_type(SETTINGS[path])]:
            _forget(section, merged)
        merged |= layer.values
        merged |= dict.fromkeys((section for path in layer.values for section in _sections_around(path)), GIVEN)
    return merged


def _sections_around(path: str) -> Iterator[str]:
    while path := parent_of(path):
        yield path


def _forget(section: str, values: dict[str, Any]) -> None:
    for path in [path for path in values if path == section or path.startswith(f"{section}.")]:
        del values[path]


def _settle_objectives(layers: list[Layer], values: dict[str, Any]) -> list[str]:
    """`data.mask_probability` says how tokens are masked, not that they are: it adds no masked_lm to objectives that `tasks` names.

    A later layer that names another objective leaves it without use, which is what that layer asked for. One in the same layer or
    later can only be a mistake.
    """
    written = [set(layer.spelled.values()) for layer in layers]
    others = [path for path in SETTINGS if parent_of(path) == "tasks" and path != "tasks.masked_lm" and _is_on(path, values)]
    with_alias = [n for n, paths in enumerate(written) if "data.mask_probability" in paths]
    named = any(
        path.startswith("tasks.masked_lm") and layer.values[canonical] is not None
        for layer in layers
        for canonical, path in layer.spelled.items()
    )
    if not with_alias or not others or named:
        return []
    _forget("tasks.masked_lm", values)
    naming = [n for n, paths in enumerate(written) if any(path.startswith(tuple(others)) for path in paths)]
    if with_alias[-1] < naming[0]:
        return []
    names = ", ".join(path.removeprefix("tasks.") for path in others)
    return [f"data.mask_probability: has no effect, because tasks names only {names}; remove it, or name tasks.masked_lm too"]


def _is_on(task: str, values: dict[str, Any]) -> bool:
    return values.get(task) is GIVEN and values.get(f"{task}.weight", 1.0) > 0


def _sections(section: type, path: str, values: dict[str, Any], damaged: set[str], problems: list[str]) -> dict[str, Any]:
    """The arguments of a section that are not left at their defaults, sections inside it built."""
    arguments: dict[str, Any] = {}
    for name in (field.name for field in fields(section)):
        inner = join(path, name)
        if inner not in values:
            continue
        kind = section_type(SETTINGS[inner])
        if kind is None or values[inner] is None:
            arguments[name] = values[inner]
        else:
            inside = _sections(kind, inner, values, damaged, problems)
            built = None if inner in damaged else _build(kind, inner, inside, problems)
            arguments |= {name: built} if built is not None else {}
    return arguments


def _build(section: type[Section], path: str, arguments: dict[str, Any], problems: list[str]) -> Section | None:
    """A section, or None where its own checks refuse it."""
    try:
        return section(**arguments)
    except ValueError as refusal:
        problems += [_with_path(path, line, section) for line in str(refusal).split("\n")]
        return None


def _with_path(path: str, message: str, section: type) -> str:
    """Put the dotted path in front of a section's own message, which begins with the field's name."""
    names = {field.name for field in fields(section)}
    begins_with_field = message.split(" ")[0].rstrip(":") in names
    return join(path, message) if begins_with_field or not path else f"{path}: {message}"
