"""The run folder and its checkpoints: names, pointers, what a checkpoint holds, finding the newest whole one. No Ray, no DeepSpeed.

A run lies in a folder or, with the same names, in an object store.

    <run>/config.yaml  environment.json  metrics.jsonl  logs/
    <run>/checkpoints/step_00005000/   model.safetensors, optimizer/ (a shard a rank), config.yaml, tokenizer.json, checkpoint.json
    <run>/checkpoints/{latest,best_model,epoch_10}   one-line files that name a step folder
"""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..config import Config, config_from_text
from ..data.storage import Location, Url, is_folder, list_files, location, names_in, open_binary, read_bytes, size
from ..errors import CheckpointError
from ..files import LEADS_OUT

CHECKPOINTS = "checkpoints"
CONFIG_FILE, ENVIRONMENT_FILE = "config.yaml", "environment.json"
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


def read_config(run: Location) -> Config:
    """The settings of the last start in a run folder."""
    path = run / CONFIG_FILE
    return config_from_text(read_bytes(path).decode(), str(path))


def step_name(step: int) -> str:
    """Name of the folder for `step`."""
    return f"step_{step:08d}"


def step_of(step_folder: Location) -> int:
    """Inverse of `step_name`."""
    return int(step_folder.name.removeprefix("step_"))


def read_info(step_folder: Location) -> CheckpointInfo:
    """Read checkpoint.json and compare the files that it lists; CheckpointError names the first that is missing or cut short."""
    info, files = read_commit(step_folder)
    sizes = _sizes(step_folder, files)
    for name, facts in files.items():
        found, wanted = sizes[name], facts["bytes"]
        if found != wanted:
            is_now = "missing" if found is None else f"{found:,} bytes"
            raise CheckpointError(f"{step_folder / name}: {is_now}, it was written with {wanted:,} bytes")
    return info


def _sizes(step_folder: Location, names: Iterable[str]) -> dict[str, int | None]:
    """Of the files by name, None for those that are not there; a store tells those of a thousand at once."""
    if isinstance(step_folder, Path):
        return {name: size(step_folder / name) for name in names}
    found = list_files(step_folder)
    return {name: found.get(step_folder / name) for name in names}


def read_commit(step_folder: Location) -> tuple[CheckpointInfo, Files]:
    """What checkpoint.json says; CheckpointError where it is missing or damaged, and where it names a file of another folder."""
    try:
        saved = dict(json.loads(read_bytes(step_folder / COMMIT_FILE)))
        files: Files = {_inside(name): {"bytes": facts["bytes"], "crc32": facts["crc32"]} for name, facts in saved.pop("files").items()}
        return CheckpointInfo(**saved | {"progress": Progress(**saved["progress"])}), files
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{step_folder} is not a whole checkpoint: {COMMIT_FILE} is missing or damaged ({error})") from error


def _inside(name: str) -> str:
    """The name of a file below a step folder; ValueError where it leads out."""
    if re.search(LEADS_OUT, name):
        raise ValueError(f"{name!r} lies outside of it")
    return name


def damage(step_folder: Path, *, part: int = 0, parts: int = 1, names: Iterable[str] | None = None) -> str | None:
    """Read every `parts`-th file (or those of `names`) from the `part`-th on; a sentence on the first that is not as it was written,
    None if all are."""
    _, files = read_commit(step_folder)
    for name in sorted(files if names is None else names)[part::parts]:
        try:
            found = facts_of(step_folder / name)
        except OSError as error:
            return f"{step_folder / name}: cannot be read ({error.strerror})"
        if found != files.get(name):
            return f"{step_folder / name}: its content has changed since it was written"
    return None


def facts_of(path: Path) -> dict[str, int]:
    """What checkpoint.json keeps of a file."""
    crc, length = 0, 0
    with path.open("rb", buffering=0) as file:
        while block := file.read(READ_BYTES):
            crc, length = zlib.crc32(block, crc), length + len(block)
    return {"bytes": length, "crc32": crc}


def newest_whole(run: Location, warn: list[str], *, before: float = math.inf) -> Location | None:
    """The newest step folder `before` a step that is whole, as far as sizes tell, or None; a sentence for each damaged one that was
    passed over goes to `warn`, and in a store none for what was never committed."""
    for step_folder in reversed(_step_folders(run / CHECKPOINTS)):
        if step_of(step_folder) >= before or (isinstance(run, Url) and size(step_folder / COMMIT_FILE) is None):
            continue
        try:
            read_info(step_folder)
            return step_folder
        except CheckpointError as error:
            warn.append(f"{PASSED_OVER}: {error}")
    return None


def none_whole(run: Location, passed_over: Sequence[str]) -> CheckpointError:
    """Where all that a run has saved is damaged: training from step 0 would take the place of what can perhaps be restored."""
    return CheckpointError(
        f"{run}: none of its checkpoints is whole, and training would begin again at step 0. Restore one, or choose a new "
        f"training.output_dir. {'; '.join(passed_over)}"
    )


def _step_folders(folder: Location) -> list[Location]:
    """The oldest first."""
    try:
        return [folder / name for name in names_in(folder) if name.startswith("step_")]
    except FileNotFoundError:
        return []


def newest_step(run: Location) -> int | None:
    """Of the newest checkpoint that is whole as far as sizes tell."""
    found = newest_whole(run, [])
    return step_of(found) if found else None


def resolve_checkpoint(path: str | Location) -> Location:
    """The step folder that `path` means: a run folder, its checkpoints folder, a step folder, or a pointer file.

    A run folder means its best checkpoint, or the latest where none was evaluated. CheckpointError says what was looked for.
    """
    place = location(path)
    if _exists(place / COMMIT_FILE):
        return place
    if _exists(place):
        return _follow(place)
    folder = place / CHECKPOINTS if is_folder(place / CHECKPOINTS) else place
    for pointer in (BEST, LATEST):
        if _exists(folder / pointer):
            return _follow(folder / pointer)
    raise CheckpointError(
        f"no checkpoint at {path}: it is not a step folder (with {COMMIT_FILE}), not a pointer file such as {LATEST}, "
        f"and has neither {CHECKPOINTS}/{BEST} nor {CHECKPOINTS}/{LATEST}"
    )


def _follow(pointer: Location) -> Location:
    with open_binary(pointer) as file:  # whatever a user names, weights too
        name = file.read(100).partition(b"\n")[0].decode(errors="replace").strip()
    if not re.fullmatch(r"step_\d{8,}", name):  # nothing that leads out of this folder
        raise CheckpointError(f"{pointer} is not a pointer file such as {LATEST}; name one, or a run folder, or a step folder")
    target = pointer.parent / name
    if not _exists(target / COMMIT_FILE):
        raise CheckpointError(f"{pointer} names {name!r}, and there is no such checkpoint beside it")
    return target


def _exists(file: Location) -> bool:
    return size(file) is not None


def finished(progress: Progress, reason: str) -> Progress:
    """The same progress, marked as the end of the run."""
    return replace(progress, stopped_by=reason)
