"""One contestant's training: a fixed time on one device, the same stream of rows for all, held-out bits per base on the way."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from race_models import build, build_optimizer
from race_recipes import Recipe
from torch import Tensor, nn

from hyena_glt.config.tree import DataConfig
from hyena_glt.data.augment import build_augmentation
from hyena_glt.data.batches import Batch, EvaluationBatches, Slice, TrainingBatches, load
from hyena_glt.data.dataset import Rows
from hyena_glt.data.mixture import open_training, open_validation
from hyena_glt.model.block import set_dropout
from hyena_glt.objectives.causal import CausalLM
from hyena_glt.training.optim import set_rate

Row = dict[str, Any]
AHEAD = 2
"""Steps that the host may be ahead of the device, so that the clock is right to within as many."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """What is the same for all contestants."""

    data: Path
    budget_s: float
    evaluate_at: tuple[float, ...]
    eval_rows: int | None
    seed: int
    reverse_complement: float
    max_shift: int
    loader_workers: int
    hyenadna: Path | None
    device: str

    def stream(self, rows_per_step: int) -> Iterator[Batch]:
        """Endless training batches; their rows are the same for all, however many a step takes."""
        data = DataConfig(train_path=str(self.data), reverse_complement=self.reverse_complement, max_shift=self.max_shift)
        part = Slice(0, 1, rows_per_step, 1)
        batches = TrainingBatches(open_training(data), CausalLM(), self.seed, data.shuffle_row_groups, build_augmentation(data, self.seed))
        return load(batches, map(part.request, range(10**9)), num_workers=self.loader_workers, pin_memory=self.device.startswith("cuda"))

    def heldout(self) -> Rows:
        (rows,) = open_validation(DataConfig(train_path=str(self.data), val_path=str(self.data))).values()
        return rows


@dataclass(slots=True)
class Clock:
    """Seconds of training; evaluations are left out."""

    device: torch.device
    used_s: float = 0.0
    _since: float = 0.0
    _marks: deque[torch.cuda.Event] = field(default_factory=deque)

    def start(self) -> None:
        self._wait()
        self._since = time.monotonic()

    def stop(self) -> None:
        self._wait()
        self.used_s += time.monotonic() - self._since
        self._marks.clear()

    def tick(self) -> float:
        """After each step: seconds until now, with the device at most `AHEAD` steps behind."""
        if self.device.type == "cuda":
            mark = torch.cuda.Event()
            mark.record()
            self._marks.append(mark)
            if len(self._marks) > AHEAD:
                self._marks.popleft().synchronize()
        return self.used_s + time.monotonic() - self._since

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@dataclass(slots=True)
class Race:
    """A contestant on its way."""

    recipe: Recipe
    setup: Setup
    model: nn.Module
    optimizer: torch.optim.Optimizer
    rate_factors: list[float]
    device: torch.device
    clock: Clock
    length: int = 0
    """Tokens a piece in the last step."""
    steps: int = 0
    tokens: int = 0
    loss: Tensor | float = 0.0
    scored: int = 0

    def forward(self, batch: Batch, length: int) -> tuple[Tensor, Tensor]:
        """Loss and hits of the batch, its rows cut into pieces of `length` tokens."""
        batch = batch.to(self.device)
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            return self.model(*(x.view(-1, min(length, x.shape[1])) for x in (batch.inputs, batch.padding, batch.targets)))

    def step(self, batch: Batch, share: float) -> None:
        """One optimizer step on the mean over the scored tokens."""
        self.length = self.recipe.length(share)
        self.set_dropout(share)
        loss, _ = self.forward(batch, self.length)
        (loss / batch.num_scored).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.max_grad_norm, foreach=True)
        set_rate(self.optimizer, self.recipe.rate(share), self.rate_factors)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.loss += loss.detach()
        self.steps, self.tokens, self.scored = self.steps + 1, self.tokens + batch.num_tokens, self.scored + batch.num_scored

    def set_dropout(self, share: float) -> None:
        """Where it changes; else it stays as the model was built, for HyenaDNA's has modules without dropout."""
        if len(self.recipe.dropout) > 1:
            set_dropout(self.model, self.recipe.dropout_at(share))

    def evaluate(self, share: float) -> Row:
        """Bits per base of the held-out rows, in pieces as long as in training, and of the training rows since the last time."""
        rows, loss, scored = self.setup.heldout(), torch.zeros((), device=self.device), 0
        self.model.eval()
        with torch.no_grad():
            batches = EvaluationBatches(rows, CausalLM(), self.recipe.rows_per_step, max_rows=self.setup.eval_rows)
            for number in range(len(batches)):
                batch = batches[number]
                loss += self.forward(batch, self.length)[0]
                scored += batch.num_scored
        self.model.train()
        row = {
            "share": share, "seconds": round(self.clock.used_s, 1), "steps": self.steps, "tokens": self.tokens,
            "length": self.length, "bits_per_base": float(loss) / scored / math.log(2), "scored": scored,
            "train_bits_per_base": float(self.loss) / self.scored / math.log(2) if self.scored else None,
        }
        self.loss, self.scored = 0.0, 0
        return row


