"""Say what leakage was found, and refuse too much of it. Runs on the driver, without Ray."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import NamedTuple

import numpy as np

from ..errors import DataError
from .job import Job
from .manifest import Json
from .similarity.leakage import Leakage


class Window(NamedTuple):
    """Where a window lies: 0-based, half-open."""

    source: str
    record: str
    start: int
    end: int


def leakage_sentence(split: str, found: Leakage) -> str:
    """How much of a split stands in train."""
    return (
        f"{split} in train: {percent(found.kmer_share)} of its {found.k}-mers, {percent(found.half_found_share)} of its windows by half "
        f"or more, {percent(found.near_duplicate_share)} near-duplicates (MinHash, {found.near_duplicate_threshold:g})"
    )


def percent(share: float) -> str:
    """0.1234 -> 12.3 %; small ones keep two digits that say something."""
    return f"{100 * share:.1f} %" if share >= 0.001 or share == 0 else f"{100 * share:.2g} %"


def leakage_lines(leakage: Mapping[str, Leakage], job: Job) -> list[str]:
    """For the terminal: a sentence for each split, and below it the windows that train holds most of."""
    lines = []
    for split, found in leakage.items():
        lines.append(leakage_sentence(split, found))
        lines += [f"  {window}" for window in _worst_windows(split, found, job)]
    return lines


def refuse_leakage(leakage: Mapping[str, Leakage], max_leakage: float, job: Job) -> None:
    """DataError if train holds more than this share of the k-mers of a split."""
    above = {split: found for split, found in leakage.items() if found.kmer_share > max_leakage}
    if above:
        shares = " and ".join(f"{percent(found.kmer_share)} of the {found.k}-mers of {split}" for split, found in above.items())
        worst = ", ".join(window for split, found in above.items() for window in _worst_windows(split, found, job)[:3])
        raise DataError(
            f"train holds {shares}, more than preprocessing.split.max_leakage ({max_leakage:g}) allows; most of {worst}; "
            "set preprocessing.split.by to cluster, remove the related records, or allow more"
        )


def located(leakage: Mapping[str, Leakage], job: Job) -> Json:
    """As plain values for the manifest; the worst windows by source, record and start (0-based), as in the rows."""
    return {
        split: {**asdict(found), "worst": [window._asdict() | {"share": share} for window, share in _windows(split, found.worst, job)]}
        for split, found in leakage.items()
    }


def _windows(split: str, worst: Iterable[tuple[int, float]], job: Job) -> list[tuple[Window, float]]:
    """(place, share) -> (window, share)."""
    regions, windows = job.regions[split], []
    for place, share in worst:
        number = int(np.searchsorted(regions.place_R + regions.start_R, place, side="right")) - 1
        start = place - int(regions.place_R[number])
        end = min(start + job.cut.max_length, int(regions.end_R[number]))
        windows.append((Window(job.sources[int(regions.file_R[number])], regions.name_R[number].as_py(), start, end), share))
    return windows


def _worst_windows(split: str, found: Leakage, job: Job) -> list[str]:
    """Those of which train holds anything, bases counted from 1."""
    found_in_train = [item for item in _windows(split, found.worst, job) if item[1] > 0]
    return [f"{w.source} {w.record}:{w.start + 1:,}-{w.end:,} ({percent(share)})" for w, share in found_in_train]
