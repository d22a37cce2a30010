"""From a run folder or checkpoint to a model that can be asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..config import Config, load_config, only_task
from ..data.manifest import TOKENIZER
from ..data.storage import Location
from ..errors import DataError
from ..model import LanguageModel, build_model
from ..model.weights import load_weights
from ..objectives import MaskedLM, Objective, build_objective
from ..tokenizers import Tokenizer, load_tokenizer
from ..training.checkpoint import CONFIG_FILE, WEIGHTS_FILE, resolve_checkpoint
from ..training.copies import fetched


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in eval mode with what it was trained as."""

    model: LanguageModel
    tokenizer: Tokenizer
    config: Config
    objective: Objective
    path: Location
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


def load_model(path: str | Location, device: str = "cpu", *, overrides: Sequence[str] = ()) -> LoadedModel:
    """The model of a run folder, its `checkpoints`, a step folder or a pointer file (`latest`, `best_model`, `epoch_N`), also in a store.

    `overrides` (`section.key=value`) go on top of the checkpoint's settings.
    Raises CheckpointError where there is no checkpoint, a file is missing or damaged, or the weights are of another architecture.
    """
    place = resolve_checkpoint(path)
    with fetched(place, CONFIG_FILE, TOKENIZER, WEIGHTS_FILE) as folder:
        config = load_config(folder / CONFIG_FILE, overrides)
        tokenizer = load_tokenizer(folder / TOKENIZER)
        objective = build_objective(only_task(config.tasks), tokenizer)
        model = build_model(config.model, vocab_size=tokenizer.vocab_size, causal=objective.causal)
        load_weights(model, folder / WEIGHTS_FILE)
    return LoadedModel(model.to(device).eval(), tokenizer, config, objective, place)


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
