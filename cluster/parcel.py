"""What goes along with a job: the code, its settings, its search space, and nothing else. On the client; no Ray."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from tempfile import TemporaryDirectory

from hyena_glt.config import Config, Stage, config_to_dict, dump_config, require_built
from hyena_glt.config.credentials import ADVICE, has_password, is_secret_name
from hyena_glt.config.sources import override_layer
from hyena_glt.errors import ConfigError
from hyena_glt.files import naming
from tune_spaces.loader import load_space, shipped

from .paths import PATHS, require_absolute, require_places, with_storage

ROOT = Path(__file__).parents[1]
CODE = ("hyena_glt/**/*.py", "pipelines/**/*.py", "cluster/**/*.py", "tune_spaces/**/*.py", "tune_spaces/*.yaml")
CONFIG, SPACE = "config.yaml", "space.yaml"
STAGES: dict[str, tuple[Stage, ...]] = {"preprocess": (), "pretrain": ("pretrain",), "sweep": ("pretrain", "sweep"), "doctor": ()}
"""What must be built for a command."""
COMMIT = "HYENA_GLT_COMMIT"
"""The variable that tells a job, which has no checkout, which commit its code is."""


@dataclass(frozen=True, slots=True)
class Job:
    """A command, checked here, that a cluster is to run."""

    command: str
    words: tuple[str, ...] = ()
    """What stands behind the command, without what the settings say."""
    cfg: Config | None = None
    """All settings of the command; None where it takes most of them from a checkpoint."""

    @property
    def entrypoint(self) -> str:
        settings = (CONFIG,) if self.cfg else ()
        return shlex.join(["python", "-m", f"pipelines.{self.command}", *settings, *self.words])


def settings_job(command: str, cfg: Config, words: Sequence[str]) -> Job:
    """A job that takes its settings from one file, with every path where all nodes see it.

    Raises:
        ConfigError: for what the command itself would refuse, for a relative path that is left, and for another cluster's address.
    """
    if cfg.cluster.address:
        raise ConfigError("cluster.address: a job runs on the cluster that it is submitted to; leave it out")
    cfg = with_storage(cfg)
    for stage in STAGES[command]:
        require_built(cfg, stage)
    if command == "doctor":
        require_given_places(cfg)
    else:
        require_places(cfg, command)
    if cfg.tune and cfg.tune.space:
        load_space(cfg.tune.space)
    return Job(command, tuple(words), cfg)


def checkpoint_job(command: str, path: str, *, eval_data: str | None, words: Sequence[str], overrides: Sequence[str]) -> Job:
    """A job on a checkpoint, whose settings it takes.

    Raises:
        ConfigError: for overrides that are none, for a relative path, and for one with a password.
    """
    layer = override_layer(overrides)
    given = {name: value for name, value in layer.values.items() if name in PATHS}
    require_absolute({"PATH": path, "--eval_data": eval_data, **given})
    secret = [f"{name}: a URL with a password, which logs would show; {ADVICE}"
              for name, text in (("PATH", path), ("--eval_data", eval_data)) if text and has_password(text)]
    if problems := [*layer.problems, *secret]:
        raise ConfigError(*problems)
    return Job(command, (path, *words, *overrides))


def given_paths(cfg: Config) -> dict[str, str | Sequence[str] | None]:
    """What the settings give for each of those with paths; None where nothing is set or its section is off."""
    settings = config_to_dict(cfg)
    return {name: reduce(lambda section, key: (section or {}).get(key), name.split("."), settings) for name in PATHS}


def require_given_places(cfg: Config) -> None:
    """ConfigError for every relative path of the settings, whichever command would use it; what is not set is left to no default."""
    require_absolute(given_paths(cfg))


@contextmanager
def packed(job: Job) -> Iterator[Path]:
    """A folder with what the job needs, gone when the block ends; StorageError where it cannot be written, or a file of ours not read."""
    with naming(Path(os.environ.get("TMPDIR", "/tmp"))):
        temporary = TemporaryDirectory(prefix="hyena-glt-job-")
    with temporary as name:
        folder = Path(name)
        with naming(folder):
            _pack(job, folder)
        yield folder


def _pack(job: Job, folder: Path) -> None:
    for file in (file for pattern in CODE for file in ROOT.glob(pattern)):
        target = folder / file.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())  # not copyfile, which names the source where the target's disk is full
    if job.cfg:
        (folder / CONFIG).write_text(dump_config(_with_space(job.cfg, folder)), encoding="utf-8")


def _with_space(cfg: Config, folder: Path) -> Config:
    """The settings; a search space of the user's own is copied, and they name the copy."""
    space = cfg.tune and cfg.tune.space
    if cfg.tune is None or space is None or space in shipped():
        return cfg
    (folder / SPACE).write_bytes(Path(space).read_bytes())
    return replace(cfg, tune=replace(cfg.tune, space=SPACE))


def sent_variables(names: Sequence[str]) -> dict[str, str]:
    """The named environment variables of this process, for the job; ConfigError for one that is not set and one that looks secret.

    Ray writes what a job is sent into its logs and into the command lines of its processes.
    """
    problems = []
    for name in names:
        if name not in os.environ:
            problems.append(f"--env: {name} is not set here")
        elif is_secret_name(name) or has_password(os.environ[name]):
            problems.append(f"--env: {name} looks like a secret, and Ray writes what a job is sent into its logs; {ADVICE}")
    if problems:
        raise ConfigError(*problems)
    return {name: os.environ[name] for name in names}


def code_commit() -> str | None:
    """The commit of the code that runs, with a mark where files differ from it; None where nothing tells."""
    if COMMIT in os.environ:
        return os.environ[COMMIT]
    with suppress(OSError):  # no git here
        done = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=40"], cwd=ROOT, capture_output=True, text=True)
        return done.stdout.strip() or None
    return None
