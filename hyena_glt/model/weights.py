"""Fill a model from a safetensors file, or say how the file's architecture differs."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from ..errors import CheckpointError


def load_weights(model: nn.Module, path: Path) -> None:
    """Copy the weights of `path` into `model`. CheckpointError names tensors that are missing, unexpected or of another shape."""
    check_weights(model, path)
    model.load_state_dict(load_file(path))


def check_weights(model: nn.Module, path: Path) -> None:
    """Raise what `load_weights` would, from the file's header alone; `model` may be on the meta device."""
    try:
        with safe_open(path, "pt") as file:
            found = {name: file.get_slice(name).get_shape() for name in file.keys()}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); take another checkpoint of the run") from error
    problems = _mismatches({name: list(tensor.shape) for name, tensor in model.state_dict().items()}, found)
    if problems:
        raise CheckpointError(
            f"{path} belongs to another architecture than the settings describe: {'; '.join(problems)}. "
            f"Compare the model section with the config.yaml beside it"
        )


def _mismatches(wanted: dict[str, list[int]], found: dict[str, list[int]]) -> list[str]:
    """A clause for each kind of difference, with at most three tensors named."""
    missing = sorted(wanted.keys() - found.keys())
    unexpected = sorted(found.keys() - wanted.keys())
    shapes = [
        f"{name} is {found[name]}, the model has {wanted[name]}"
        for name in sorted(wanted.keys() & found.keys())
        if wanted[name] != found[name]
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    return [f"{len(names)} {kind} ({_first(names)})" for kind, names in kinds.items() if names]


def _first(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
