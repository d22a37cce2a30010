"""The run folder and its checkpoints: names, pointers, atomic commits and finding the newest whole one. No Ray, no DeepSpeed.

    <run>/config.yaml  environment.json  metrics.jsonl  logs/
    <run>/checkpoints/step_00005000/   model.safetensors, optimizer/ (a shard a rank), config.yaml, tokenizer.json, checkpoint.json
    <run>/checkpoints/{latest,best_model,epoch_10}   one-line files that name a step folder
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from ..errors import CheckpointError
from ..files import LEADS_OUT, atomic_write

CHECKPOINTS = "checkpoints"
LATEST, BEST = "latest", "best_model"
COMMIT_FILE = "checkpoint.json"
WEIGHTS_FILE = "model.safetensors"
OPTIMIZER_FOLDER = "optimizer"
READ_BYTES = 1 << 20
PASSED_OVER = "passed over a damaged checkpoint"

Files = dict[str, dict[str, int]]
"""Name below the step folder -> its `bytes` and `crc32`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """Where a run stands; it is all that a resume needs beside weights and optimizer state."""

    step: int = 0
    """Optimizer steps done."""
    tokens: int = 0
    """Tokens trained on, without padding."""
    domain_tokens: dict[str, int] = field(default_factory=dict)
    """The same by domain, for a mixture."""
    best_loss: float | None = None
    """Lowest validation loss so far."""
    best_step: int | None = None
    evaluations_without_gain: int = 0
    worker_seconds: float = 0.0
    """Wall time of all workers together, over all starts."""
    loss_scale: float = 1.0
    """Factor on the loss (fp16)."""
    good_steps: int = 0
    """Steps without overflow since the loss scale last changed (fp16)."""
    moves: dict[str, list[int]] = field(default_factory=dict)
    """Steps at which a plateau ended a stage or moved a curriculum on (`timeline.Moves`)."""
    skips: list[list[int]] = field(default_factory=list)
    """What was left out of the stream after a roll-back (`feed.Skips`)."""
    plateau: dict[str, int] = field(default_factory=dict)
    """Evaluations without a lower loss since each of the things that wait for a plateau last moved."""
    recent_loss: float | None = None
    """Running mean of the training loss, which a spike is compared with."""
    bad_steps: int = 0
    """Steps in a row that were left out, or roll-backs without a good step between them."""
    stopped_by: str | None = None
    """Why the run ended here, if it did."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointInfo:
    """What checkpoint.json holds beside the list of files."""

    progress: Progress
    world_size: int
    """Workers that wrote it; 0 for weights without optimizer state (`--mode init_only`)."""
    zero_stage: int
    global_rows: int | None
    """Rows in a global batch, fixed by the first start."""
    data_checksum: str | None
    regular: bool = True
    """Saved because `save_interval` said so, and not because a validation, an epoch or the run had ended."""

    @property
    def name(self) -> str:
        """Of the step folder."""
        return step_name(self.progress.step)

    @property
    def has_optimizer(self) -> bool:
        return self.world_size > 0


def step_name(step: int) -> str:
    """Name of the folder for `step`."""
    return f"step_{step:08d}"


def step_of(step_folder: Path) -> int:
    """Inverse of `step_name`."""
    return int(step_folder.name.removeprefix("step_"))


def staging_folder(run: Path, step: int, token: str) -> Path:
    """Where the ranks of the start `token` write before the commit; no other start does."""
    return run / CHECKPOINTS / f".{step_name(step)}.{token}.partial"


def empty_staging_folder(run: Path, step: int, token: str) -> Path:
    """The same folder, made empty, for one writer alone."""
    staged = staging_folder(run, step, token)
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    return staged


def clear_staging_folders(run: Path) -> None:
    """Remove what was written and not committed."""
    for path in (run / CHECKPOINTS).glob(".step_*.partial"):
        shutil.rmtree(path, ignore_errors=True)


def list_part(staged: Path, rank: int = 0, names: Iterable[str] | None = None) -> None:
    """Say which files (None: all) a rank has written, once they are on the disk; this list is the last that it writes."""
    names = [str(path.relative_to(staged)) for path in staged.rglob("*") if path.is_file()] if names is None else names
    files = {name: _facts(staged / name, sync=True) for name in sorted(names)}
    atomic_write(_part(staged, rank), json.dumps(files))


def part_listed(staged: Path, rank: int) -> bool:
    """Whether a rank has written all of its files."""
    return _part(staged, rank).exists()


def _part(staged: Path, rank: int) -> Path:
    return staged / f"rank_{rank:05d}.json"


def _facts(path: Path, *, sync: bool = False) -> dict[str, int]:
    crc, size = 0, 0
    with path.open("rb", buffering=0) as file:
        if sync:
            os.fsync(file.fileno())
        while block := file.read(READ_BYTES):
            crc, size = zlib.crc32(block, crc), size + len(block)
    return {"bytes": size, "crc32": crc}


def commit(run: Path, staged: Path, info: CheckpointInfo) -> Path:
    """Join the lists of all ranks, then give the folder its name; only now does the checkpoint exist. May be tried again after an error."""
    parts = sorted(staged.glob("rank_*.json"))
    if not (staged / COMMIT_FILE).exists():
        files: Files = {}
        for part in parts:
            files |= json.loads(part.read_text())
        atomic_write(staged / COMMIT_FILE, json.dumps(asdict(info) | {"files": files}, indent=1) + "\n")
    for part in parts:
        part.unlink()
    final = run / CHECKPOINTS / info.name
    if final.exists():  # a damaged one, or one that this run has gone behind
        shutil.rmtree(final)
    staged.rename(final)
    point(run, LATEST, final.name)
    return final


def point(run: Path, pointer: str, name: str) -> None:
    """Let the one-line file `pointer` name the step folder `name`."""
    atomic_write(run / CHECKPOINTS / pointer, name + "\n")


def prune(run: Path, *, keep: int | None) -> None:
    """Delete what no pointer names: all but the newest `keep` (None: all) regular checkpoints, former best ones, leftovers of crashes."""
    folder = run / CHECKPOINTS
    named = {pointer.read_text().strip() for pointer in folder.iterdir() if pointer.is_file() and pointer.name[0] != "."}
    saved = sorted(folder.glob("step_*"))
    regular = [path for path in saved if _is_regular(path)]
    kept = regular if keep is None else regular[-keep:]
    for path in saved:
        if path not in kept and path.name not in named:
            shutil.rmtree(path)
    clear_staging_folders(run)


def _is_regular(step_folder: Path) -> bool:
    """Damaged ones count as regular: what is left of them is not this run's to delete at once."""
    try:
        return read_info(step_folder).regular
    except CheckpointError:
        return True


