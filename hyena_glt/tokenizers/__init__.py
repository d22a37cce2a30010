"""Letters to ids and back: single bases, k-mers, amino acids."""

from .base import Tokenizer
from .build import build_tokenizer, load_tokenizer

__all__ = ["Tokenizer", "build_tokenizer", "load_tokenizer"]
