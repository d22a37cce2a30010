"""One layer of settings, a YAML file or the overrides: names and types checked, other spellings resolved."""

from __future__ import annotations

from collections.abc import Iterator
from types import NoneType
from typing import Any

import yaml

from .credentials import ADVICE, has_password
from .settings import ALIASES, SETTINGS, join, options, parent_of, section_type, unknown
from .values import convert, is_null, show

GIVEN = object()
"""The value at a section's own path when the layer turns the section on; None turns it off."""


class Layer:
    """What one layer sets; `numbered` where its nodes come from a file, so that messages give the line.

    values: canonical path to value; a section's own path holds GIVEN or None.
    spelled: canonical path to the path as written.
    problems: a sentence each. damaged: the sections that they lie in.
    """

    def __init__(self, origin: str, *, numbered: bool = False) -> None:
        self.origin = origin
        self.numbered = numbered
        self.values: dict[str, Any] = {}
        self.spelled: dict[str, str] = {}
        self.problems: list[str] = []
        self.damaged: set[str] = set()

    def take(self, path: str, node: yaml.Node, where: str) -> None:
        """Take in one setting or a whole section."""
        canonical = ALIASES.get(path, path)
        if canonical not in SETTINGS:
            self.refuse(path, unknown(path), where)
        elif section_type(SETTINGS[canonical]) is None:
            self._take_value(path, canonical, node, where)
        elif isinstance(node, yaml.MappingNode):
            self._put(path, path, GIVEN, where)
            self.take_all(path, node)
        else:
            self._take_empty_section(path, node, where)

    def take_all(self, section: str, node: yaml.MappingNode) -> None:
        """Take in each entry of a mapping."""
        seen: set[str] = set()
        for key, value in node.value:
            path = join(section, key.value if isinstance(key, yaml.ScalarNode) else show(key))
            where = self.line(key)
            if path in seen:
                self.refuse(path, "given twice in one mapping; keep one", where)
            elif path != "include":
                self.take(path, value, where)
            seen.add(path)

    def line(self, node: yaml.Node) -> str:
        """Where a node stands, for messages."""
        return f"{self.origin}, line {node.start_mark.line + 1}" if self.numbered else self.origin

    def refuse(self, path: str, problem: str, where: str) -> None:
        """Note a problem with a setting."""
        self.problems.append(f"{path}: {problem} ({where})")
        self.damaged.add(parent_of(ALIASES.get(path, path)))

    def _take_value(self, path: str, canonical: str, node: yaml.Node, where: str) -> None:
        if any(map(has_password, _scalars(node))):  # not shown: a message would put it into a log
            self.refuse(path, f"a URL with a password, which logs and saved settings would show; {ADVICE}", where)
            return
        try:
            self._put(path, canonical, convert(node, SETTINGS[canonical]), where)
        except ValueError as problem:
            self.refuse(path, str(problem), where)

    def _take_empty_section(self, path: str, node: yaml.Node, where: str) -> None:
        """`null` turns an optional section off; a name with nothing behind it gives the section its defaults."""
        if not is_null(node):
            self.refuse(path, f"found {show(node)}, wanted a section of settings", where)
        else:
            off = node.value and NoneType in options(SETTINGS[path])
            self._put(path, path, None if off else GIVEN, where)

    def refuse_settings_of_sections_turned_off(self) -> None:
        """A section that is null and has a setting in the same layer is a contradiction."""
        for path in [path for path in self.values if self.values.get(parent_of(path), GIVEN) is None]:
            self.refuse(path, f"set by {self.spelled[path]}, and {parent_of(path)} is null; keep one", self.origin)

    def _put(self, path: str, canonical: str, value: Any, where: str) -> None:
        other = self.values.get(canonical, value)
        if other != value:
            both = f"{_show(other)} ({self.spelled[canonical]}) and {_show(value)} ({path})"
            self.refuse(canonical, f"two values for one setting, {both}; keep one", where)
        self.values[canonical] = value
        self.spelled[canonical] = path


def _scalars(node: yaml.Node) -> Iterator[str]:
    """Every text in a node, those of lists and of sections in them too."""
    if isinstance(node, yaml.ScalarNode):
        yield node.value
        return
    for item in node.value:
        for inner in item if isinstance(item, tuple) else (item,):
            yield from _scalars(inner)


def _show(value: Any) -> str:
    return "null" if value is None else "a section" if value is GIVEN else str(value)
