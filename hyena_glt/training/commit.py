"""How a checkpoint comes to be and goes: the lists of what the ranks wrote, atomic commits, pointers, pruning. No Ray, no DeepSpeed.

In a folder the ranks write beside the place of the checkpoint, and the commit renames. A store renames nothing: there the files get their
places at once, only the lists stand beside, and the checkpoint exists when the last object, checkpoint.json, does.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

from ..data.storage import Location, list_files, names_in, read_bytes, remove_folder, size, upload, write_bytes
from ..errors import CheckpointError
from ..files import scratch_folder
from .checkpoint import CHECKPOINTS, COMMIT_FILE, LATEST, CheckpointInfo, Files, facts_of, read_info, step_name

STAGED = re.compile(r"\.step_.*\.partial")
ALONE = "alone"
"""In place of a start's token."""


def staging_folder(run: Location, step: int, token: str) -> Location:
    """Where the ranks of the start `token` write before the commit; no other start does."""
    return run / CHECKPOINTS / f".{step_name(step)}.{token}.partial"


def empty_staging_folder(run: Path, step: int, token: str) -> Path:
    """The same folder, made empty, for one writer alone."""
    staged = staging_folder(run, step, token)
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    return staged


def write_alone(run: Location, info: CheckpointInfo, write: Callable[[Path], None]) -> Location:
    """A checkpoint with the files that `write` writes into a folder, by one process beside which none writes to the run."""
    if isinstance(run, Path):
        folder = empty_staging_folder(run, info.progress.step, ALONE)
        write(folder)
        list_part(folder)
        return commit(run, folder, info)
    staged = staging_folder(run, info.progress.step, ALONE)
    with scratch_folder() as folder:
        write(folder)
        for name in _names_below(folder):
            upload(folder / name, run / CHECKPOINTS / info.name / name)
        list_part(staged, folder=folder)
    final = commit(run, staged, info)
    remove_folder(staged)
    return final


def _names_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def list_part(staged: Location, rank: int = 0, names: Iterable[str] | None = None, *, folder: Path | None = None) -> None:
    """Say which files (None: all) a rank has written to `folder` (None: `staged`), once they are on the disk or in the store.

    This list is the last that it writes.
    """
    folder = folder or Path(str(staged))
    files = {name: _flushed(folder / name) for name in sorted(_names_below(folder) if names is None else names)}
    write_bytes(staged / f"rank_{rank:05d}.json", json.dumps(files).encode())


def _flushed(path: Path) -> dict[str, int]:
    with path.open("rb", buffering=0) as file:
        os.fsync(file.fileno())
    return facts_of(path)


def listed_parts(staged: Location) -> list[Location]:
    """The lists of the ranks that have written all of their files."""
    try:
        return [staged / name for name in names_in(staged) if re.fullmatch(r"rank_\d+\.json", name)]
    except FileNotFoundError:
        return []


def commit(run: Location, staged: Location, info: CheckpointInfo) -> Location:
    """Join the lists of all ranks; only now does the checkpoint exist. May be tried again after an error."""
    parts = listed_parts(staged)
    files: Files = {}
    for part in parts:
        files |= json.loads(read_bytes(part))
    content = (json.dumps(asdict(info) | {"files": files}, indent=1) + "\n").encode()
    final = run / CHECKPOINTS / info.name
    if isinstance(staged, Path):
        _rename(staged, final, parts, content)
    else:
        write_bytes(final / COMMIT_FILE, content)
    point(run, LATEST, final.name)
    return final


def _rename(staged: Path, final: Path, parts: list[Path], content: bytes) -> None:
    """Give the folder its name, with checkpoint.json in place of the lists that it was made of."""
    if not staged.exists() and (final / COMMIT_FILE).exists():
        return  # it has its name, and the error that this is tried again for came behind
    if not (staged / COMMIT_FILE).exists():
        write_bytes(staged / COMMIT_FILE, content)
    for part in parts:
        part.unlink()
    if final.exists():  # a damaged one, or one that this run has gone behind
        shutil.rmtree(final)
    staged.rename(final)


def point(run: Location, pointer: str, name: str) -> None:
    """Let the one-line file `pointer` name the step folder `name`."""
    write_bytes(run / CHECKPOINTS / pointer, f"{name}\n".encode())


def prune(run: Location, *, keep: int | None) -> None:
    """Delete what no pointer names: all but the newest `keep` (None: all) regular checkpoints, former best ones, leftovers of crashes."""
    folder = run / CHECKPOINTS
    names = names_in(folder)
    saved = [name for name in names if name.startswith("step_")]
    pointers = [folder / name for name in names if name not in saved and name[0] != "." and size(folder / name) is not None]
    named = {read_bytes(pointer).decode().strip() for pointer in pointers}
    regular = [name for name in _begun(folder, saved) if _is_regular(folder / name)]
    kept = regular if keep is None else regular[-keep:]
    for name in [*saved, *(name for name in names if STAGED.fullmatch(name))]:
        if name not in kept and name not in named:
            remove_folder(folder / name)


def _begun(folder: Location, saved: list[str]) -> list[str]:
    """Those of the step folders that were committed once: in a store, where one without checkpoint.json is what a crash left."""
    if isinstance(folder, Path):
        return saved
    committed = {item.parent for item in list_files(folder) if item.name == COMMIT_FILE}
    return [name for name in saved if folder / name in committed]


def _is_regular(step_folder: Location) -> bool:
    """Damaged ones count as regular: what is left of them is not this run's to delete at once."""
    try:
        return read_info(step_folder).regular
    except CheckpointError:
        return True
