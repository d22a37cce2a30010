"""What a preprocessing run will do: its settings checked, its inputs found, its records divided into tasks. Runs on the driver."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..config import SplitConfig
from ..config.tree import Config
from ..errors import ConfigError, DataError
from ..tokenizers import Tokenizer, build_tokenizer
from .coordinates import Coordinates, load_lifts
from .features import Features, read_features
from .homology import homology_clusters
from .index import OnProgress, checksums
from .inputs import find_annotations, find_inputs, named_annotations
from .job import Filters, Job, Task
from .manifest import SPLITS, Dropped, InputFile, count_dropped
from .resume import identity, sections
from .scratch import lower_case_file
from .sources.intervals import Stretches, intersect, subtract, union
from .splits import refuse_unknown_names, split_places
from .storage import Location, location, size
from .windows import Cut, make_regions

EXTRAS = {
    "h5py": ("output.format: hdf5", "hdf5"), "pysam": ("preprocessing.variants", "sources"), "Bio": ("preprocessing.go_terms", "sources"),
}
"""Optional module -> the setting that needs it, and what brings it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """Known before a sequence is read: settings that fit together, the input files and their checksums."""

    cfg: Config
    tokenizer: Tokenizer
    cut: Cut
    output: Path
    """Where the run works: the destination, or the scratch folder of one that is an object store."""
    destination: Location
    inputs: Mapping[str, Location]
    """Source name -> file of sequences, in the order of the rows."""
    annotations: Mapping[str, Sequence[Location]]
    """Section of `preprocessing` -> its files."""
    sha256: Mapping[str, str]
    """Of the inputs by source name, of the annotations by section and name."""

    @property
    def identity(self) -> dict[str, object]:
        """All that decides the bytes of the output."""
        return identity(sections(self.cfg), self.tokenizer.to_dict(), self.sha256)


@dataclass(frozen=True, kw_only=True, slots=True)
class DataPlan:
    """Known once the records are indexed, and before a window is filtered or written."""

    inputs: tuple[InputFile, ...]
    job: Job
    tasks: tuple[Task, ...]
    dropped: Dropped
    variants: Mapping[str, int]

    @property
    def num_bases(self) -> int:
        """Bases of all inputs."""
        return sum(item.bases for item in self.inputs)


class Genome(NamedTuple):
    """The records of the inputs, and of what was built from them."""

    records: pa.Table
    """Columns of `index.RECORDS` and `place`, in order."""
    sources: tuple[str, ...]
    """The name of each file, by its number."""
    repeated: np.ndarray
    """bool, one a record: its letters stand in an earlier one."""
    variants: Mapping[str, int] = {}
    """What became of the variants, counted."""


def prepare(cfg: Config, on_progress: OnProgress) -> Run:
    """Check the settings and find the inputs.

    Raises ConfigError with all that is missing, contradictory or not built yet, DataError for a path without FASTA files.
    """
    tokenizer = build_tokenizer(cfg.preprocessing.sequence_type, cfg.tokenization)
    cut = _check_settings(cfg, tokenizer.span)
    inputs, annotations = find_inputs(cfg.preprocessing.input_path), find_annotations(cfg.preprocessing)
    destination = location(str(cfg.output.path))
    if isinstance(destination, Path):
        destination = Path(os.path.abspath(destination))
    return Run(
        cfg=cfg, tokenizer=tokenizer, cut=cut, output=_work_folder(cfg.output.scratch_path, destination), destination=destination,
        inputs=inputs, annotations=annotations, sha256=checksums({**inputs, **named_annotations(annotations)}, on_progress),
    )


def _work_folder(scratch_path: str | None, destination: Location) -> Path:
    """The local folder of a run: apart for each object store's output, so that a stopped run is found again."""
    if isinstance(destination, Path):
        return destination
    return Path(os.path.abspath(scratch_path or ".hyena-glt")) / quote(str(destination), safe="")


def _check_settings(cfg: Config, span: int) -> Cut:
    """How windows are cut; `span` is the bases under one token."""
    length = cfg.preprocessing.max_length
    problems = {
        "preprocessing.input_path: name FASTA files, folders or globs": not cfg.preprocessing.input_path,
        "output.path: name the folder to write": not cfg.output.path,
        f"preprocessing.max_length: windows of {length} bases are shorter than one token of {span} (tokenization.kmer_size)": length < span,
    }
    needed = {"h5py": cfg.output.format == "hdf5", "pysam": cfg.preprocessing.variants, "Bio": cfg.preprocessing.go_terms}
    for module, wanted in needed.items():
        setting, extra = EXTRAS[module]
        problems[f"{setting}: needs {module}; pip install 'hyena-glt[{extra}]'"] = bool(wanted) and find_spec(module) is None
    found = [sentence for sentence, wrong in problems.items() if wrong]
    if found:
        raise ConfigError(*found)
    return Cut(max_length=length, stride=cfg.tokenization.stride or length)


