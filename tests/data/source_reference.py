"""Sources as a definition: slow, plain Python, one base at a time. Each base knows what it came from, so nothing is ever lifted.

Tests compare the stages of preprocessing, run in this process by `run_in_process`, with `expected_rows`.
"""

from __future__ import annotations

import gzip
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray

import hyena_glt.data.population  # noqa: F401  so that its rows, too, can be local ones
from hyena_glt.config import Config
from hyena_glt.config.preprocessing import RegionsConfig
from hyena_glt.data.manifest import SPLITS, Dropped, Manifest, count_dropped
from hyena_glt.data.plan import prepare
from hyena_glt.data.preprocess import preprocess
from hyena_glt.data.resume import claim
from hyena_glt.data.sources.regions import chromosome_name
from hyena_glt.data.splits import hashed_split
from hyena_glt.tokenizers import Tokenizer
from tests.data import reference
from tests.data.reference import stored_ids


class Row(NamedTuple):
    """A stored row without padding; `weights` and `labels` are None where the settings ask for none."""

    source: str
    record: str
    start: int
    length: int
    ids: tuple[int, ...]
    weights: tuple[float, ...] | None
    labels: tuple[str, ...] | None


class Base(NamedTuple):
    """One letter, and the base of the contig that it stands on; an inserted one stands on the base at its left."""

    letter: str
    position: int
    is_lower: bool


@dataclass(frozen=True, slots=True)
class Molecule:
    """A record of an input, or a haplotype."""

    source: str
    record: str
    contig: str
    bases: tuple[Base, ...]

    @property
    def letters(self) -> str:
        return "".join(base.letter for base in self.bases)


class Feature(NamedTuple):
    """A line of an annotation, 0-based and half-open."""

    sequence: str
    type: str
    start: int
    end: int
    strand: str

    @property
    def gff3(self) -> str:
        return "\t".join([self.sequence, "made", self.type, str(self.start + 1), str(self.end), ".", self.strand, ".", f"ID={self.type}x"])

    @property
    def bed(self) -> str:
        return "\t".join([self.sequence, str(self.start), str(self.end), self.type, "0", self.strand])


def input_records(files: Mapping[str, bytes]) -> list[Molecule]:
    """The records of FASTA files given as source -> content, in order; one record a header, its name one word."""
    found = []
    for source, content in sorted(files.items()):
        for record in content.decode().split(">")[1:]:
            name, *lines = record.split("\n")
            bases = tuple(Base(letter.upper(), number, letter.islower()) for number, letter in enumerate("".join(lines)))
            found.append(Molecule(source, name, name, bases))
    return found


def haplotype(original: Molecule, source: str, start: int, end: int, edits: Iterable[tuple[int, int, str]]) -> Molecule:
    """The bases [start, end) of a contig with edits (first, last, letters) that are sorted and disjoint, from right to left."""
    bases, whole = list(original.bases), (start, end) == (0, len(original.bases))
    record = original.contig if whole else f"{original.contig}:{start + 1}-{end}"
    for first, last, letters in reversed(list(edits)):
        anchors = [min(first + number, last - 1) for number in range(len(letters))]
        lower = [anchor >= 0 and original.bases[anchor].is_lower for anchor in anchors]
        bases[first:last] = map(Base, letters, anchors, lower)
        end += len(letters) - (last - first)
    return Molecule(source, record, original.contig, tuple(bases[start:end]))


def spread(feature: Feature, anchor: str, upstream: int, downstream: int) -> range:
    """The positions of a feature with what is added on either side of its strand; they may lie outside the contig."""
    start, end = feature.start, feature.end
    if anchor == "start":
        start, end = (end - 1, end) if feature.strand == "-" else (start, start + 1)
    before, after = (downstream, upstream) if feature.strand == "-" else (upstream, downstream)
    return range(start - before, end + after)


