"""Hyena-GLT: pretraining of genomic language models. The public names, each imported on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.evaluate import evaluate
    from pipelines.preprocess import preprocess
    from pipelines.pretrain import pretrain
    from pipelines.report import report
    from pipelines.validate import validate_data

    from .config import Config, load_config
    from .errors import CheckpointError, ClusterError, ConfigError, DataError, HyenaError
    from .inference import embed, generate, load_model, score
    from .tokenizers import Tokenizer, build_tokenizer

__version__ = "0.1.0"

_HOMES = {
    "Config": "hyena_glt.config",
    "load_config": "hyena_glt.config",
    "preprocess": "pipelines.preprocess",
    "validate_data": "pipelines.validate",
    "pretrain": "pipelines.pretrain",
    "evaluate": "pipelines.evaluate",
    "report": "pipelines.report",
    "load_model": "hyena_glt.inference",
    "embed": "hyena_glt.inference",
    "score": "hyena_glt.inference",
    "generate": "hyena_glt.inference",
    "Tokenizer": "hyena_glt.tokenizers",
    "build_tokenizer": "hyena_glt.tokenizers",
    "HyenaError": "hyena_glt.errors",
    "ConfigError": "hyena_glt.errors",
    "DataError": "hyena_glt.errors",
    "CheckpointError": "hyena_glt.errors",
    "ClusterError": "hyena_glt.errors",
}
"""Public name to the module that holds it."""

__all__ = [
    "CheckpointError",
    "ClusterError",
    "Config",
    "ConfigError",
    "DataError",
    "HyenaError",
    "Tokenizer",
    "__version__",
    "build_tokenizer",
    "embed",
    "evaluate",
    "generate",
    "load_config",
    "load_model",
    "preprocess",
    "pretrain",
    "report",
    "score",
    "validate_data",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
