"""Check a preprocessed folder byte by byte and row by row. Runs on the driver, without Ray."""

from __future__ import annotations

from pathlib import Path

from hyena_glt.data.manifest import read_manifest
from hyena_glt.data.verify import verify
from hyena_glt.errors import DataError

Result = dict[str, object]


def validate_data(path: str | Path) -> Result:
    """Plain JSON: the files and rows that the manifest names (0 if it cannot be read), and every damage found, a sentence each."""
    try:
        splits = read_manifest(path).splits.values()
    except DataError:
        splits = ()
    files = sum(len(split.shards) for split in splits)
    return {"path": str(path), "files": files, "rows": sum(split.rows for split in splits), "damage": verify(path)}
