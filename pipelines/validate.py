"""Story of a validation: find all damage in a preprocessed folder; of whole data say what they are like. On the driver, without Ray."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hyena_glt.data.dataset import open_rows
from hyena_glt.data.manifest import output_around, read_manifest
from hyena_glt.data.storage import Location
from hyena_glt.data.verify import verify
from hyena_glt.errors import DataError

from ._progress import ProgressBar

if TYPE_CHECKING:
    from hyena_glt.evaluation.data_summary import DataSummary

Result = dict[str, object]
MAX_ROWS = 100_000
PAGE = "data_report.html"

log = logging.getLogger(__name__)


def validate_data(path: str | Path, *, output_dir: str | Path | None = None, max_rows: int = MAX_ROWS) -> Result:
    """Check a preprocessing output, or the whole output that a split folder belongs to, and say what its splits hold.

    Plain JSON: the shards and rows that the manifest names (0 if it cannot be read), and every damage found, a sentence each.
    Without damage also the statistics of each split, `splits`, how much of val and test stands in train, `leakage`, and with
    `output_dir` the page with the pictures, `report`. At most `max_rows` rows of each split, spread evenly, are looked at; for
    the leakage they are compared with all of train.
    """
    folder, _ = output_around(path)
    try:
        splits = tuple(read_manifest(folder).splits.values())
    except DataError:
        splits = ()
    shards, rows = sum(len(split.shards) for split in splits), sum(split.rows for split in splits)
    damage = verify(folder)
    result: Result = {"path": str(folder), "files": shards, "rows": rows, "damage": damage}
    if not damage:
        result |= _describe(folder, output_dir, max_rows)
    elif output_dir is not None:
        log.warning("no report is written of damaged data")
    return result


def _describe(folder: Location, output_dir: str | Path | None, max_rows: int) -> Result:
    # Heavy imports wait until something is to be described; the pictures need matplotlib.
    from hyena_glt.evaluation.data_summary import plain, sentences

    summary = _summarise(folder, max_rows)
    for sentence in sentences(summary):
        log.info(sentence)
    if output_dir is None:
        return plain(summary)
    from hyena_glt.evaluation.data_report import render

    page = Path(output_dir) / PAGE
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(render(summary), encoding="utf-8")
    return plain(summary) | {"report": str(page)}


def _summarise(folder: Location, max_rows: int) -> DataSummary:
    from hyena_glt.evaluation.data_leakage import measure_leakage
    from hyena_glt.evaluation.data_statistics import describe
    from hyena_glt.evaluation.data_summary import DataSummary

    manifest = read_manifest(folder)
    splits = {name: open_rows(str(folder), name) for name, split in manifest.splits.items() if split.rows}
    looked_at = {name: min(rows.num_rows, max_rows) for name, rows in splits.items()}
    held_out = {name: rows for name, rows in splits.items() if name != "train"} if "train" in splits else {}
    progress, leakage = ProgressBar("rows"), {}
    count = _counter(progress, "describing", sum(looked_at.values()))
    statistics = {name: describe(rows, max_rows, count) for name, rows in splits.items()}
    if held_out:
        compared = splits["train"].num_rows + sum(looked_at[name] for name in held_out)
        leakage = measure_leakage(splits["train"], held_out, max_rows, _counter(progress, "looking for leakage", compared))
    progress.close()
    return DataSummary(folder, manifest, statistics, leakage)


def _counter(progress: ProgressBar, stage: str, total: int) -> Callable[[int], None]:
    """Shows `stage` as done row by row."""
    done = 0

    def count(rows: int) -> None:
        nonlocal done
        done += rows
        progress(stage, done, total)

    return count
