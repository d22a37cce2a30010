"""From a YAML file to a checked search space, every problem in one ConfigError."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_type_hints

import yaml

from hyena_glt.config.settings import ALIASES, SETTINGS, section_type, suggest, unknown
from hyena_glt.config.values import convert, show
from hyena_glt.errors import ConfigError

from .domains import Domain, nearest, read_domain
from .space import METRICS, Scheduler, Search, Space

SHIPPED = Path(__file__).parent
KEYS = ("settings", "search", "num_trials", "metric", "scheduler")
SHARED = ("preprocessing", "tokenization", "output", "cluster", "tune", "logging")
"""Sections that all trials of a sweep have in common."""
SHARED_SETTINGS = ("training.output_dir", "data.train_path", "data.val_path", "data.eval_data", "hardware.num_gpus")
CHANGEABLE = (
    "training.learning_rate", "training.min_learning_rate", "training.warmup_steps", "training.weight_decay", "training.max_grad_norm",
    "model.dropout", "tasks.masked_lm.mask_probability", "data.reverse_complement", "data.max_shift",
)
"""What a run can change between two steps and keep its weights and optimizer state, which is what pbt does."""
OF_SCHEDULER = {
    "none": ("kind",), "asha": ("kind", "unit", "grace_fraction", "reduction_factor"),
    "pbt": ("kind", "unit", "interval_fraction", "quantile_fraction", "resample_fraction"),
}


def shipped() -> list[str]:
    """The names of the spaces that come with the package."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def load_space(name: str) -> Space:
    """The shipped space of that name, or the one in a YAML file.

    Raises:
        ConfigError: with every problem, each with its line.
    """
    path = SHIPPED / f"{name}.yaml" if name in shipped() else Path(name)
    if not path.is_file():
        hint = suggest(Path(name).stem, shipped()) or f"; there are {', '.join(shipped())}, and any YAML file by its path"
        raise ConfigError(f"tune.space: no space or file {name}{hint}")
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"tune.space: {path} cannot be read as a YAML file: {' '.join(str(error).split())}") from error
    return _Reader(str(path)).space(node)


class _Reader:
    """Reads one file and collects its problems."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.problems: list[str] = []

    def space(self, node: yaml.Node | None) -> Space:
        parts = self._entries("the space", node, KEYS)
        given: dict[str, Any] = {}
        if "settings" not in parts:
            self.problems.append(f"{self.origin}: no settings; a space names at least one with its domain")
        for name, declared in (("search", Search), ("num_trials", int)):
            if name in parts:
                self._take(given, name, parts[name], declared)
        if "metric" in parts:
            self._take_metric(given, parts["metric"])
        given["scheduler"] = self._scheduler(parts.get("scheduler"))
        given["settings"] = self._settings(parts.get("settings"))
        self._agree(given)
        if self.problems:
            raise ConfigError(*self.problems)
        return Space(**_with_the_grids_size(given))

    def _entries(self, what: str, node: yaml.Node | None, known: tuple[str, ...] | None) -> dict[str, yaml.Node]:
        """The entries of a mapping by name; unknown ones are noted."""
        if not isinstance(node, yaml.MappingNode):
            self.problems.append(f"{self.origin}: {what}: found {show(node) if node else 'nothing'}, wanted a section")
            return {}
        found: dict[str, yaml.Node] = {}
        for key, value in node.value:
            if known and key.value not in known:
                self._refuse(key, f"{key.value}: unknown in {what}{nearest(key.value, known)}")
            elif key.value in found:
                self._refuse(key, f"{key.value}: given twice; keep one")
            else:
                found[key.value] = value
        return found

    def _refuse(self, node: yaml.Node, problem: str) -> None:
        self.problems.append(f"{problem} ({self.origin}, line {node.start_mark.line + 1})")

    def _take(self, given: dict[str, Any], name: str, node: yaml.Node, declared: Any) -> None:
        try:
            given[name] = convert(node, declared)
        except ValueError as problem:
            self._refuse(node, f"{name}: {problem}")

    def _take_metric(self, given: dict[str, Any], node: yaml.Node) -> None:
        name = show(node)
        if name not in METRICS:
            self._refuse(node, f"metric: found {name}, wanted {' or '.join(METRICS)}{suggest(name, METRICS)}")
        given["metric"] = name

    def _scheduler(self, node: yaml.Node | None) -> Scheduler:
        if node is None:
            return Scheduler()
        types = get_type_hints(Scheduler)
        parts = self._entries("scheduler", node, tuple(types))
        given: dict[str, Any] = {}
        for name, value in parts.items():
            self._take(given, name, value, types[name])
        kind = given.get("kind", "none")
        for name in set(given) - set(OF_SCHEDULER[kind]):
            self._refuse(parts[name], f"scheduler.{name}: has no effect with kind {kind}; remove it")
        try:
            return Scheduler(**given)
        except ValueError as problem:
            for line in str(problem).split("\n"):
                self._refuse(node, f"scheduler.{line}")
            return Scheduler()

    def _settings(self, node: yaml.Node | None) -> dict[str, Domain]:
        domains: dict[str, Domain] = {}
        for path, value in (self._entries("settings", node, None) if node else {}).items():
            canonical = ALIASES.get(path, path)
            if problem := _unfit(path, canonical):
                self._refuse(value, f"{path}: {problem}")
                continue
            try:
                domains[canonical] = read_domain(value, SETTINGS[canonical])
            except ValueError as problem:
                self._refuse(value, f"{path}: {problem}")
        if node and not self.problems and not domains:
            self._refuse(node, "settings: empty; a space names at least one with its domain")
        return domains

    def _agree(self, given: dict[str, Any]) -> None:
        """What the parts must agree on."""
        search, kind, domains = given.get("search", "random"), given["scheduler"].kind, given["settings"]
        if search == "grid" and "num_trials" in given:
            self.problems.append(f"{self.origin}: num_trials has no effect with search grid, which runs every point; remove it")
        if given.get("num_trials", 1) < 1:
            self.problems.append(f"{self.origin}: num_trials must be at least 1, got {given['num_trials']}")
        for path, domain in domains.items():
            if search == "grid" and domain.is_range:
                self.problems.append(f"{self.origin}: {path}: search grid needs a list of values (grid), not {domain.kind}")
            if search != "grid" and domain.kind == "grid":
                self.problems.append(f"{self.origin}: {path}: grid goes with search grid; use choice with {search}")
            if kind == "pbt" and path not in CHANGEABLE:
                self.problems.append(
                    f"{self.origin}: {path}: pbt changes settings of a run that goes on, and this one shapes weights, optimizer state or "
                    f"data; it can change {', '.join(CHANGEABLE)}"
                )
        if kind == "pbt" and search != "random":
            self.problems.append(f"{self.origin}: pbt searches by itself from random values; set search to random, not {search}")


def _unfit(path: str, canonical: str) -> str:
    """Why a path cannot be varied, or nothing."""
    if canonical not in SETTINGS:
        return unknown(path)
    if section_type(SETTINGS[canonical]) is not None:
        return "is a section; name a setting in it"
    if canonical.split(".")[0] in SHARED or canonical in SHARED_SETTINGS:
        return "is the same for all trials of a sweep; set it in the configuration"
    return ""


def _with_the_grids_size(given: dict[str, Any]) -> dict[str, Any]:
    if given.get("search") != "grid":
        return given
    return given | {"num_trials": Space(settings=given["settings"]).grid_size()}


