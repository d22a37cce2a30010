"""Where the relative paths of the settings lie: below `cluster.storage_path`, and in a job nowhere else. Driver and client; no Ray."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from hyena_glt.config import Config, config_from_dict, config_to_dict
from hyena_glt.data.inputs import is_bed
from hyena_glt.errors import ConfigError

INTERVALS = ("preprocessing.split.val_intervals", "preprocessing.split.test_intervals")
"""Stretches, and paths of BED files among them."""
USED = {
    "preprocess": (
        "preprocessing.input_path", "preprocessing.variants.path", "preprocessing.select_regions.path",
        "preprocessing.label_regions.path", "preprocessing.weight_regions.path", "preprocessing.go_terms.path", *INTERVALS,
        "output.path", "output.scratch_path",
    ),
    "pretrain": ("data.train_path", "data.val_path", "training.init_from", "training.output_dir"),
    "sweep": ("data.train_path", "data.val_path", "training.init_from", "tune.output_dir"),
}
"""The settings with paths that a command reads or writes."""
PATHS = (*dict.fromkeys(path for paths in USED.values() for path in paths), "data.eval_data")
RELATIVE = (
    "{name}: {path} is relative, and a job runs in a copy of the code that Ray deletes afterwards; give an absolute path that every "
    "node sees, or a URL"
)


def placed(cfg: Config, command: str) -> Config:
    """The settings with relative paths below `cluster.storage_path`; ConfigError in a job that would be left with one."""
    cfg = with_storage(cfg)
    if is_job():
        require_places(cfg, command)
    return cfg


def with_storage(cfg: Config) -> Config:
    """The settings with relative paths, those of default folders among them, below `cluster.storage_path`, if there is one."""
    storage = cfg.cluster.storage_path
    if storage is None:
        return cfg
    settings = config_to_dict(with_default_folders(cfg))
    for setting in PATHS:
        section, name = _find(settings, setting)
        if value := section.get(name):
            moved = [f"{storage.rstrip('/')}/{text}" if _is_relative(setting, text) else text for text in _listed(value)]
            section[name] = moved[0] if isinstance(value, str) else moved
    return config_from_dict(settings)


def require_places(cfg: Config, command: str) -> None:
    """ConfigError for every relative path among those that `command` would read or write."""
    settings = config_to_dict(with_default_folders(cfg))
    found = [(setting, *_find(settings, setting)) for setting in USED[command]]
    try:
        require_absolute({setting: section.get(name) for setting, section, name in found})
    except ConfigError as error:
        advice = "; or set cluster.storage_path, which relative paths are then below"
        raise ConfigError(*(problem + advice for problem in error.problems)) from None


def require_absolute(paths: Mapping[str, str | Sequence[str] | None]) -> None:
    """ConfigError for each path, by what it is called, that is relative."""
    relative = [(name, text) for name, value in paths.items() for text in _listed(value) if _is_relative(name, text)]
    if relative:
        raise ConfigError(*(RELATIVE.format(name=name, path=text) for name, text in relative))


def is_job() -> bool:
    """Whether this is the driver of a job whose working directory Ray copied to the cluster."""
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    return "working_dir" in job.get("runtime_env", {})


def with_default_folders(cfg: Config) -> Config:
    """With the folders that are used where the settings name none."""
    training, tune, output = cfg.training, cfg.tune, cfg.output
    if training.output_dir is None:
        training = replace(training, output_dir=f"runs/{cfg.model.name}")
    if tune and tune.output_dir is None:
        tune = replace(tune, output_dir=f"runs/{cfg.model.name}-sweep")
    if output.path and "://" in output.path and output.scratch_path is None:
        output = replace(output, scratch_path=".hyena-glt")
    return replace(cfg, training=training, tune=tune, output=output)


def _find(settings: dict[str, Any], path: str) -> tuple[dict[str, Any], str]:
    """The section that holds a setting, empty where it is off, and the setting's name in it."""
    *sections, name = path.split(".")
    for section in sections:
        settings = settings.get(section) or {}
    return settings, name


def _listed(value: str | Sequence[str] | None) -> Sequence[str]:
    return (value,) if isinstance(value, str) else value or ()


def _is_relative(setting: str, text: str) -> bool:
    """Whether it is a path that depends on where the process runs."""
    is_path = setting not in INTERVALS or is_bed(text)
    return is_path and "://" not in text and not os.path.isabs(text)
