"""The network, in pure torch: operators, blocks, backbone and heads."""

from __future__ import annotations

from .backbone import Backbone
from .build import build_model
from .heads import LanguageModel, SequenceClassifier

__all__ = ["Backbone", "LanguageModel", "SequenceClassifier", "build_model"]
