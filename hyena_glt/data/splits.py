"""Divide records into train, val and test. Runs on the driver, by arithmetic alone.

A base is known by its place, its number among all bases of all inputs, so a split is a list of stretches of places: set operations on
such lists are all that splits, selected regions and gaps need. Suffix: N records.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from ..config.preprocessing import SplitConfig
from ..config.settings import suggest
from ..errors import ConfigError, DataError
from .coordinates import Coordinates
from .inputs import is_bed
from .manifest import SPLITS
from .sources.haplotypes import parse_region
from .sources.intervals import Stretches, intersect, subtract, union
from .sources.regions import chromosome_name, match_names, read_regions
from .storage import location


def split_places(
    coordinates: Coordinates, sources: Sequence[str], cfg: SplitConfig, *, gap: int, clusters: Callable[[], Sequence[str]]
) -> dict[str, Stretches]:
    """Split name -> its places, for the records that stay.

    `gap` bases between splits of one record belong to none, so that no window of one is a neighbour of another's. `clusters` gives the
    name of each record's homology cluster. A split that gets nothing is there with no stretches; no stretch crosses the end of a record.
    """
    start_N, end_N = coordinates.everything()
    if cfg.by == "tail":
        return _tails(coordinates, cfg, gap)
    if cfg.by == "interval":
        return _intervals(coordinates, cfg, gap)
    if cfg.by == "named":
        split_N = np.array(_named(coordinates.records, sources, cfg))
        _refuse_parted(coordinates, split_N)
    else:
        names = clusters() if cfg.by == "cluster" else _groups(coordinates.records, sources, cfg)
        split_N = np.array([hashed_split(name, cfg) for name in names])
    return {split: (start_N[split_N == split], end_N[split_N == split]) for split in SPLITS}


def _groups(records: pa.Table, sources: Sequence[str], cfg: SplitConfig) -> list[str]:
    """What the hash of each record is taken of: all records of one group, in whatever file, go to one split."""
    if cfg.by == "file":
        return [sources[file] for file in records["file"].to_pylist()]
    names = records["contig"].to_pylist()
    return [chromosome_name(name) for name in names] if cfg.by == "chromosome" else names


def _stretches(start: np.ndarray, end: np.ndarray) -> Stretches:
    """Those that are not empty."""
    return start[end > start], end[end > start]


def _tails(coordinates: Coordinates, cfg: SplitConfig, gap: int) -> dict[str, Stretches]:
    """The end of each record is for test, what stands before it for val; train pays for the gaps, so that the others keep their size.

    Tails are measured on the contig, so that its haplotypes, which are not equally long, are all cut at the same base of it.
    """
    (start_N, end_N), (low_N, high_N) = coordinates.everything(), coordinates.contig_stretches()
    splits, limit_N = {}, high_N
    for split, share in (("test", cfg.test), ("val", cfg.val)):
        cut_N = np.maximum(limit_N - np.rint((high_N - low_N) * share).astype(np.int64), low_N)
        first_N = coordinates.in_records(cut_N)
        splits[split] = _stretches(first_N, end_N)
        end_N = np.where(end_N > first_N, np.maximum(first_N - gap, start_N), end_N)
        limit_N = np.where(limit_N > cut_N, np.maximum(cut_N - gap, low_N), limit_N)
    return splits | {"train": _stretches(start_N, end_N)}


def _intervals(coordinates: Coordinates, cfg: SplitConfig, gap: int) -> dict[str, Stretches]:
    """The listed stretches, in every record of their contig; train has the rest, less the gaps around them."""
    val, test = (_listed_places(coordinates, split, getattr(cfg, f"{split}_intervals")) for split in ("val", "test"))
    if len(intersect(val, test)[0]):
        raise ConfigError("preprocessing.split: val_intervals and test_intervals have bases in common; make them disjoint")
    test_with_gap = coordinates.widened(test, gap)
    val = subtract(val, test_with_gap)
    held_out = [np.concatenate(bounds) for bounds in zip(coordinates.widened(val, gap), test_with_gap, strict=True)]
    return {"train": subtract(coordinates.everything(), union(*held_out)), "val": val, "test": test}


def _listed_places(coordinates: Coordinates, split: str, intervals: str | Sequence[str]) -> Stretches:
    """Regions and BED files to places."""
    columns = [(np.empty(0, np.int64),) * 2]
    for text in (intervals,) if isinstance(intervals, str) else intervals:
        for contig, (start_K, end_K) in _read_intervals(text).items():
            try:
                matched, _ = match_names([contig], coordinates.contigs)
            except DataError as error:
                raise ConfigError(f"preprocessing.split.{split}_intervals: {text}: {error}") from error
            columns.append(coordinates.places(matched[contig], start_K, end_K)[:2])
    # Cut at the ends of records again, because stretches of neighbours that touch have become one.
    return intersect(union(*map(np.concatenate, zip(*columns, strict=True))), coordinates.everything())


def _read_intervals(text: str) -> dict[str, Stretches]:
    """Contig -> intervals, of a BED file or of one region."""
    if is_bed(text):
        return {contig: (found.start_K, found.end_K) for contig, found in read_regions(location(text)).items()}
    region = parse_region(text)
    end = np.iinfo(np.int64).max if region.end is None else region.end
    return {region.contig: (np.array([region.start]), np.array([end]))}


def refuse_unknown_names(records: pa.Table, sources: Sequence[str], cfg: SplitConfig) -> None:
    """ConfigError, with the nearest name, for each of `val_records` and `test_records` that no record, file or chromosome has.

    `records` are all of the inputs: one that is dropped for being empty or a repeat is no mistake of the settings.
    """
    if not (cfg.val_records or cfg.test_records):
        return
    matching = _matching(records, sources)
    unknown = [(split, name) for split in ("val", "test") for name in getattr(cfg, f"{split}_records") if not matching(name)]
    if unknown:
        names = [*dict.fromkeys([*records["name"].to_pylist(), *sources])]
        raise ConfigError(*(
            f"preprocessing.split.{split}_records: no record is named {wanted!r}{suggest(wanted, names) or _first(names)}"
            for split, wanted in unknown
        ))


def _refuse_parted(coordinates: Coordinates, split_N: np.ndarray) -> None:
    """ConfigError if records of a contig that has haplotypes go to several splits: one would be found in another."""
    for contig, numbers in coordinates.with_haplotypes().items():
        if len(set(split_N[numbers])) > 1:
            raise ConfigError(f"preprocessing.split: the haplotypes of {contig!r} would be parted; name the contig in val_ or test_records")


def _named(records: pa.Table, sources: Sequence[str], cfg: SplitConfig) -> list[str]:
    """The split of each record, by the names listed; ConfigError for a record that two splits want."""
    split_N, matching = ["train"] * records.num_rows, _matching(records, sources)
    for split in ("val", "test"):
        for wanted in getattr(cfg, f"{split}_records"):
            for number in matching(wanted):
                if split_N[number] not in ("train", split):
                    name = records["name"][number].as_py()
                    raise ConfigError(f"preprocessing.split.{split}_records: {wanted!r} means record {name!r}, which val_records has too")
                split_N[number] = split
    return split_N


def _matching(records: pa.Table, sources: Sequence[str]) -> Callable[[str], list[int]]:
    """Name -> the numbers of the records that it means: those of that name, else those of that file, else those of that chromosome."""
    of_name, of_source, of_chromosome = (defaultdict[str, list[int]](list) for _ in range(3))
    columns = (records[column].to_pylist() for column in ("name", "contig", "file"))
    for number, (name, contig, file) in enumerate(zip(*columns, strict=True)):
        for own in {name, contig}:
            of_name[own].append(number)
        of_source[sources[file]].append(number)
        of_chromosome[chromosome_name(contig)].append(number)
    return lambda wanted: of_name.get(wanted) or of_source.get(wanted) or of_chromosome.get(chromosome_name(wanted), [])


def hashed_split(name: str, cfg: SplitConfig) -> str:
    """The split of a record: the same on every machine, and whichever other records there are."""
    digest = hashlib.blake2b(name.encode(), digest_size=8, key=cfg.seed.to_bytes(16, "little", signed=True)).digest()
    share = int.from_bytes(digest, "little") / 2**64
    return "test" if share < cfg.test else "val" if share < cfg.test + cfg.val else "train"


def _first(names: list[str]) -> str:
    return f"; there are {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
