"""What commands share in which a model on each worker reads sequences: settings, and the output folder that a later call goes on with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import ray

from hyena_glt.config import Config, load_config, overridden
from hyena_glt.data.manifest import TOKENIZER
from hyena_glt.data.scratch import SCRATCH
from hyena_glt.data.stages import Row
from hyena_glt.data.storage import Location, absolute
from hyena_glt.data.verify import file_sha256
from hyena_glt.errors import ConfigError
from hyena_glt.files import atomic_write, naming
from hyena_glt.inference.on_ray import Work, part_file, work_with_models
from hyena_glt.tokenizers import Tokenizer, load_tokenizer
from hyena_glt.training.checkpoint import CONFIG_FILE, WEIGHTS_FILE
from hyena_glt.training.copies import fetched

READ = ("cluster.address", "cluster.num_cpus", "hardware.num_gpus")
"""The settings that such a command reads; those of the training do not count."""
IDENTITY = "run.json"
"""What an output folder is made of."""


def read_settings(command: str, overrides: tuple[str, ...]) -> Config:
    """ConfigError for one that has no effect."""
    if unread := [path for path in overridden(overrides) if path not in READ]:
        raise ConfigError(*(f"{path}: has no effect on {command}; remove it. These have: {', '.join(READ)}" for path in unread))
    return load_config(None, overrides)


def read_model(place: Location) -> tuple[Config, Tokenizer]:
    """The settings of the training and the tokenizer of a checkpoint."""
    with fetched(place, CONFIG_FILE, TOKENIZER) as folder:
        return load_config(folder / CONFIG_FILE), load_tokenizer(folder / TOKENIZER)


def model_identity(place: Location) -> dict[str, str]:
    """Name -> checksum of all that decides what a checkpoint says of a sequence."""
    files = {"model": WEIGHTS_FILE, "settings": CONFIG_FILE, "tokenizer": TOKENIZER}
    return {name: file_sha256(place / file) for name, file in files.items()}


def work_through(
    work: Work, tasks: Sequence[Row], size: Callable[[Row], int], *, cfg: Config, model: Location, parts: Path,
    on_progress: Callable[[int, int], None],
) -> None:
    """Let the cluster that this process has joined do what is left of the tasks, whose files go to `parts`; each counts for its size."""
    sizes = {task["number"]: size(task) for task in tasks}
    total, done = sum(sizes.values()), sum(sizes[task["number"]] for task in tasks if part_file(parts, task).exists())
    on_progress(done, total)
    for task in work_with_models(work, tasks, model=str(model), folder=parts, num_gpus=_num_gpus(cfg)):
        done += sizes[task["number"]]
        on_progress(done, total)


def _num_gpus(cfg: Config) -> int:
    """How many workers get one each; 0: they have none."""
    wanted, there = cfg.hardware.num_gpus, int(ray.cluster_resources().get("GPU", 0))
    return there if wanted is None else min(wanted, there)


def output_folder(path: str) -> Path:
    """Where `--output_dir` lies; ConfigError for an object store."""
    place = absolute(path)
    if not isinstance(place, Path):
        raise ConfigError(f"--output_dir: {place} is in an object store; name a folder, on a cluster one that every node sees")
    return place


def claim(output: Path, identity: Mapping[str, str]) -> None:
    """Take the output folder; ConfigError where it is not ours, or holds anything that was made of other inputs."""
    stored = output / IDENTITY
    found = json.loads(stored.read_text()) if stored.exists() else None
    if found == identity:
        return
    if found is None and output.exists() and any(output.iterdir()):
        raise ConfigError(f"--output_dir: {output} is not empty; name a new folder")
    if found is not None and _made(output):
        changed = sorted(name for name in {*found, *identity} if found.get(name) != identity.get(name))
        raise ConfigError(f"--output_dir: {output} was made of other inputs ({', '.join(changed)} differ); name a new folder")
    shutil.rmtree(output / SCRATCH, ignore_errors=True)
    with naming(stored):
        output.mkdir(parents=True, exist_ok=True)
        atomic_write(stored, json.dumps(identity, indent=1) + "\n")


def _made(output: Path) -> list[Path]:
    """Results, and the files that tasks left (`on_ray.part_file`)."""
    results = [path for path in output.iterdir() if path.is_file() and path.name != IDENTITY and not path.name.startswith(".")]
    return [*results, *output.rglob("[0-9]*.parquet")]
