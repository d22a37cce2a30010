"""From a run folder or checkpoint to a model that can be asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..config import Config, active_tasks, load_config
from ..errors import CheckpointError, DataError
from ..model import LanguageModel, build_model
from ..objectives import MaskedLM, Objective, build_objective
from ..tokenizers import Tokenizer, load_tokenizer
from ..training.checkpoint import WEIGHTS_FILE, resolve_checkpoint


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in eval mode with what it was trained as."""

    model: LanguageModel
    tokenizer: Tokenizer
    config: Config
    objective: Objective
    path: Path
    """The step folder that was read."""

    @property
    def causal(self) -> bool:
        """True if it predicts next tokens, false if it fills masks."""
        return self.objective.causal

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def mask_every(self) -> int:
        """Passes of a pseudo-log-likelihood that hide about as much at once as the training did; 1 for a causal model."""
        return max(2, round(1 / self.objective.mask_probability)) if isinstance(self.objective, MaskedLM) else 1


def load_model(path: str | Path, device: str = "cpu", *, overrides: Sequence[str] = ()) -> LoadedModel:
    """The model of a run folder, its `checkpoints`, a step folder or a pointer file (`latest`, `best_model`, `epoch_N`).

    `overrides` (`section.key=value`) go on top of the checkpoint's settings.
    Raises CheckpointError where there is no checkpoint, a file is missing or damaged, or the weights are of another architecture.
    """
    folder = resolve_checkpoint(path)
    config = load_config(folder / "config.yaml", overrides)
    tokenizer = load_tokenizer(folder / "tokenizer.json")
    objective = build_objective(next(iter(active_tasks(config.tasks).values())), tokenizer)
    model = build_model(config.model, vocab_size=tokenizer.vocab_size, causal=objective.causal)
    load_weights(model, folder / WEIGHTS_FILE)
    return LoadedModel(model.to(device).eval(), tokenizer, config, objective, folder)


def load_weights(model: torch.nn.Module, path: Path) -> None:
    """Copy the weights of `path` into `model`. CheckpointError names tensors that are missing, unexpected or of another shape."""
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); take another checkpoint of the run") from error
    problems = _mismatches(model.state_dict(), weights)
    if problems:
        raise CheckpointError(
            f"{path} belongs to another architecture than its config.yaml describes: {'; '.join(problems)}. "
            f"Use a checkpoint and config.yaml of the same run"
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
    """The first few names."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def require_same_tokenizer(model: Tokenizer, data: Tokenizer, where: str) -> None:
    """DataError, naming each field that differs, if ids of `data` would mean other symbols to the model."""
    wanted, found = model.to_dict(), data.to_dict()
    differences = [
        f"{name} is {found.get(name)!r} in the data, {wanted.get(name)!r} in the checkpoint"
        for name in sorted(wanted.keys() | found.keys())
        if wanted.get(name) != found.get(name)
    ]
    if differences:
        raise DataError(f"{where} was tokenized in another way than the model's training data: {'; '.join(differences)}. "
                        "Preprocess it with the settings of the checkpoint's config.yaml")