def expected_rows(
    records: Sequence[Molecule], cfg: Config, features: Mapping[str, Sequence[Feature]]
) -> tuple[dict[str, list[Row]], Dropped]:
    """The rows of every split, and what was dropped; `features` are the chosen lines of each section."""
    pre, tok = cfg.preprocessing, cfg.tokenization
    rows: dict[str, list[Row]] = {split: [] for split in SPLITS}
    dropped, seen_records, seen_windows = Dropped(), set(), set()
    for record in records:
        if not record.bases:
            count_dropped(dropped, "empty_records", records=1, bases=0)
            continue
        if pre.remove_duplicates and record.letters in seen_records:
            count_dropped(dropped, "duplicate_records", records=1, bases=len(record.bases))
            continue
        seen_records.add(record.letters)
        sections = {name: getattr(pre, name) for name in _SECTIONS if getattr(pre, name)}
        found = {name: _positions(record, features.get(name, ()), section) for name, section in sections.items()}
        for start, end, split in _runs(record, cfg, found, dropped):
            for first, letters in reference.cut(record.letters, start, end, pre.max_length, tok.stride or pre.max_length):
                ids = reference.encode(letters, cfg)
                reason = (
                    "short" if len(letters) < pre.min_length or not ids
                    else "ambiguous" if reference.too_ambiguous(letters, cfg)
                    else "duplicate" if pre.remove_duplicates and letters in seen_windows
                    else None
                )
                if reason:
                    count_dropped(dropped, f"{reason}_windows", windows=1, bases=len(letters))
                    continue
                seen_windows.add(letters)
                length = reference.covered(len(ids), cfg)
                count_dropped(dropped, "leftover_bases", windows=int(length < len(letters)), bases=len(letters) - length)
                row = Row(record.source, record.record, first, length, ids, *_weights_and_labels(record, first, length, cfg, found))
                rows[split].append(row)
    return rows, dropped


_SECTIONS = ("select_regions", "label_regions", "weight_regions")


def _positions(record: Molecule, features: Sequence[Feature], section: RegionsConfig) -> list[tuple[str, range]]:
    """(type, positions of the contig) of the features of a record's contig."""
    own = [feature for feature in features if chromosome_name(feature.sequence) == chromosome_name(record.contig)]
    return [(feature.type, spread(feature, section.anchor, section.upstream, section.downstream)) for feature in own]


def _runs(record: Molecule, cfg: Config, found: Mapping[str, list], dropped: Dropped) -> Iterator[tuple[int, int, str]]:
    """(first, last, split) of the stretches of a record that lie in one split, in order; bases in none are counted."""
    pre, splits = cfg.preprocessing, list[str | None]()
    for split, base in zip(splits_of(record, cfg), record.bases, strict=True):
        reason = None
        if split is None:
            reason = "split_gap"
        elif pre.select_regions and not any(base.position in positions for _, positions in found["select_regions"]):
            reason = "not_selected"
        elif pre.soft_masked == "drop" and base.is_lower:
            reason = "soft_masked"
        if reason:
            count_dropped(dropped, reason, bases=1)
        splits.append(None if reason else split)
    for at, split in enumerate(splits):
        if split and (at == 0 or splits[at - 1] != split):
            yield at, next((other for other in range(at, len(splits)) if splits[other] != split), len(splits)), split


def splits_of(record: Molecule, cfg: Config) -> list[str | None]:
    """The split of each base, None in the gap between two."""
    split, bases = cfg.preprocessing.split, record.bases
    if split.by == "interval":
        return _by_interval(record, cfg)
    if split.by in ("tail", "record"):
        spans = reference.split_spans(record.contig, len(bases), cfg)
        return [next((name for name, (first, last) in spans.items() if first <= at < last), None) for at in range(len(bases))]
    if split.by == "named":
        return [next((name for name in ("val", "test") if record.contig in getattr(split, f"{name}_records")), "train")] * len(bases)
    group = record.source if split.by == "file" else chromosome_name(record.contig)
    return [hashed_split(group, split)] * len(bases)


def _by_interval(record: Molecule, cfg: Config) -> list[str | None]:
    split, gap = cfg.preprocessing.split, cfg.preprocessing.max_length
    listed = {name: [_parse(text) for text in getattr(split, f"{name}_intervals")] for name in ("val", "test")}

    def lies_in(base: Base, name: str) -> bool:
        return any(contig == record.contig and base.position in positions for contig, positions in listed[name])

    test = [lies_in(base, "test") for base in record.bases]
    val = [lies_in(base, "val") and not any(test[max(at - gap, 0) : at + gap + 1]) for at, base in enumerate(record.bases)]
    held_out = [name or other for name, other in zip(test, val, strict=True)]
    return [
        "test" if test[at] else "val" if val[at] else None if any(held_out[max(at - gap, 0) : at + gap + 1]) else "train"
        for at in range(len(record.bases))
    ]


def _parse(text: str) -> tuple[str, range]:
    contig, _, bounds = text.partition(":")
    first, last = map(int, bounds.split("-"))
    return contig, range(first - 1, last)


def _weights_and_labels(record: Molecule, first: int, length: int, cfg: Config, found: Mapping[str, list]) -> tuple:
    pre = cfg.preprocessing
    window, weights, labels = record.bases[first : first + length], None, None
    if pre.soft_masked == "weight" or pre.weight_regions:
        of_bases = [1.0] * length
        for at, base in enumerate(window):
            if pre.soft_masked == "weight" and base.is_lower:
                of_bases[at] *= pre.soft_masked_weight
            if pre.weight_regions and any(base.position in positions for _, positions in found["weight_regions"]):
                of_bases[at] *= pre.weight_regions.weight
        span, stride = reference.span_and_stride(cfg)
        weights = tuple(sum(of_bases[at : at + span]) / span for at in range(0, length - span + 1, stride))
    if pre.label_regions:
        labels = tuple(sorted({name for name, positions in found["label_regions"] if any(base.position in positions for base in window)}))
    return weights, labels


