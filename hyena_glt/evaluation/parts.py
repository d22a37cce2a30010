"""Pieces of HTML that the reports are made of, and figures in words."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from html import escape


def table(
    header: list[str], rows: Iterable[tuple[str, ...]], *, highlight: str | None = None, muted: Collection[tuple[int, int]] = ()
) -> str:
    """An HTML table of plain text; `highlight` is the first cell of a row that stands out, `muted` are (row, column) that step back."""
    head = f"<tr>{''.join(f'<th>{escape(name)}</th>' for name in header)}</tr>" if any(header) else ""
    body = ""
    for number, row in enumerate(rows):
        mark = " class=highlight" if row[0] == highlight else ""
        cells = (f"<td{' class=muted' if (number, column) in muted else ''}>{escape(cell)}</td>" for column, cell in enumerate(row))
        body += f"<tr{mark}>{''.join(cells)}</tr>"
    return f"<div class=scroll><table>{head}{body}</table></div>"


def figure(svg: str, caption: str) -> str:
    """A picture with what it shows below."""
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def grid(figures: Iterable[tuple[str, str]]) -> str:
    """(Picture, caption) side by side."""
    return f"<div class=grid>{''.join(figure(svg, caption) for svg, caption in figures)}</div>"


def short_count(value: float) -> str:
    """12345678 -> 12.3M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def share(value: float) -> str:
    """0.123 -> 12 %, 0.0123 -> 1.2 %."""
    return f"{value:.0%}".replace("%", " %") if value >= 0.0995 else f"{100 * value:.2g} %"


def flatten(value: object, name: str = "") -> list[tuple[str, str]]:
    """Nested JSON as (dotted name, text) pairs; lists of plain values on one line."""
    if isinstance(value, Mapping):
        return [pair for key, inner in value.items() for pair in flatten(inner, f"{name}.{key}" if name else str(key))]
    if isinstance(value, list) and not any(isinstance(item, Mapping | list) for item in value):
        return [(name, ", ".join(map(str, value)))]
    if isinstance(value, list):
        return [pair for number, inner in enumerate(value) for pair in flatten(inner, f"{name}.{number}")]
    return [(name, str(value))]
