"""The names of all settings: dotted path to declared type, the guide's other spellings, the nearest valid name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import is_dataclass
from difflib import get_close_matches
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from .tree import Config

ALIASES: dict[str, str] = {
    "hardware.gradient_accumulation_steps": "training.gradient_accumulation_steps",
    "data.num_workers": "hardware.num_workers",
    "data.pin_memory": "hardware.pin_memory",
    "hardware.use_mixed_precision": "hardware.mixed_precision",
    "training.gradient_clip_norm": "training.max_grad_norm",
    "data.mask_probability": "tasks.masked_lm.mask_probability",
}
"""Another spelling to the canonical one."""


def options(declared: Any) -> tuple[Any, ...]:
    """The members of a union; any other type is its own only option."""
    return get_args(declared) if get_origin(declared) in (Union, UnionType) else (declared,)


def section_type(declared: Any) -> type | None:
    """The dataclass that a field holds, optional or not; None for a plain setting."""
    return next((option for option in options(declared) if isinstance(option, type) and is_dataclass(option)), None)


def _declared(section: type, parent: str) -> Iterator[tuple[str, Any]]:
    for name, declared in get_type_hints(section).items():
        path = join(parent, name)
        yield path, declared
        if inner := section_type(declared):
            yield from _declared(inner, path)


def join(parent: str, name: str) -> str:
    """The dotted path of a name in a section; the tree's own path is empty."""
    return f"{parent}.{name}" if parent else name


def parent_of(path: str) -> str:
    """The dotted path of the section that holds a setting."""
    return path.rpartition(".")[0]


SETTINGS: dict[str, Any] = dict(_declared(Config, ""))
"""Dotted path to declared type, sections included."""


def suggest(found: str, names: Iterable[str]) -> str:
    """`; did you mean NAME?` with the nearest name, or nothing where none is near."""
    near = get_close_matches(found, list(names), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def unknown(path: str) -> str:
    """What to say about a path that is no setting: the same name in another section, a near one here, or all there are."""
    section, _, name = path.rpartition(".")
    known = [*SETTINGS, *ALIASES]
    here = [leaf for other in known if parent_of(other) == section and (leaf := other.rpartition(".")[2])]
    elsewhere = [other for other in known if section and other.endswith(f".{name}")]
    near = (
        elsewhere
        or [join(section, leaf) for leaf in get_close_matches(name, here, n=1, cutoff=0.5)]
        or ([] if here else get_close_matches(path, known, n=1))
    )
    if here and not near:
        return f"unknown setting; {section or 'the tree'} has {', '.join(here)}"
    return "unknown setting" + (f"; did you mean {near[0]}?" if near else "")
