"""Read annotated regions out of GFF3, GTF and BED files as labelled intervals by sequence, and match the names of sequences."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Literal

import numpy as np

from ...errors import DataError
from ..storage import Location
from .features import Format, format_of, read_attributes, read_features
from .intervals import Intervals
from .lines import listed

Anchor = Literal["whole", "start"]

NAME_KEYS: dict[Format, tuple[str, ...]] = {"gff3": ("Name", "ID"), "gtf": ("gene_name", "gene", "gene_id")}
"""The attributes that `label_by: name` reads, the first that a feature has."""


def read_regions(
    path: Location,
    *,
    types: tuple[str, ...] = (),
    anchor: Anchor = "whole",
    upstream: int = 0,
    downstream: int = 0,
    label_by: str | None = None,
) -> dict[str, Intervals]:
    """The regions of a file, by the name of their sequence.

    A region is a feature (`whole`) or the one base at its 5' end (`start`: of a gene or transcript, where it starts), with
    `upstream` bases added on the 5' side and `downstream` on the 3' side of its strand, cut at the sequence's start. Each line
    of a feature that has several, such as a CDS, counts by itself; a BED line is one region, whatever its blocks.

    types: the feature types to take, all if empty. label_by: `type`, `name` (column 4 of BED, Name or ID of GFF3, gene_name,
    gene or gene_id of GTF) or the key of an attribute; default: `name` for BED, else `type`.
    DataError with file and line for what cannot be read; also if a type or the label's key occurs nowhere.
    """
    kind = format_of(path)
    _refuse_for_bed(path, kind, types, label_by)
    keys = () if kind == "bed" or label_by in (None, "type") else NAME_KEYS[kind] if label_by == "name" else (label_by,)
    needs_strand = anchor == "start" or upstream != downstream
    seen_types: Counter[str] = Counter()
    seen_keys: set[str] = set()
    rows: defaultdict[str, list[tuple[int, int, int, str]]] = defaultdict(list)
    for line, feature in read_features(path, kind):
        seen_types[feature.type] += 1
        if types and feature.type not in types:
            continue
        if needs_strand and not feature.strand:
            raise DataError(
                f"{path}, line {line}: the strand is unknown, so which end is 5' is too; "
                "leave such features out, or use `anchor: whole` and the same upstream and downstream"
            )
        label = feature.name if kind == "bed" else feature.type
        if keys:
            attributes = read_attributes(path, kind, line, feature)
            seen_keys.update(attributes)
            label = next((attributes[key] for key in keys if attributes.get(key)), "")
        rows[feature.sequence].append((feature.start, feature.end, feature.strand, label))
    _refuse_absent(path, types, seen_types)
    _refuse_unlabelled(path, label_by, rows, seen_keys)
    return {name: _intervals(found, anchor, upstream, downstream) for name, found in rows.items()}


def chromosome_name(name: str) -> str:
    """A sequence's name without `chr` and in upper case, the mitochondrial one MT: chr20 and 20, chrM and MT are the same."""
    bare = re.sub(r"(?i)^chr(?=.)", "", name).upper()
    return "MT" if bare == "M" else bare


def match_names(annotated: Iterable[str], records: Iterable[str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Annotation name -> record name, and the annotation names that no record has.

    The same name first; among the rest those that `chromosome_name` makes equal, if there is just one on either side: a file
    with both chrM and MT means two sequences. DataError if no name has a record.
    """
    annotated, records = set(annotated), set(records)
    pairs = {name: name for name in annotated & records}
    loose, targets = _by_chromosome(annotated - records), _by_chromosome(records - annotated)
    pairs |= {names[0]: targets[key][0] for key, names in loose.items() if len(names) == 1 == len(targets.get(key, ()))}
    if not pairs:
        raise DataError(
            f"no sequence of the annotation ({listed(annotated, limit=3)}) is a record ({listed(records, limit=3)}); "
            "take the annotation of this assembly, or rename the sequences in one of them"
        )
    return dict(sorted(pairs.items())), tuple(sorted(annotated - set(pairs)))


def _by_chromosome(names: Iterable[str]) -> dict[str, list[str]]:
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[chromosome_name(name)].append(name)
    return groups


def _refuse_for_bed(path: Location, kind: Format, types: tuple[str, ...], label_by: str | None) -> None:
    """DataError for what BED cannot give."""
    if kind == "bed" and types:
        raise DataError(f"{path}: types ({', '.join(types)}) has no effect on BED, which has no feature types; remove it")
    if kind == "bed" and label_by not in (None, "name"):
        raise DataError(f"{path}: label_by ({label_by}) has no effect on BED, which has names only; use `label_by: name`")


def _refuse_absent(path: Location, types: tuple[str, ...], seen: Counter[str]) -> None:
    """DataError for a file without features, and for types that none has."""
    if not seen:
        raise DataError(f"{path}: holds no feature; put annotation into it or leave it out")
    for wanted in types:
        if wanted not in seen:
            raise DataError(f"{path}: types: no feature is of type {wanted!r}; there are {listed(seen, wanted)}")


def _refuse_unlabelled(path: Location, label_by: str | None, rows: dict[str, list[tuple[int, int, int, str]]], seen_keys: set[str]) -> None:
    """DataError if a label was asked for and no region has one."""
    if label_by and not any(label for found in rows.values() for *_, label in found):
        reason = f"there are {listed(seen_keys, label_by)}" if seen_keys else "there is nothing to read it from"
        raise DataError(f"{path}: label_by: no region has {label_by!r}; {reason}")


def _intervals(rows: list[tuple[int, int, int, str]], anchor: Anchor, upstream: int, downstream: int) -> Intervals:
    """Anchor, extend, cut at 0 and sort the features of one sequence."""
    start_K, end_K, strand_K = np.array([row[:3] for row in rows], np.int64).T
    is_minus = strand_K < 0
    if anchor == "start":
        start_K = np.where(is_minus, end_K - 1, start_K)
        end_K = start_K + 1
    start_K = np.maximum(start_K - np.where(is_minus, downstream, upstream), 0)
    end_K = end_K + np.where(is_minus, upstream, downstream)
    order = np.lexsort((end_K, start_K))
    return Intervals(start_K[order], end_K[order], strand_K[order].astype(np.int8), tuple(rows[k][3] for k in order))
