"""Using a trained model: load, embed, score, generate; plain torch, no Ray."""

from __future__ import annotations

from .embed import embed
from .generate import generate
from .load import LoadedModel, load_model
from .score import Scores, score

__all__ = ["LoadedModel", "Scores", "embed", "generate", "load_model", "score"]