def run(label: str, recipe: Recipe, setup: Setup, save: Callable[[Row], None]) -> Row:
    """Train and evaluate; `save` gets the row after each evaluation, so that a run that is cut off leaves its figures."""
    torch._dynamo.config.recompile_limit = 64  # block kinds times lengths, dropouts, training and evaluation share one code object
    device = torch.device(setup.device)
    entered = time.monotonic()
    stream = setup.stream(recipe.rows_per_step)
    first = next(stream)
    torch.manual_seed(setup.seed)
    model = build(recipe, length=first.inputs.shape[1], hyenadna=setup.hyenadna).to(device)
    race = Race(recipe, setup, model, *build_optimizer(model, recipe), device, Clock(device))
    warm_up(race, first)
    row: Row = {
        "label": label, "recipe": {name: getattr(recipe, name) for name in recipe.__slots__}, "seed": setup.seed,
        "parameters": sum(p.numel() for p in model.parameters()), "budget_s": setup.budget_s,
        "warmup_s": round(time.monotonic() - entered, 1), "evaluations": [],
    }
    for share in [*(s for s in setup.evaluate_at if s < 1.0), 1.0]:
        first = train_until(race, stream, first, share)
        row["evaluations"].append(race.evaluate(share))
        row |= totals(race)
        save(row)
    return row


def train_until(race: Race, stream: Iterator[Batch], batch: Batch, share: float) -> Batch:
    """Step until `share` of the budget is used up; `batch` comes first, the next one is returned."""
    race.clock.start()
    used = race.clock.used_s / race.setup.budget_s
    while used < share:
        race.step(batch, used)
        batch = next(stream)
        used = race.clock.tick() / race.setup.budget_s
    race.clock.stop()
    return batch


def warm_up(race: Race, batch: Batch) -> None:
    """Compile all that will run, with each length and dropout, training and evaluating; weights and optimizer stay as they are."""
    for share in race.recipe.changes():
        length = race.recipe.length(share)
        race.set_dropout(share)
        for _ in range(2):
            (race.forward(batch, length)[0] / batch.num_scored).backward()
        race.model.zero_grad(set_to_none=True)
        race.model.eval()
        with torch.no_grad():
            race.forward(batch, length)
        race.model.train()
    torch.manual_seed(race.setup.seed)


def totals(race: Race) -> Row:
    peak = torch.cuda.max_memory_allocated(race.device) / 1e9 if race.device.type == "cuda" else None
    return {
        "steps": race.steps, "tokens": race.tokens, "train_s": round(race.clock.used_s, 1),
        "tokens_per_s": round(race.tokens / race.clock.used_s), "peak_memory_gb": peak and round(peak, 1),
    }
