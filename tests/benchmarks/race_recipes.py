"""The race's contestants as settings: a `Recipe` each, with the names of the configuration where it has them."""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import yaml


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """A model and how to train it. What the clock decides is given in shares of the time budget."""

    family: Literal["hyena-glt", "hyenadna"] = "hyena-glt"
    hidden_size: int = 384
    num_layers: int = 6
    num_attention_heads: int = 3
    intermediate_size: int = 1280
    """0: 4 * hidden_size."""
    mixers: tuple[str, ...] = ("se", "mr", "attention")
    dropout: tuple[tuple[float, float], ...] = ((0.0, 0.0), (0.5, 0.1))
    """(share of the budget from which it holds, probability) on the embedding and the residual branches; HyenaDNA's code has it on the
    embedding alone."""
    rows_per_step: int = 4
    """Stored rows in a step."""
    lengths: tuple[tuple[float, int], ...] = ((0.0, 8192), (0.5, 32768))
    """(share of the budget from which it holds, tokens in the pieces that each stored row is cut into)."""
    optimizer: Literal["adamw", "muon"] = "muon"
    learning_rate: float = 4e-3
    muon_learning_rate: float = 16e-3
    """Of the matrices that Muon moves."""
    final_rate: float = 0.0
    """The last rate as a share of the first."""
    schedule: Literal["cosine", "wsd"] = "wsd"
    warmup: float = 0.02
    cooldown: float = 0.5
    """Share of the budget in which `wsd` falls, in a straight line."""
    weight_decay: float = 0.03
    adam_beta2: float = 0.95
    max_grad_norm: float = 1.0
    compile_model: bool = True

    def rate(self, share: float) -> float:
        """Learning rate when `share` of the budget is used up."""
        return self.learning_rate * factor(share, self.schedule, self.warmup, self.cooldown, self.final_rate)

    def length(self, share: float) -> int:
        """Tokens a piece when `share` of the budget is used up."""
        return int(_holding(self.lengths, share))

    def dropout_at(self, share: float) -> float:
        """Dropout when `share` of the budget is used up."""
        return float(_holding(self.dropout, share))

    def changes(self) -> list[float]:
        """Shares of the budget from which another length or dropout holds."""
        return sorted({start for start, _ in (*self.lengths, *self.dropout)})


def _holding(course: tuple[tuple[float, float], ...], share: float) -> float:
    return [value for start, value in course if start <= share][-1]


def factor(share: float, schedule: str, warmup: float, cooldown: float, final: float) -> float:
    """The rate as a share of its peak: up in a straight line, then down by a cosine, or level and down in a straight line."""
    if share < warmup:
        return max(share, 1e-3 * warmup) / warmup
    if schedule == "cosine":
        return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, (share - warmup) / (1.0 - warmup))))
    return final + (1.0 - final) * min(1.0, max(0.0, 1.0 - share) / cooldown)


OURS = Recipe()
CONTESTANTS = {
    "ours": OURS,
    # The same in all but the mixers, so that the difference is theirs.
    "transformer": replace(OURS, mixers=("attention",)),
    # As published: AdamW at 6e-4, decay 0.1, cosine to a tenth; the widths and depth of its largest released models.
    "hyenadna": Recipe(
        family="hyenadna", hidden_size=256, num_layers=8, intermediate_size=1024, mixers=("hyena",), dropout=((0.0, 0.1),),
        lengths=((0.0, 8192),), optimizer="adamw", learning_rate=6e-4, weight_decay=0.1, final_rate=0.1, schedule="cosine", warmup=0.01,
        adam_beta2=0.999,
    ),
}


def contestant(words: str) -> tuple[str, Recipe]:
    """`NAME [as=LABEL] [setting=value ...]` -> label and recipe; values are YAML without spaces."""
    name, *changes = shlex.split(words)
    recipe, label = CONTESTANTS[name], words
    known = {field.name for field in fields(Recipe)}
    for change in changes:
        key, _, text = change.partition("=")
        if key == "as":
            label = text
        elif key in known:
            recipe = replace(recipe, **{key: _like(getattr(recipe, key), yaml.safe_load(text))})
        else:
            raise SystemExit(f"{key}: no such setting; there are {', '.join(sorted(known))}")
    return label, recipe


def _like(example: Any, value: Any) -> Any:
    """`value` with the type of `example`; lists become tuples, and a number where there is a course holds throughout."""
    if isinstance(example, tuple) and isinstance(value, int | float):
        return ((0.0, float(value)),)
    if isinstance(example, tuple):
        return tuple(tuple(map(float, v)) if isinstance(v, list) else v for v in value) if value else ()
    return type(example)(value)