def make_plan(run: Run, genome: Genome, on_progress: OnProgress) -> DataPlan:
    """Drop empty and repeated records and divide the others.

    Raises ConfigError when a record that the settings name does not exist, DataError when a split gets nothing.
    """
    pre, num_inputs = run.cfg.preprocessing, len(run.inputs)
    refuse_unknown_names(genome.records, genome.sources, pre.split)
    kept, dropped = drop_records(genome.records, genome.repeated & pre.remove_duplicates)
    if pre.variants and not pre.variants.keep_reference:
        kept = _drop_reference(kept, num_inputs, dropped)
    coordinates = Coordinates(kept, load_lifts(run.output, kept, num_inputs))
    features = read_features(pre, run.annotations, coordinates, lambda: _lower_case(run, genome.records, kept, coordinates))
    clusters = partial(_clusters, run, kept, on_progress)
    places = split_places(coordinates, genome.sources, pre.split, gap=run.cut.max_length, clusters=clusters)
    places = _restrict(places, coordinates, features, dropped)
    regions = {split: make_regions(kept, stretches, run.cut) for split, stretches in places.items()}
    refuse_empty_splits(run.cfg, {split: r.num_windows for split, r in regions.items()}, dropped)
    filters = Filters(
        sequence_type=pre.sequence_type, min_length=max(pre.min_length, run.tokenizer.span),
        max_ambiguous_fraction=pre.max_ambiguous_fraction if pre.filter_n_bases else 1.0,
        max_low_complexity_fraction=1.0 if pre.max_low_complexity_fraction is None else pre.max_low_complexity_fraction,
    )
    job = Job(
        output=run.output, destination=run.destination, format=run.cfg.output.format, sources=genome.sources, regions=regions,
        cut=run.cut, filters=filters, tokenizer=run.tokenizer,
        compress=run.cfg.output.compress, repeated_places=np.empty(0, np.int64), weights=features.weights, labels=features.labels,
    )
    return DataPlan(
        inputs=_input_files(run, genome.records), job=job, tasks=tuple(job.tasks(run.cfg.output.chunk_size)), dropped=dropped,
        variants=genome.variants,
    )


def _clusters(run: Run, records: pa.Table, on_progress: OnProgress) -> list[str]:
    """The homology cluster of each record."""
    pre, total, done = run.cfg.preprocessing, int(records["length"].to_numpy().sum()), 0

    def count(bases: int) -> None:
        nonlocal done
        done += bases
        on_progress("clustering", done, total)

    return homology_clusters(run.output, records, pre.sequence_type, pre.split.cluster_threshold, count)


def _restrict(
    places: Mapping[str, Stretches], coordinates: Coordinates, features: Features, dropped: Dropped
) -> dict[str, Stretches]:
    """The places of each split that were selected and are not cut out; the others are counted."""
    lengths = [coordinates.everything(), *places.values()]
    total, in_splits = num_bases(lengths[:1]), num_bases(lengths[1:])
    selected = {split: intersect(s, features.selected) if features.selected is not None else s for split, s in places.items()}
    whole = {split: subtract(s, features.masked) if features.masked is not None else s for split, s in selected.items()}
    count_dropped(dropped, "split_gap", bases=total - in_splits)
    count_dropped(dropped, "not_selected", bases=in_splits - num_bases(selected.values()))
    count_dropped(dropped, "soft_masked", bases=num_bases(selected.values()) - num_bases(whole.values()))
    return whole


def num_bases(stretches: Iterable[Stretches]) -> int:
    """Bases of several lists of stretches together."""
    return sum(int((end - start).sum()) for start, end in stretches)


def _lower_case(run: Run, records: pa.Table, kept: pa.Table, coordinates: Coordinates) -> Stretches:
    """The lower-case places of the inputs, and of the haplotypes built from them."""
    first_place = {}  # of each input file
    for file, place in zip(records["file"].to_pylist(), records["place"].to_pylist(), strict=True):
        first_place.setdefault(file, place)
    columns = []
    for file in range(len(run.inputs)):
        columns.append(np.load(lower_case_file(run.output, file)) + first_place[file])
    lower = union(*np.concatenate(columns).T)
    haplotypes = kept.filter(pc.greater_equal(kept["file"], len(run.inputs)))
    for contig in set(haplotypes["contig"].to_pylist()):
        row = records.filter(pc.equal(records["name"], contig)).slice(0, 1).to_pylist()[0]
        start, end = intersect(lower, (np.array([row["place"]]), np.array([row["place"] + row["length"]])))
        columns.append(np.column_stack(coordinates.places(contig, start - row["place"], end - row["place"])[:2]))
    return union(*np.concatenate(columns).T)