class LocalRows(list):
    """As much of a Ray dataset as the stages use, in this process."""

    def map(self, function: Callable, *, fn_kwargs: dict) -> LocalRows:
        return LocalRows(function(row, **fn_kwargs) for row in self)

    def map_batches(
        self, function: Callable, *, batch_size: int | None, batch_format: str, fn_args: tuple = (), fn_kwargs: dict | None = None
    ) -> LocalRows:
        size = batch_size or max(len(self), 1)
        batches = [self[at : at + size] for at in range(0, len(self), size)]
        results = [function(_batch(rows, batch_format), *fn_args, **(fn_kwargs or {})) for rows in batches]
        return LocalRows(row for result in results for row in pa.table(result).to_pylist())

    def repartition(self, num_blocks: int) -> LocalRows:
        return self

    def iter_rows(self) -> Iterator[dict]:
        return iter(self)

    def iter_batches(self, *, batch_size: None, batch_format: str) -> Iterator:
        return iter([_batch(self, batch_format)] if self else [])


def _batch(rows: list[dict], batch_format: str) -> pa.Table | dict[str, np.ndarray]:
    table = pa.Table.from_pylist(rows)
    return table if batch_format == "pyarrow" else {name: np.array(table[name].to_pylist()) for name in table.column_names}


@contextmanager
def local_rows() -> Iterator[None]:
    """Rows of this process in the place of Ray's."""
    with ExitStack() as patches:
        for name, module in list(sys.modules.items()):
            if name.startswith("hyena_glt.data.") and hasattr(module, "task_rows"):
                patches.enter_context(mock.patch.object(module, "task_rows", lambda tasks, *, bases=None: LocalRows(tasks)))
        for name in ("put", "get"):
            patches.enter_context(mock.patch.object(ray, name, lambda value: value))
        yield


def run_in_process(cfg: Config) -> tuple[dict[str, list[Row]], Manifest]:
    """Preprocess as the driver does, without Ray: the rows of each split in order, and the manifest."""
    run = prepare(cfg, lambda *_: None)
    claim(run.output, run.destination, run.identity)
    with local_rows():
        manifest = preprocess(run, lambda *_: None)
    rows: dict[str, list[Row]] = {split: [] for split in SPLITS}
    for split, part in manifest.splits.items():
        rows[split] = [row for shard in part.shards for row in read_shard(run.output / shard.path, run.tokenizer)]
    return rows, manifest


def read_shard(path: Path, tokenizer: Tokenizer) -> list[Row]:
    """The rows of a shard, without their padding."""
    return [unpad(row, tokenizer) for row in pq.read_table(path).to_pylist()]


def unpad(row: dict, tokenizer: Tokenizer) -> Row:
    """A stored row; behind its tokens there must be nothing but padding."""
    ids = stored_ids(row["input_ids"], tokenizer)
    filled = len(ids) - ids.count(0)
    assert 0 not in ids[:filled]
    weights, labels = None, None
    if "weights" in row:
        values = np.frombuffer(row["weights"], np.float16).tolist()
        assert not any(values[filled:])
        weights = tuple(values[:filled])
    if "labels" in row:
        labels = tuple(row["labels"])
    return Row(row["source"], row["record"], row["start"], row["length"], tuple(ids[:filled]), weights, labels)


def assert_same(found: Mapping[str, list[Row]], wanted: Mapping[str, list[Row]]) -> None:
    """Equal rows; weights within half precision."""
    for split in SPLITS:
        bare = [[row._replace(weights=None) for row in rows] for rows in (found[split], wanted[split])]
        assert bare[0] == bare[1], split
        for one, other in zip(found[split], wanted[split], strict=True):
            assert (one.weights is None) == (other.weights is None)
            np.testing.assert_allclose(one.weights or (), other.weights or (), rtol=1e-3)


def assert_every_base_is_counted(rows: Mapping[str, list[Row]], manifest: Manifest) -> None:
    """Where windows do not overlap, a base of an input lies in a row or among those that left."""
    stored = sum(row.length for of_split in rows.values() for row in of_split)
    assert stored + sum(counts["bases"] for counts in manifest.dropped.values()) == sum(item.bases for item in manifest.inputs)


def write_annotation(path: Path, features: Sequence[Feature]) -> str:
    """GFF3 or BED, by the name; gives the path."""
    lines = [feature.bed if ".bed" in path.name else feature.gff3 for feature in features]
    content = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return str(path)
