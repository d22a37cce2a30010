"""Fill a model from a safetensors file, or say how the file's architecture differs."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..errors import CheckpointError


def load_weights(model: nn.Module, path: Path) -> None:
    """Copy the weights of `path` into `model`. CheckpointError names tensors that are missing, unexpected or of another shape."""
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); take another checkpoint of the run") from error
    problems = _mismatches(model.state_dict(), weights)
    if problems:
        raise CheckpointError(
            f"{path} belongs to another architecture than the settings describe: {'; '.join(problems)}. "
            f"Compare the model section with the config.yaml beside it"
        )
    model.load_state_dict(weights)


def _mismatches(wanted: dict[str, Tensor], found: dict[str, Tensor]) -> list[str]:
    """A clause for each kind of difference, with at most three tensors named."""
    missing = sorted(wanted.keys() - found.keys())
    unexpected = sorted(found.keys() - wanted.keys())
    shapes = [
        f"{name} is {list(found[name].shape)}, the model has {list(wanted[name].shape)}"
        for name in sorted(wanted.keys() & found.keys())
        if wanted[name].shape != found[name].shape
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    return [f"{len(names)} {kind} ({_first(names)})" for kind, names in kinds.items() if names]


def _first(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
