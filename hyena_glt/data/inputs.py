"""Find the FASTA files that `preprocessing.input_path` means, and give each the name that its rows carry. Runs on the driver."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from ..errors import DataError

SUFFIXES = tuple(kind + packed for kind in (".fa", ".fasta", ".fna", ".ffn", ".frn", ".faa") for packed in ("", ".gz", ".bgz"))
"""What a FASTA file in a folder is called; a file named by itself may be called anything."""


def find_inputs(paths: str | Sequence[str]) -> dict[str, Path]:
    """Source name -> absolute path, sorted by name, for files, folders (searched through) and globs.

    A source is the file's path below the folder that all have in common: the plain file name if they lie in one folder.
    DataError for a path that yields no FASTA file.
    """
    files = {Path(os.path.abspath(file)) for path in ([paths] if isinstance(paths, str) else paths) for file in _expand(path)}
    common = os.path.commonpath([file.parent for file in files])
    return dict(sorted((file.relative_to(common).as_posix(), file) for file in files))


def _expand(path: str) -> list[Path]:
    """The files that one entry of `input_path` means."""
    if Path(path).is_file():
        return [Path(path)]
    found = [Path(path)] if Path(path).exists() else [Path(match) for match in glob.glob(path, recursive=True)]
    files = [file for item in found for file in (_fasta_below(item) if item.is_dir() else [item])]
    if not files:
        reason = "nothing there has a FASTA name (" + " ".join(s for s in SUFFIXES if "z" not in s) + ", also with .gz or .bgz)"
        raise DataError(f"preprocessing.input_path: no input in {path!r}: {reason if found else 'no such file or folder'}")
    return files


def _fasta_below(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.name.lower().endswith(SUFFIXES) and file.is_file()]
