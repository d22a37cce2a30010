"""The tree written out: as plain dictionaries, as YAML that loads back equal, in words; and the settings in which two trees differ."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import yaml

from .settings import join
from .tree import Config


def config_to_dict(cfg: Config) -> dict[str, Any]:
    """Dictionaries, lists and scalars, as JSON and YAML have them."""
    return plain(cfg)


def plain(value: Any) -> Any:
    """A value of a setting, sections within it included, as JSON and YAML have it."""
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    return [plain(item) for item in value] if isinstance(value, tuple) else value


def compact(value: Any) -> Any:
    """As `plain`, without what a section in a list has by default; loads back equal."""
    if is_dataclass(value):
        own = {field: getattr(value, field.name) for field in fields(value)}
        return {field.name: plain(found) for field, found in own.items() if found != field.default}
    return [compact(item) for item in value] if isinstance(value, tuple) else value


def spoken(value: Any) -> str:
    """A plain or compact value for readers: lists with dashes, sections of a list one after the other, numbers short."""
    if isinstance(value, dict):
        return " ".join(spoken(item) if name == "name" else f"{name} {spoken(item)}" for name, item in value.items())
    if isinstance(value, list):
        return ("; " if any(isinstance(item, dict | list) for item in value) else "-").join(map(spoken, value))
    return "null" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


class _Dumper(yaml.SafeDumper):
    """Lists on one line."""


_Dumper.add_representer(list, lambda dumper, items: dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=True))


def dump_config(cfg: Config) -> str:
    """YAML with every setting, in the order of the tree; loads back equal."""
    # Not `allow_unicode`: PyYAML would write U+0085 and its kin as they are, and they read back as spaces.
    return yaml.dump(config_to_dict(cfg), Dumper=_Dumper, sort_keys=False)


def changed_settings(a: Config, b: Config) -> list[str]:
    """The dotted paths of the settings that differ; a section that only one tree has counts as one."""
    return list(_changes(a, b, ""))


def _changes(a: Any, b: Any, path: str) -> Iterator[str]:
    if is_dataclass(a) and type(a) is type(b):
        for field in fields(a):
            yield from _changes(getattr(a, field.name), getattr(b, field.name), join(path, field.name))
    elif a != b:
        yield path
