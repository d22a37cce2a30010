"""Rules of a section: what its values must be, checked where the section is declared."""

from __future__ import annotations

from dataclasses import fields
from typing import Any


def require(*rules: tuple[bool, str]) -> None:
    """Refuse a section, a line for each rule that does not hold; the loader puts the dotted path in front.

    A rule is (holds, message), and a message begins with the name of the field.
    """
    broken = [message for holds, message in rules if not holds]
    if broken:
        raise ValueError("\n".join(broken))


def at_least(low: float, section: object, *names: str) -> list[tuple[bool, str]]:
    """Rules: each named field is at least `low`, or null."""
    values = [(name, getattr(section, name)) for name in names]
    return [(value is None or value >= low, f"{name} must be at least {low}, got {value}") for name, value in values]


def above_zero(section: object, *names: str) -> list[tuple[bool, str]]:
    """Rules: each named field is positive, or null."""
    values = [(name, getattr(section, name)) for name in names]
    return [(value is None or value > 0, f"{name} must be positive, got {value}") for name, value in values]


def fraction(section: object, *names: str) -> list[tuple[bool, str]]:
    """Rules: each named field is at least 0 and below 1."""
    values = [(name, getattr(section, name)) for name in names]
    return [(0 <= value < 1, f"{name} must be at least 0 and below 1, got {value}") for name, value in values]


def share(section: object, *names: str) -> list[tuple[bool, str]]:
    """Rules: each named field lies between 0 and 1, or is null."""
    values = [(name, getattr(section, name)) for name in names]
    return [(value is None or 0 <= value <= 1, f"{name} must lie between 0 and 1, got {value}") for name, value in values]


def unused(section: Any, reason: str, *names: str) -> list[tuple[bool, str]]:
    """Rules: each named field is at its default, because nothing will read it; `reason` says why."""
    defaults = {field.name: field.default for field in fields(section)}
    values = [(name, getattr(section, name)) for name in names]
    return [(value == defaults[name], f"{name} ({value}) has no effect {reason}; remove it") for name, value in values]
