"""Settings that parse, because users were promised them, but that no pipeline can act on yet; and which objectives are on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from ..errors import ConfigError
from .tree import CausalLMConfig, Config, MaskedLMConfig, NextSentencePredictionConfig, SequenceOrderPredictionConfig, TasksConfig

Stage = Literal["pretrain", "sweep"]
TaskConfig = MaskedLMConfig | CausalLMConfig | NextSentencePredictionConfig | SequenceOrderPredictionConfig


def active_tasks(tasks: TasksConfig) -> dict[str, TaskConfig]:
    """The objectives to train, by name: the sections with a weight above 0."""
    given = {name: getattr(tasks, name) for name in TasksConfig.__slots__}
    return {name: section for name, section in given.items() if section is not None and section.weight > 0}


def only_task(tasks: TasksConfig) -> MaskedLMConfig | CausalLMConfig:
    """The section of the one objective that is trained.

    Raises:
        ConfigError: for several, and for one that is not built yet, as `require_built`.
    """
    if missing := list(_objectives(tasks)):
        raise ConfigError(*missing)
    return next(task for task in active_tasks(tasks).values() if isinstance(task, MaskedLMConfig | CausalLMConfig))


def require_built(cfg: Config, stage: Stage) -> None:
    """Stop a pipeline before it starts.

    Raises:
        ConfigError: with a sentence for each setting that the pipeline would need and that is not built yet.
    """
    if missing := not_built(cfg, stage):
        raise ConfigError(*missing)


def not_built(cfg: Config, stage: Stage) -> list[str]:
    """A sentence for each setting that a pipeline would need and that is not built yet."""
    return list({"pretrain": _pretrain, "sweep": _sweep}[stage](cfg))


def _objectives(tasks: TasksConfig) -> Iterator[str]:
    names = list(active_tasks(tasks))
    unknown = [name for name in names if name not in ("masked_lm", "causal_lm")]
    for name in unknown:
        yield f"tasks.{name} is not built yet; remove it or set its weight to 0"
    if len(names) > 1 and not unknown:
        yield f"tasks: training {' and '.join(names)} together is not built yet; keep one and set the other to null"


def _pretrain(cfg: Config) -> Iterator[str]:
    yield from _objectives(cfg.tasks)
    if cfg.compression is not None and cfg.compression.method is not None:
        yield f"compression.method: {cfg.compression.method} is not built yet; remove it"


def _sweep(cfg: Config) -> Iterator[str]:
    path = cfg.tune.output_dir if cfg.tune else None
    if path is not None and "://" in path:
        yield f"tune.output_dir: object stores and other remote places ({path}) are not built yet; give a local path"
