"""A YAML scalar or list to a value of the declared type.

The text in the file is read by the type that the setting declares, not by YAML's own guesses: `3e-4` is a number where a
number is wanted, and a record named `NO`, `1` or `1e5` stays that text. Quoted text is never a number.
"""

from __future__ import annotations

import math
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from .settings import options, suggest

NULL = ("", "~", "null", "Null", "NULL")
_STANDARD_TAGS = tuple(f"tag:yaml.org,2002:{name}" for name in "null bool int float str seq map timestamp merge value".split())
_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text", NoneType: "null"}


class SectionError(ValueError):
    """What is wrong inside a section that is an item of a list."""


def is_null(node: yaml.Node) -> bool:
    """Whether a node is YAML's null: nothing at all, `~` or `null`."""
    return isinstance(node, yaml.ScalarNode) and node.style is None and node.value in NULL


def convert(node: yaml.Node, declared: Any) -> Any:
    """The value of a node as the declared type.

    Raises:
        ValueError: with what was found, what was wanted, and the nearest valid name.
    """
    if node.tag not in _STANDARD_TAGS:
        raise ValueError(f"found the YAML tag {node.tag}, and settings have none")
    for option in options(declared):
        try:
            return _read(node, option)
        except SectionError:
            raise
        except ValueError:
            continue
    raise ValueError(f"found {show(node)}, wanted {describe(declared)}{_nearest_choice(node, declared)}")


def _read(node: yaml.Node, wanted: Any) -> Any:
    if wanted is NoneType:
        return _require_null(node)
    if get_origin(wanted) is tuple:
        return _read_tuple(node, get_args(wanted))
    if get_origin(wanted) is Literal:
        return _read_choice(node, get_args(wanted))
    if wanted is str:
        return _read_text(node)
    if isinstance(wanted, type) and is_dataclass(wanted):
        return _read_section(node, wanted)
    return {bool: _read_bool, int: _read_int, float: _read_float}[wanted](_plain(node))


def _require_null(node: yaml.Node) -> None:
    if not is_null(node):
        raise ValueError


def _read_text(node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode) or is_null(node):
        raise ValueError
    return node.value


def _plain(node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode) or node.style is not None:
        raise ValueError
    return node.value


def _read_bool(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError
    return text.lower() == "true"


def _read_int(text: str) -> int:
    """Digits, or a whole number with an exponent such as 2e9."""
    if "e" not in text.lower():
        return int(text)
    if not float(text).is_integer():
        raise ValueError
    return int(float(text))


def _read_float(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError
    return value


def _read_choice(node: yaml.Node, choices: tuple[str | int, ...]) -> str | int:
    text = _read_text(node) if isinstance(choices[0], str) else _plain(node)
    value = text if isinstance(choices[0], str) else int(text)
    if value not in choices:
        raise ValueError
    return value


def _read_tuple(node: yaml.Node, items: tuple[Any, ...]) -> tuple[Any, ...]:
    if not isinstance(node, yaml.SequenceNode):
        raise ValueError
    if items[-1] is Ellipsis:
        items = items[:1] * len(node.value)
    return tuple(convert(item, wanted) for item, wanted in zip(node.value, items, strict=True))


def _read_section(node: yaml.Node, section: type) -> Any:
    """An item of a list that is a section, built and checked."""
    if not isinstance(node, yaml.MappingNode):
        raise ValueError
    declared, arguments = get_type_hints(section), {}
    for key, value in node.value:
        name = key.value if isinstance(key, yaml.ScalarNode) else show(key)
        if name not in declared:
            raise SectionError(f"unknown setting {name} in an item" + (suggest(name, declared) or f"; it has {', '.join(declared)}"))
        try:
            arguments[name] = convert(value, declared[name])
        except ValueError as problem:
            raise SectionError(f"{name} of an item: {problem}") from None
    missing = [field.name for field in fields(section) if field.default is MISSING and field.name not in arguments]
    if missing:
        raise SectionError(f"an item has no {' and no '.join(missing)}")
    try:
        return section(**arguments)
    except ValueError as refusal:
        raise SectionError(f"{arguments.get('name', 'an item')}: {'; '.join(str(refusal).splitlines())}") from None


def show(node: yaml.Node) -> str:
    """A node as an error message shows it, on one line."""
    if isinstance(node, yaml.ScalarNode):
        return f'"{node.value}" in quotes' if node.style else node.value or "nothing"
    if isinstance(node, yaml.SequenceNode):
        return f"[{', '.join(item.value if isinstance(item, yaml.ScalarNode) else '...' for item in node.value)}]"
    return "a section"


def describe(declared: Any) -> str:
    """A declared type in words."""
    words = [_describe(option) for option in options(declared)]
    return " or ".join(words)


def _describe(wanted: Any) -> str:
    arguments = get_args(wanted)
    if get_origin(wanted) is Literal:
        *most, last = map(str, arguments)
        return f"{', '.join(most)} or {last}" if most else last
    if get_origin(wanted) is tuple and arguments[-1] is Ellipsis:
        return f"a list, each item {describe(arguments[0])}"
    if get_origin(wanted) is tuple:
        return f"a list of {len(arguments)}, each item {describe(arguments[0])}"
    return _NAMES.get(wanted, "a section of settings")


def _nearest_choice(node: yaml.Node, declared: Any) -> str:
    """A suggestion for the first text in a node that is no choice of the declared type."""
    inner = [argument for option in options(declared) if get_origin(option) is tuple for argument in get_args(option)[:1]]
    choices = [str(choice) for option in (*options(declared), *inner) if get_origin(option) is Literal for choice in get_args(option)]
    items = node.value if isinstance(node, yaml.SequenceNode) else [node]
    texts = [item.value for item in items if isinstance(item, yaml.ScalarNode) and item.value not in choices]
    return suggest(texts[0], choices) if texts else ""
