"""Read settings and say what they come to: `config check` and `config show`. Probes no path and no device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from hyena_glt.config import Stage, dump_config, load_config, not_built


def check(path: str | None, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Load the settings; the result lists what each pipeline would refuse because it is not built yet.

    Raises:
        ConfigError: with every problem in the settings.
    """
    cfg = load_config(path, overrides)
    return {
        "status": "ok",
        "config": path,
        "not_built": {stage: missing for stage in get_args(Stage) if (missing := not_built(cfg, stage))},
    }


def show(path: str | None, overrides: Sequence[str] = ()) -> str:
    """The resolved tree as YAML, every setting in it.

    Raises:
        ConfigError: with every problem in the settings.
    """
    return dump_config(load_config(path, overrides))