def _drop_reference(records: pa.Table, num_inputs: int, dropped: Dropped) -> pa.Table:
    """Only the haplotypes."""
    is_input = records["file"].to_numpy() < num_inputs
    count_dropped(dropped, "reference_records", records=int(is_input.sum()), bases=int(records["length"].to_numpy()[is_input].sum()))
    return records.filter(pa.array(~is_input)).combine_chunks()


def drop_records(records: pa.Table, repeated: np.ndarray) -> tuple[pa.Table, Dropped]:
    """The records that stay, in order, and those that do not, counted by reason; `repeated` is bool [N]."""
    empty = records["length"].to_numpy() == 0
    lengths, dropped = records["length"].to_numpy(), Dropped()
    for reason, mask in (("empty_records", empty), ("duplicate_records", repeated)):
        count_dropped(dropped, reason, records=int(mask.sum()), bases=int(lengths[mask].sum()))
    return records.filter(pa.array(~(empty | repeated))).combine_chunks(), dropped


def _input_files(run: Run, records: pa.Table) -> tuple[InputFile, ...]:
    """The files of sequences with their records; haplotypes count for the variants that they were built from."""
    files, lengths = records["file"].to_numpy(), records["length"].to_numpy()
    num_records, bases = np.bincount(files, minlength=len(run.inputs)), np.bincount(files, weights=lengths, minlength=len(run.inputs))
    counted = [(source, path, int(num_records[i]), int(bases[i])) for i, (source, path) in enumerate(run.inputs.items())]
    built = files >= len(run.inputs)
    of_haplotypes = int(built.sum()), int(lengths[built].sum())
    for name, path in named_annotations(run.annotations).items():
        first_vcf = path == run.annotations.get("variants", [None])[0]  # haplotypes of several VCF files are counted with the first
        counted.append((name, path, *(of_haplotypes if first_vcf else (0, 0))))
    return tuple(
        InputFile(path=name, size=size(path) or 0, sha256=run.sha256[name], records=num, bases=num_of_bases)
        for name, path, num, num_of_bases in counted
    )


def refuse_empty_splits(cfg: Config, num_windows: Mapping[str, int], dropped: Dropped) -> None:
    """DataError when no window is left at all, or none for a split that the settings ask for."""
    counts = [f"{item.get('windows', item.get('records', 0)):,} {reason.replace('_', ' ')}" for reason, item in sorted(dropped.items())]
    lost = f" (dropped: {', '.join(counts)})" if counts else ""
    if not any(num_windows.values()):
        raise DataError(
            f"no window is left after the filters{lost}; see preprocessing.min_length, max_ambiguous_fraction and remove_duplicates"
        )
    split = cfg.preprocessing.split
    asked = {"train": True, "val": _is_asked(split, "val"), "test": _is_asked(split, "test")}
    empty = [name for name in SPLITS if asked[name] and not num_windows[name]]
    if empty:
        removable = split.by not in ("named", "interval") and "train" not in empty
        without = f"; or set {' and '.join(f'preprocessing.split.{name}' for name in empty)} to 0" if removable else ""
        raise DataError(f"the {' and the '.join(empty)} split would be empty{lost}; {EMPTY_SPLIT_ADVICE[split.by]}{without}")


def _is_asked(split: SplitConfig, name: str) -> bool:
    """Whether the settings ask for a split that holds something."""
    setting = {"named": f"{name}_records", "interval": f"{name}_intervals"}.get(split.by, name)
    return bool(getattr(split, setting))


_HASH_ADVICE = "the seeded hash put no {} there: split by tail, take another split.seed, larger fractions or more {}s"
EMPTY_SPLIT_ADVICE = {
    "record": _HASH_ADVICE.format("record", "record"),
    "chromosome": _HASH_ADVICE.format("chromosome", "chromosome"),
    "file": _HASH_ADVICE.format("file", "file"),
    "cluster": _HASH_ADVICE.format("cluster", "record"),
    "named": "name other records in preprocessing.split.val_records and test_records",
    "interval": "list other stretches in preprocessing.split.val_intervals and test_intervals",
    "tail": "the records are too short for it: raise its fraction, lower max_length, or split by record",
}
"""What to do where a way of splitting leaves a split empty."""
