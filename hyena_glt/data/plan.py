"""What a preprocessing run will do: its settings checked, its inputs found, its records divided into tasks. Runs on the driver."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from ..config import require_built
from ..config.tree import Config
from ..errors import ConfigError, DataError
from ..tokenizers import Tokenizer, build_tokenizer
from .dedup import is_repeat, split_digests
from .index import OnProgress, checksums
from .inputs import find_inputs
from .job import Filters, Job, Task
from .manifest import SPLITS, Dropped, InputFile, count_dropped
from .resume import identity, sections
from .splits import refuse_unknown_names, split_places
from .windows import Cut, make_regions


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """Known before a sequence is read: settings that fit together, the input files and their checksums."""

    cfg: Config
    tokenizer: Tokenizer
    cut: Cut
    output: Path
    inputs: Mapping[str, Path]
    """Source name -> file, in the order of the rows."""
    sha256: Mapping[str, str]

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

    @property
    def num_bases(self) -> int:
        """Bases of all inputs."""
        return sum(item.bases for item in self.inputs)


def prepare(cfg: Config, on_progress: OnProgress) -> Run:
    """Check the settings and find the inputs.

    Raises ConfigError with all that is missing, contradictory or not built yet, DataError for a path without FASTA files.
    """
    require_built(cfg, "preprocess")
    tokenizer = build_tokenizer(cfg.preprocessing.sequence_type, cfg.tokenization)
    cut = _check_settings(cfg, tokenizer.span)
    inputs = find_inputs(cfg.preprocessing.input_path)
    output = Path(os.path.abspath(str(cfg.output.path)))
    return Run(cfg=cfg, tokenizer=tokenizer, cut=cut, output=output, inputs=inputs, sha256=checksums(inputs, on_progress))


def _check_settings(cfg: Config, span: int) -> Cut:
    """How windows are cut; `span` is the bases under one token."""
    length = cfg.preprocessing.max_length
    problems = {
        "preprocessing.input_path: name FASTA files, folders or globs": not cfg.preprocessing.input_path,
        "output.path: name the folder to write": not cfg.output.path,
        f"preprocessing.max_length: windows of {length} bases are shorter than one token of {span} (tokenization.kmer_size)": length < span,
    }
    found = [sentence for sentence, wrong in problems.items() if wrong]
    if found:
        raise ConfigError(*found)
    return Cut(max_length=length, stride=cfg.tokenization.stride or length)


def make_plan(run: Run, records: pa.Table) -> DataPlan:
    """Drop empty and repeated records and divide the others.

    Raises ConfigError when a record that the settings name does not exist, DataError when a split gets nothing.
    """
    pre = run.cfg.preprocessing
    refuse_unknown_names(records["name"].to_pylist(), pre.split)
    kept, dropped = drop_records(records, remove_duplicates=pre.remove_duplicates)
    places = split_places(kept, pre.split, gap=run.cut.max_length)
    regions = {split: make_regions(kept, stretches, run.cut) for split, stretches in places.items()}
    refuse_empty_splits(run.cfg, {split: r.num_windows for split, r in regions.items()}, dropped)
    in_splits = sum(int((end - start).sum()) for start, end in places.values())
    count_dropped(dropped, "split_gap", bases=int(kept["length"].to_numpy().sum()) - in_splits)
    filters = Filters(
        sequence_type=pre.sequence_type, min_length=max(pre.min_length, run.tokenizer.span),
        max_ambiguous_fraction=pre.max_ambiguous_fraction if pre.filter_n_bases else 1.0,
    )
    job = Job(
        output=run.output, sources=tuple(run.inputs), regions=regions, cut=run.cut, filters=filters, tokenizer=run.tokenizer,
        compress=run.cfg.output.compress, repeated_places=np.empty(0, np.int64),
    )
    return DataPlan(inputs=_input_files(run, records), job=job, tasks=tuple(job.tasks(run.cfg.output.chunk_size)), dropped=dropped)


def drop_records(records: pa.Table, *, remove_duplicates: bool) -> tuple[pa.Table, Dropped]:
    """The records that stay, in order, and those that do not, counted by reason."""
    empty = records["length"].to_numpy() == 0
    repeated = is_repeat(split_digests(records["digest"].to_pylist()), records["place"].to_numpy()) & ~empty & remove_duplicates
    lengths, dropped = records["length"].to_numpy(), Dropped()
    for reason, mask in (("empty_records", empty), ("duplicate_records", repeated)):
        count_dropped(dropped, reason, records=int(mask.sum()), bases=int(lengths[mask].sum()))
    return records.filter(pa.array(~(empty | repeated))).combine_chunks(), dropped


def _input_files(run: Run, records: pa.Table) -> tuple[InputFile, ...]:
    files = records["file"].to_numpy()
    num_records = np.bincount(files, minlength=len(run.inputs))
    bases = np.bincount(files, weights=records["length"].to_numpy(), minlength=len(run.inputs))
    return tuple(
        InputFile(path=source, size=path.stat().st_size, sha256=run.sha256[source], records=int(num_records[i]), bases=int(bases[i]))
        for i, (source, path) in enumerate(run.inputs.items())
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
    by_name = split.by == "named"
    asked = {"train": True, "val": split.val_records if by_name else split.val, "test": split.test_records if by_name else split.test}
    empty = [name for name in SPLITS if asked[name] and not num_windows[name]]
    if empty:
        change = {
            "record": "the seeded hash put no record there: split by tail, take another split.seed, larger fractions or more records",
            "named": "name other records in preprocessing.split.val_records and test_records",
            "tail": "the records are too short for it: raise its fraction, lower max_length, or split by record",
        }[split.by]
        without = "" if by_name or "train" in empty else f"; or set {' and '.join(f'preprocessing.split.{name}' for name in empty)} to 0"
        raise DataError(f"the {' and the '.join(empty)} split would be empty{lost}; {change}{without}")
