"""The values that a setting may take in a sweep, read by the type that the setting declares."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import yaml

from hyena_glt.config.dump import compact, spoken
from hyena_glt.config.settings import options, suggest
from hyena_glt.config.values import convert, describe, show

Kind = Literal["choice", "grid", "uniform", "loguniform", "int", "logint"]
KINDS: tuple[Kind, ...] = get_args(Kind)
NUMBER: dict[str, type] = {"uniform": float, "loguniform": float, "int": int, "logint": int}
"""What a range draws."""
LOGARITHMIC = ("loguniform", "logint")


@dataclass(frozen=True, slots=True)
class Domain:
    """Values of one setting: a list (`choice`, and `grid` for a full grid), or a range with both ends in it."""

    kind: Kind
    values: tuple[Any, ...]
    """All of them, or the lowest and the highest."""

    @property
    def is_range(self) -> bool:
        return self.kind in NUMBER

    @property
    def is_logarithmic(self) -> bool:
        return self.kind in LOGARITHMIC

    def draw(self, random: np.random.Generator) -> Any:
        """One value at random."""
        if not self.is_range:
            return self.values[int(random.integers(len(self.values)))]
        low, high = map(math.log, self.values) if self.is_logarithmic else self.values
        if self.kind == "int":
            return int(random.integers(low, high, endpoint=True))
        value = random.uniform(low, high)
        return self.clip(math.exp(value) if self.is_logarithmic else value)

    def clip(self, value: Any) -> Any:
        """The nearest value of a range; what is in a list stays."""
        if not self.is_range:
            return value
        low, high = self.values
        return NUMBER[self.kind](min(max(round(value) if NUMBER[self.kind] is int else value, low), high))

    def describe(self) -> str:
        """As a reader of the plan sees it."""
        if self.is_range:
            return f"{self.kind} {self.values[0]:g} to {self.values[1]:g}"
        return f"{self.kind} of {', '.join(spoken(compact(value)) for value in self.values)}"


def nearest(found: str, names: Iterable[str]) -> str:
    """`; did you mean NAME?`, or all that there are."""
    return suggest(found, names) or f"; there are {', '.join(names)}"


def read_domain(node: yaml.Node, declared: Any) -> Domain:
    """The domain that a YAML node such as `{loguniform: [1e-5, 1e-2]}` gives for a setting of the declared type.

    Raises:
        ValueError: what was found, and what was wanted.
    """
    if not isinstance(node, yaml.MappingNode) or len(node.value) != 1:
        raise ValueError(f"found {show(node)}, wanted one of {', '.join(KINDS)} with a list of values")
    name, items = node.value[0]
    if name.value not in KINDS:
        raise ValueError(f"unknown domain {name.value}{nearest(name.value, KINDS)}")
    if not isinstance(items, yaml.SequenceNode) or not items.value:
        raise ValueError(f"{name.value}: found {show(items)}, wanted a list of values")
    if name.value in NUMBER:
        return Domain(name.value, _read_range(name.value, items, declared))
    values = tuple(convert(item, declared) for item in items.value)
    if len(set(values)) < len(values):
        raise ValueError(f"{name.value}: a value stands twice")
    return Domain(name.value, values)


def _read_range(kind: str, items: yaml.SequenceNode, declared: Any) -> tuple[Any, Any]:
    wanted = NUMBER[kind]
    if wanted not in options(declared):
        other = {float: int, int: float}[wanted]
        fitting = [name for name, number in NUMBER.items() if number is other] if other in options(declared) else ["choice"]
        raise ValueError(f"{kind} draws {describe(wanted)}, and the setting is {describe(declared)}; use {' or '.join(fitting)}")
    if len(items.value) != 2:
        raise ValueError(f"{kind}: found {len(items.value)} values, wanted the lowest and the highest")
    low, high = (convert(item, wanted) for item in items.value)
    if not low < high:
        raise ValueError(f"{kind}: the lowest value ({low}) must be below the highest ({high})")
    if kind in LOGARITHMIC and low <= 0:
        raise ValueError(f"{kind}: the lowest value must be above 0, got {low}")
    return low, high
