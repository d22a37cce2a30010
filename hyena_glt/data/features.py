"""What annotations and soft-masking say of each base: which are cut out, which count more or less in the loss, which labels they bear.

Runs on the driver; the workers get the result as arrays of places. Suffix: K intervals.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..config.preprocessing import GoTermsConfig, PreprocessingConfig, RegionsConfig
from ..errors import DataError
from .coordinates import Coordinates
from .sources.intervals import Intervals, Stretches, union
from .sources.lines import listed
from .sources.regions import match_names, read_regions
from .storage import Location

log = logging.getLogger(__name__)

Layer = tuple[Stretches, float]
"""Stretches of places, and what the weight of a base in them is multiplied by."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Stretches of places whose bases do not have the weight 1: disjoint, ascending."""

    start_K: np.ndarray
    end_K: np.ndarray
    weight_K: np.ndarray

    @classmethod
    def of(cls, layers: Sequence[Layer]) -> Weights:
        """A base that lies in several layers has the product of their weights."""
        bound = np.unique(np.concatenate([np.empty(0, np.int64), *(column for stretches, _ in layers for column in stretches)]))
        weight = np.ones(max(len(bound) - 1, 0))
        for (start, end), factor in layers:
            inside = np.searchsorted(start, bound[:-1], side="right") > np.searchsorted(end, bound[:-1], side="right")
            weight[inside] *= factor
        changed = weight != 1
        return cls(bound[:-1][changed], bound[1:][changed], weight[changed])

    def of_bases(self, start: int, end: int) -> np.ndarray:
        """The weights of the bases at places `start` to `end` (not included), float32."""
        weights = np.ones(end - start, np.float32)
        first, last = np.searchsorted(self.end_K, start, side="right"), np.searchsorted(self.start_K, end, side="left")
        for low, high, weight in zip(self.start_K[first:last], self.end_K[first:last], self.weight_K[first:last], strict=True):
            weights[max(low - start, 0) : high - start] = weight
        return weights


@dataclass(frozen=True, kw_only=True, slots=True)
class Features:
    """None where nothing of the kind was asked for; all positions are places."""

    selected: Stretches | None = None
    """Only these are cut into windows."""
    masked: Stretches | None = None
    """Lower-case stretches that are cut out."""
    weights: Weights | None = None
    labels: Intervals | None = None


def read_features(
    cfg: PreprocessingConfig, files: Mapping[str, Sequence[Location]], coordinates: Coordinates, lower_case: Callable[[], Stretches]
) -> Features:
    """Read what `cfg` asks for; `files` are those of each section, `lower_case` gives the lower-case places.

    Raises DataError for a file that cannot be read or whose sequences have no record.
    """
    layers = list[Layer]()
    if cfg.soft_masked == "weight":
        layers.append((lower_case(), cfg.soft_masked_weight))
    if cfg.weight_regions:
        layers.append((_stretches(_regions(cfg.weight_regions, files["weight_regions"], None, coordinates)), cfg.weight_regions.weight))
    labels = [
        *(_regions(cfg.label_regions, files["label_regions"], cfg.label_regions.label_by, coordinates) if cfg.label_regions else ()),
        *(_go_terms(cfg.go_terms, files["go_terms"], coordinates) if cfg.go_terms else ()),
    ]
    return Features(
        selected=_stretches(_regions(cfg.select_regions, files["select_regions"], None, coordinates)) if cfg.select_regions else None,
        masked=lower_case() if cfg.soft_masked == "drop" else None,
        weights=Weights.of(layers) if layers else None,
        labels=_joined(labels) if cfg.label_regions or cfg.go_terms else None,
    )


Labelled = tuple[np.ndarray, np.ndarray, list[str]]
"""Places and labels of some intervals."""


def _regions(cfg: RegionsConfig, files: Iterable[Location], label_by: str | None, coordinates: Coordinates) -> Iterator[Labelled]:
    for file in files:
        found = read_regions(
            file, types=cfg.types, anchor=cfg.anchor, upstream=cfg.upstream, downstream=cfg.downstream, label_by=label_by
        )
        matched, unmatched = match_names(found, coordinates.contigs)
        if left_out := sum(len(found[name]) for name in unmatched):
            log.warning("%s: %s regions on %s have no record", file, f"{left_out:,}", listed(unmatched, limit=3))
        for name, contig in matched.items():
            if coordinates.num_inputs(contig) > 1:
                raise DataError(f"{file}: sequence {name!r} is in several inputs; preprocess these apart, and mix them by data.train_path")
            intervals = found[name]
            start, end, number = coordinates.places(contig, intervals.start_K, intervals.end_K)
            yield start, end, [intervals.label_K[i] for i in number.tolist()]


def _go_terms(cfg: GoTermsConfig, files: Iterable[Location], coordinates: Coordinates) -> Iterator[Labelled]:
    from .sources.go_terms import match_proteins, read_go_terms  # Biopython is an extra

    for file in files:
        terms = match_proteins(read_go_terms(file, aspects=cfg.aspects, exclude_evidence=cfg.exclude_evidence), coordinates.contigs)
        for contig, labels in terms.items():
            whole = np.zeros(len(labels), np.int64), np.full(len(labels), np.iinfo(np.int64).max)
            start, end, number = coordinates.places(contig, *whole)
            yield start, end, [labels[i] for i in number.tolist()]


def _stretches(labelled: Iterable[Labelled]) -> Stretches:
    """All bases of the intervals, labels aside; those of neighbouring records may become one."""
    columns = [(start, end) for start, end, _ in labelled] or [(np.empty(0, np.int64),) * 2]
    return union(*map(np.concatenate, zip(*columns, strict=True)))


def _joined(labelled: Sequence[Labelled]) -> Intervals:
    start = np.concatenate([np.empty(0, np.int64), *(part[0] for part in labelled)])
    end = np.concatenate([np.empty(0, np.int64), *(part[1] for part in labelled)])
    label = np.array([name for part in labelled for name in part[2]], object)
    order = np.lexsort((end, start))
    return Intervals(start[order], end[order], np.zeros(len(order), np.int8), tuple(label[order]))