def read_info(step_folder: Path) -> CheckpointInfo:
    """Read checkpoint.json and compare the files that it lists; CheckpointError names the first that is missing or cut short."""
    info, files = _read_commit(step_folder)
    for name, facts in files.items():
        path, size = step_folder / name, facts["bytes"]
        found = path.stat().st_size if path.exists() else None
        if found != size:
            raise CheckpointError(f"{path}: {'missing' if found is None else f'{found:,} bytes'}, it was written with {size:,} bytes")
    return info


def _read_commit(step_folder: Path) -> tuple[CheckpointInfo, Files]:
    try:
        saved = dict(json.loads((step_folder / COMMIT_FILE).read_text()))
        files: Files = {name: {"bytes": facts["bytes"], "crc32": facts["crc32"]} for name, facts in saved.pop("files").items()}
        if outside := next((name for name in files if re.search(LEADS_OUT, name)), None):
            raise ValueError(f"{outside!r} lies outside of it")
        return CheckpointInfo(**saved | {"progress": Progress(**saved["progress"])}), files
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{step_folder} is not a whole checkpoint: {COMMIT_FILE} is missing or damaged ({error})") from error


def damage(step_folder: Path, *, part: int = 0, parts: int = 1) -> str | None:
    """Read every `parts`-th file from the `part`-th on; a sentence on the first that is not as it was written, None if all are."""
    _, files = _read_commit(step_folder)
    for name, facts in list(sorted(files.items()))[part::parts]:
        try:
            found = _facts(step_folder / name)
        except OSError as error:
            return f"{step_folder / name}: cannot be read ({error.strerror})"
        if found != facts:
            return f"{step_folder / name}: its content has changed since it was written"
    return None


def newest_whole(run: Path, warn: list[str], *, before: float = math.inf) -> Path | None:
    """The newest step folder `before` a step that is whole, as far as sizes tell, or None; a sentence for each damaged one that was
    passed over goes to `warn`."""
    for step_folder in sorted((run / CHECKPOINTS).glob("step_*"), reverse=True):
        if step_of(step_folder) >= before:
            continue
        try:
            read_info(step_folder)
            return step_folder
        except CheckpointError as error:
            warn.append(f"{PASSED_OVER}: {error}")
    return None


def newest_step(run: Path) -> int | None:
    """Of the newest checkpoint that is whole as far as sizes tell."""
    found = newest_whole(run, [])
    return step_of(found) if found else None


def resolve_checkpoint(path: str | Path) -> Path:
    """The step folder that `path` means: a run folder, its checkpoints folder, a step folder, or a pointer file.

    A run folder means its best checkpoint, or the latest where none was evaluated. CheckpointError says what was looked for.
    """
    path = Path(path)
    if (path / COMMIT_FILE).exists():
        return path
    if path.is_file():
        return _follow(path)
    folder = path / CHECKPOINTS if (path / CHECKPOINTS).is_dir() else path
    for pointer in (BEST, LATEST):
        if (folder / pointer).is_file():
            return _follow(folder / pointer)
    raise CheckpointError(
        f"no checkpoint at {path}: it is not a step folder (with {COMMIT_FILE}), not a pointer file such as {LATEST}, "
        f"and has neither {CHECKPOINTS}/{BEST} nor {CHECKPOINTS}/{LATEST}"
    )


def _follow(pointer: Path) -> Path:
    with pointer.open("rb") as file:  # whatever a user names, weights too
        name = file.readline(100).decode(errors="replace").strip()
    if not re.fullmatch(r"step_\d{8,}", name):  # nothing that leads out of this folder
        raise CheckpointError(f"{pointer} is not a pointer file such as {LATEST}; name one, or a run folder, or a step folder")
    target = pointer.parent / name
    if not (target / COMMIT_FILE).exists():
        raise CheckpointError(f"{pointer} names {name!r}, and there is no such checkpoint beside it")
    return target


def finished(progress: Progress, reason: str) -> Progress:
    """The same progress, marked as the end of the run."""
    return replace(progress, stopped_by=reason)
