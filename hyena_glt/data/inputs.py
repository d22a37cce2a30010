"""Find the FASTA files that `preprocessing.input_path` means, and give each the name that its rows carry. Runs on the driver."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..config.preprocessing import PreprocessingConfig
from ..errors import DataError
from .storage import Location, Url, find_objects, is_folder, location

SUFFIXES = tuple(kind + packed for kind in (".fa", ".fasta", ".fna", ".ffn", ".frn", ".faa") for packed in ("", ".gz", ".bgz"))
"""What a FASTA file in a folder is called; a file named by itself may be called anything."""
INDEXES = (".fai", ".gzi", ".csi", ".tbi")
"""What other tools leave beside a file; a glob such as `*.fa*` does not mean it."""
STRUCTURES = tuple(kind + packed for kind in (".pdb", ".ent", ".cif", ".mmcif") for packed in ("", ".gz"))
"""What a structure file is called, wherever it lies."""
SECTIONS = ("variants", "select_regions", "label_regions", "weight_regions", "go_terms")
"""The sections of `preprocessing` that name files of their own."""


def find_inputs(paths: str | Sequence[str], *, named: str = "preprocessing.input_path") -> dict[str, Location]:
    """Source name -> absolute path or URL, sorted by name, for files, folders (searched through) and globs.

    A source is the file's path below the folder that all have in common: the plain file name if they lie in one folder.
    DataError for a path that yields no FASTA file, with what the user calls it (`named`).
    """
    files = {file for path in ([paths] if isinstance(paths, str) else paths) for file in _expand(path, named)}
    local, remote = ({file for file in files if isinstance(file, kind)} for kind in (Path, Url))
    found = [*_below_common({str(file): file for file in local}), *_below_common({file.key: file for file in remote})]
    names = [name for name, _ in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{named}: two inputs would both be called {twice[0]!r}; rename one of them")
    return dict(sorted(found))


def _below_common(files: Mapping[str, Location]) -> list[tuple[str, Location]]:
    """Each file with its path below the folder that all have in common."""
    common = os.path.commonpath([os.path.dirname(path) for path in files]) if files else ""
    return [(path[len(common) :].lstrip("/"), file) for path, file in files.items()]


def find_annotations(cfg: PreprocessingConfig) -> dict[str, list[Location]]:
    """Section of `preprocessing` or setting of its split -> its files, for those that name some; DataError for a path that yields none."""
    found = {}
    for name in SECTIONS:
        if section := getattr(cfg, name):
            paths = (section.path,) if isinstance(section.path, str) else section.path
            found[name] = [file for path in paths for file in _matches(f"preprocessing.{name}.path", path)]
    for setting in ("val_intervals", "test_intervals"):
        listed = getattr(cfg.split, setting)
        beds = [text for text in ((listed,) if isinstance(listed, str) else listed) if is_bed(text)]
        if beds:
            found[setting] = [file for path in beds for file in _matches(f"preprocessing.split.{setting}", path)]
    return found


def is_bed(text: str) -> bool:
    """Whether an interval of the settings is the path of a BED file."""
    return text.lower().removesuffix(".gz").removesuffix(".bgz").endswith(".bed")


def named_annotations(annotations: Mapping[str, Sequence[Location]]) -> dict[str, Location]:
    """What each file is called in the manifest: section and file name, with a number where a section has several."""
    return {
        f"{section}{f' {number}' if len(files) > 1 else ''}: {file.name}": file
        for section, files in annotations.items()
        for number, file in enumerate(files, 1)
    }


def _matches(setting: str, path: str) -> list[Location]:
    """The files of a path or glob; not those of a folder."""
    place = location(path)
    if isinstance(place, Url):
        files = [] if is_folder(place) else find_objects(place)
    else:
        files = [Path(os.path.abspath(match)) for match in sorted(glob.glob(path, recursive=True)) if Path(match).is_file()]
    if not files:
        raise DataError(f"{setting}: no file {path!r}; check the path")
    return files


def _expand(path: str, named: str) -> list[Location]:
    """The files that one entry of `input_path` means."""
    place = location(path)
    if isinstance(place, Url):
        return _expand_url(place, named)
    return [Path(os.path.abspath(file)) for file in _expand_local(path, named)]


def _expand_url(url: Url, named: str) -> list[Location]:
    found = find_objects(url)
    files = found if found == [url] else [item for item in found if item.name.lower().endswith(SUFFIXES + STRUCTURES)]
    if not files:
        reason = "nothing there has the name of a FASTA or structure file" if found else "nothing is there"
        raise DataError(f"{named}: no input in {url}: {reason}")
    return [*files]


def _expand_local(path: str, named: str) -> list[Path]:
    if Path(path).is_file():
        return [Path(path)]
    matches = [path] if Path(path).exists() else glob.glob(path, recursive=True)
    found = [Path(match) for match in matches if not match.endswith(INDEXES)]
    files = [file for item in found for file in (_sequences_below(item) if item.is_dir() else [item])]
    if not files:
        names = " ".join(suffix for suffix in SUFFIXES + STRUCTURES if not suffix.endswith("z"))
        reason = f"nothing there has the name of a FASTA or structure file ({names}, also with .gz or .bgz)"
        raise DataError(f"{named}: no input in {path!r}: {reason if found else 'no such file or folder'}")
    return files


def _sequences_below(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.name.lower().endswith(SUFFIXES + STRUCTURES) and file.is_file()]
