"""Check a preprocessed folder byte by byte and row by row. Runs on the driver, without Ray."""

from __future__ import annotations

from pathlib import Path

from hyena_glt.data.manifest import output_around, read_manifest
from hyena_glt.data.verify import verify
from hyena_glt.errors import DataError

Result = dict[str, object]


def validate_data(path: str | Path) -> Result:
    """Check a preprocessing output, or the whole output that a split folder belongs to.

    Plain JSON: the shards and rows that the manifest names (0 if it cannot be read), and every damage found, a sentence each.
    """
    folder, _ = output_around(path)
    try:
        splits = tuple(read_manifest(folder).splits.values())
    except DataError:
        splits = ()
    shards, rows = sum(len(split.shards) for split in splits), sum(split.rows for split in splits)
    return {"path": str(folder), "files": shards, "rows": rows, "damage": verify(folder)}
