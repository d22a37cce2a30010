"""Read the lines of GFF3, GTF and BED files (plain, gzip, bgzip): one feature a line, checked, with its line number.

A line is split and checked here. pysam's parsers take a start that is no number as -1, end in an IndexError at a semicolon inside a quoted
GTF value, and cannot say which line they read; of whole table readers none takes the three formats and names the line.
Specifications: github.com/The-Sequence-Ontology/Specifications (GFF3), mblab.wustl.edu/GTF22.html, samtools.github.io/hts-specs (BED).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePath
from typing import Literal, NamedTuple
from urllib.parse import unquote

from ...errors import DataError
from ..storage import Location
from .lines import numbered_lines

Format = Literal["gff3", "gtf", "bed"]

SUFFIXES: dict[str, Format] = {".gff3": "gff3", ".gff": "gff3", ".gtf": "gtf", ".bed": "bed"}
"""How the files are called, also with .gz or .bgz behind."""
STRANDS = {"+": 1, "-": -1, ".": 0, "?": 0}

_GTF_ATTRIBUTE = re.compile(r'\s*(?:([^\s";]+)\s+(?:"([^"]*)"|([^\s";]+))\s*)?(?:;|\Z)')
_POSITION = re.compile(r"[0-9]{1,15}", re.ASCII)


class Feature(NamedTuple):
    """One line: an interval of bases, 0-based and half-open, and what is said about it."""

    sequence: str
    type: str
    """Empty in BED."""
    start: int
    end: int
    strand: int
    """1 plus, -1 minus, 0 unknown."""
    name: str
    """Column 4 of BED, empty where there is none."""
    attributes: str
    """Column 9 of GFF3 and GTF, as it is written."""


def format_of(path: Location) -> Format:
    """The format that a file's name says; DataError if it says none."""
    bare = re.sub(r"\.b?gz$", "", path.name.lower())
    kind = SUFFIXES.get(PurePath(bare).suffix)
    if not kind:
        raise DataError(f"{path}: is none of {' '.join(SUFFIXES)} (also with .gz or .bgz) by its name; rename or convert it")
    return kind


def read_features(path: Location, kind: Format) -> Iterator[tuple[int, Feature]]:
    """(line from 1, feature) for each line that holds one, in order; DataError with file and line for a line that is malformed."""
    parse = {"gff3": _gff3_feature, "gtf": _gtf_feature, "bed": _bed_feature}[kind]
    for line, text in numbered_lines(path):
        if kind == "gff3" and text.startswith(("##FASTA", ">")):
            return
        if not text.strip() or text.startswith("#") or (kind == "bed" and text.split(maxsplit=1)[0] in ("track", "browser")):
            continue
        with _at_line(path, line):
            feature = parse(text)
        yield line, feature


def read_attributes(path: Location, kind: Format, line: int, feature: Feature) -> dict[str, str]:
    """Key -> value of a GFF3 or GTF line, the first where a key is repeated; DataError with file and line if malformed."""
    with _at_line(path, line):
        return _gff3_attributes(feature.attributes) if kind == "gff3" else _gtf_attributes(feature.attributes)


@contextmanager
def _at_line(path: Location, line: int) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise DataError(f"{path}, line {line}: {error}; correct the line or leave it out") from error


def _gtf_feature(text: str) -> Feature:
    columns = text.split("\t")
    if len(columns) != 9:
        raise ValueError(f"{len(columns)} tab-separated columns, wanted 9")
    sequence, _, kind, start, end, _, strand, _, attributes = columns
    return _checked(Feature(sequence, kind, _position("start", start) - 1, _position("end", end), _strand(strand), "", attributes))


def _gff3_feature(text: str) -> Feature:
    feature = _gtf_feature(text)
    return feature._replace(sequence=unquote(feature.sequence), type=unquote(feature.type))


def _bed_feature(text: str) -> Feature:
    columns = text.split("\t") if "\t" in text else text.split()
    if len(columns) < 3:
        raise ValueError(f"{len(columns)} columns, wanted at least 3")
    sequence, start, end, name, _, strand = (*columns, *("", "", ".")[len(columns) - 3 :])[:6]
    label = "" if name == "." else name
    return _checked(Feature(sequence, "", _position("start", start), _position("end", end), _strand(strand), label, ""))


def _position(what: str, text: str) -> int:
    if not _POSITION.fullmatch(text):
        raise ValueError(f"the {what} is {text[:40]!r}, wanted a whole number")
    return int(text)


def _strand(text: str) -> int:
    if text not in STRANDS:
        raise ValueError(f"the strand is {text[:40]!r}, wanted + - . or ?")
    return STRANDS[text]


def _checked(feature: Feature) -> Feature:
    if not feature.sequence.strip():
        raise ValueError("the sequence has no name")
    if not 0 <= feature.start < feature.end:
        raise ValueError(f"holds no base: 0-based start {feature.start}, end {feature.end}")
    return feature


def _gff3_attributes(column: str) -> dict[str, str]:
    """Percent codes are resolved; a list of values stays as it is written."""
    parts = [part for part in column.split(";") if part.strip()] if column.strip() != "." else []
    for part in parts:
        if "=" not in part:
            looks = " (this looks like GTF; name such a file .gtf)" if _GTF_ATTRIBUTE.match(part) else ""
            raise ValueError(f"the attribute {part.strip()[:40]!r} is not KEY=VALUE{looks}")
    # Backwards, so that the first of a repeated key stays.
    return {unquote(key.strip()): unquote(value) for key, value in (part.split("=", 1) for part in reversed(parts))}


def _gtf_attributes(column: str) -> dict[str, str]:
    found: dict[str, str] = {}
    at = 0
    while at < len(column):
        match = _GTF_ATTRIBUTE.match(column, at)
        if not match:
            raise ValueError(f'the attribute {column[at:].strip()[:40]!r} is not KEY "VALUE";')
        if match[1]:
            found.setdefault(match[1], match[2] or match[3] or "")
        at = match.end()
    return found
