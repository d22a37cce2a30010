"""Story of a look at the training data: open them as training does, show batches, time the loader. On the driver, without Ray."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np

from hyena_glt.config import Config, only_task, require_built
from hyena_glt.data.augment import build_augmentation
from hyena_glt.data.batches import Batch, Request, Serving, Slice, TrainingBatches, load
from hyena_glt.data.dataset import Rows
from hyena_glt.data.mixture import open_training
from hyena_glt.errors import ConfigError
from hyena_glt.evaluation.data_rows import decode_rows, read_blocks
from hyena_glt.objectives import IGNORE, build_objective
from hyena_glt.tokenizers import Tokenizer
from hyena_glt.tokenizers.base import CLS, MASK, PAD, SEP, UNK

Result = dict[str, object]
MAX_ROWS_SHOWN = 8
"""Rows of a batch that are written out; the shares are of all."""
LETTERS_BEFORE_GAP, LETTERS_BEHIND_GAP = 80, 20
SECONDS = 4.0


@dataclass(frozen=True, slots=True)
class FirstWorker:
    """What a run's first and only worker gets at its start."""

    training: TrainingBatches
    part: Slice
    serving: Serving

    def request(self, micro_step: int) -> Request:
        """What a micro-step takes."""
        return self.part.request(micro_step, self.serving)


@dataclass(frozen=True, slots=True)
class Drawn:
    """The rows of one micro-step before the objective: B rows of L tokens."""

    domains: np.ndarray
    """Which dataset each row is from, int64 [B]."""
    numbers: np.ndarray
    """Which row of it, int64 [B]."""
    shifts: np.ndarray
    """Tokens that each row starts later, int64 [B]."""
    turned: np.ndarray
    """Whether each row is read from the other strand, bool [B]."""
    offsets: np.ndarray
    """Tokens of its row that stand before a piece, int64 [B]."""
    ids: np.ndarray
    """uint [B, L], as the objective gets them."""


def debug_data(cfg: Config, *, batches: int = 2, step_ms: float | None = None, seconds: float = SECONDS) -> Result:
    """Show what the first worker of a training run would see, without a model, and how fast the loader is.

    Writes the first `batches` micro-batches to stderr: for each row where it is from, its letters, and below them which tokens the
    objective hides. Then times the loader for `seconds` with `hardware.num_workers`; with `step_ms`, the time of a training step, it
    says how long each step would wait. The result holds the same as plain values. Raises ConfigError, DataError as training would.
    """
    require_built(cfg, "pretrain")
    if cfg.data.train_path is None:
        raise ConfigError("data.train_path: needed to show training data; give the folder that `hyena-glt preprocess` wrote")
    first = open_batches(cfg)
    shown = [_show(first, number) for number in range(batches)]
    loader = time_loader(first, num_workers=cfg.hardware.num_workers, step_ms=step_ms, seconds=seconds)
    _say(loader_sentence(loader))
    mixture = first.training.mixture
    return {"datasets": list(mixture.domains), "width": mixture.width, "batches": shown, "loader": loader}


def open_batches(cfg: Config) -> FirstWorker:
    """The micro-batches of a run's first and only worker, with the first sequence length and masking rate of a curriculum."""
    mixture, data, training = open_training(cfg.data), cfg.data, cfg.training
    part = Slice(0, 1, training.batch_size, training.gradient_accumulation_steps)
    objective = build_objective(only_task(cfg.tasks), mixture.tokenizer)
    batches = TrainingBatches(mixture, objective, training.seed, data.shuffle_row_groups, build_augmentation(data, training.seed))
    lengths, masking = (getattr(cfg.curriculum, name, None) for name in ("sequence_length", "mask_probability"))
    serving = Serving(sequence_length=lengths and lengths.values[0], mask_probability=masking and masking.values[0])
    return FirstWorker(batches, part, serving)


# What a batch holds


def draw(first: FirstWorker, micro_step: int) -> Drawn:
    """The rows of a micro-step, and how they were augmented."""
    training, request = first.training, first.request(micro_step)
    domains, numbers = training.places(request)
    shifts, turned = np.zeros(request.num_rows, np.int64), np.zeros(request.num_rows, bool)
    if training.augmentation is not None:
        shifts, turned = training.augmentation.draw(request.positions)
        shifts = np.where(training.mixture.moved(domains, numbers, shifts), shifts, 0)
    rows, pieces = training.read(request, domains, numbers)
    offsets = np.tile(np.arange(pieces) * (first.serving.sequence_length or 0), request.num_rows)
    return Drawn(*(np.repeat(values, pieces) for values in (domains, numbers, shifts, turned)), offsets, rows.ids)


def marks(tokenizer: Tokenizer, ids: np.ndarray, inputs: np.ndarray, targets: np.ndarray) -> str:
    """A sign for each letter of one row without specials and padding, ids, inputs, targets int64 [L].

    M: hidden behind [MASK], r: replaced by another symbol, k: to be predicted but kept, a space: context. Where tokens overlap, the
    sign stands under the one base that is hidden from all the tokens on it.
    """
    scored = targets != IGNORE
    touched = scored if tokenizer.overlapping else scored | (inputs != ids)
    signs = np.where(inputs == MASK, "M", np.where(inputs != ids, "r", "k"))
    signs = np.where(touched, signs, " ")
    if tokenizer.overlapping:
        return " " * (tokenizer.span - 1) + "".join(signs)
    return "".join(np.repeat(signs, tokenizer.span))


def shorten(text: str) -> str:
    """Without the middle of a long text; how much is missing stands in its place."""
    left_out = len(text) - LETTERS_BEFORE_GAP - LETTERS_BEHIND_GAP
    if left_out <= 0:
        return text
    return f"{text[:LETTERS_BEFORE_GAP]} ...{left_out:,}... {text[-LETTERS_BEHIND_GAP:]}"


def _shorten_marks(text: str) -> str:
    """As `shorten`, with blanks for the words in the gap."""
    left_out = len(text) - LETTERS_BEFORE_GAP - LETTERS_BEHIND_GAP
    if left_out <= 0:
        return text
    gap = " " * (len(shorten(text)) - LETTERS_BEFORE_GAP - LETTERS_BEHIND_GAP)
    return f"{text[:LETTERS_BEFORE_GAP]}{gap}{text[-LETTERS_BEHIND_GAP:]}"


def _show(first: FirstWorker, micro_step: int) -> Result:
    """Write one micro-batch to stderr; the same as plain values."""
    training, drawn, batch = first.training, draw(first, micro_step), first.training[first.request(micro_step)]
    unknown = int((drawn.ids == UNK).sum())
    shares = {
        "padding_share": 1.0 - batch.num_tokens / drawn.ids.size, "scored_share": batch.num_scored / max(batch.num_tokens, 1),
        "unknown_share": unknown / max(batch.num_tokens, 1),
    }
    _say(
        f"\nbatch {micro_step}: {len(drawn.ids)} rows of {drawn.ids.shape[1]:,} tokens, padding {shares['padding_share']:.1%}; "
        f"of the tokens {shares['scored_share']:.1%} scored, {shares['unknown_share']:.2%} [UNK]"
    )
    places = _places(training, drawn, min(len(drawn.ids), MAX_ROWS_SHOWN))
    rows = [_show_row(training, drawn, batch, row, place) for row, place in enumerate(places)]
    if len(rows) < len(drawn.ids):
        _say(f"  and {len(drawn.ids) - len(rows)} more rows")
    masked = "M hidden, r replaced, k kept; all of them are to be predicted"
    note = "each token is predicted from those before it" if training.objective.causal else masked
    specials = "; [CLS] and [SEP], around each row, are left out" if training.mixture.tokenizer.add_special_tokens else ""
    _say(f"  ({note}{specials})")
    tokens = dict(zip(training.mixture.domains, batch.domain_tokens, strict=True))
    return {"micro_step": micro_step, "num_rows": len(drawn.ids), **shares, "tokens": tokens, "rows": rows}


def _show_row(training: TrainingBatches, drawn: Drawn, batch: Batch, row: int, place: Result) -> Result:
    tokenizer, causal = training.mixture.tokenizer, training.objective.causal
    kept = ~np.isin(drawn.ids[row], (PAD, CLS, SEP))
    ids = drawn.ids[row][kept].astype(np.int64)
    letters = decode_rows(tokenizer, ids[None])[0].tobytes().decode()
    signs = "" if causal else marks(tokenizer, ids, batch.inputs[row].numpy()[kept], batch.targets[row].numpy()[kept])
    shift = f", shifted by {place['shift']} tokens" if place["shift"] else ""
    strand = ", other strand" if place["reversed"] else ""
    dataset = f"{place['dataset']}: " if len(training.mixture.domains) > 1 else ""
    _say(f"  {dataset}{place['source']} {place['record']} from base {place['start'] + 1:,}{shift}{strand}, {len(ids):,} tokens")
    _say(f"    {shorten(letters)}")
    if not causal:
        _say(f"    {_shorten_marks(signs)}".rstrip())
    return place | {"tokens": len(ids), "letters": shorten(letters)} | ({} if causal else {"marks": _shorten_marks(signs)})


def _places(training: TrainingBatches, drawn: Drawn, num_rows: int) -> list[Result]:
    """Where the first rows come from; `start` is the row's lowest base in its record, 0-based, before it is turned."""
    names, stride, found = list(training.mixture.domains), training.mixture.tokenizer.bases_per_token, []
    for row in range(num_rows):
        rows = training.mixture.rows[drawn.domains[row]]
        stored, piece = divmod(int(drawn.numbers[row]), rows.pieces)
        place = _stored_place(rows, stored)
        start = int(place["start"]) + (piece * rows.piece_length + int(drawn.shifts[row] + drawn.offsets[row])) * stride
        found.append({
            "dataset": names[drawn.domains[row]], "source": place["source"], "record": place["record"], "start": start,
            "shift": int(drawn.shifts[row]), "reversed": bool(drawn.turned[row]),
        })
    return found


def _stored_place(rows: Rows, stored: int) -> Result:
    (block,) = read_blocks(rows, np.array([stored]))
    return block.places.to_pylist()[0]


# How fast the loader is


def time_loader(first: FirstWorker, *, num_workers: int, step_ms: float | None, seconds: float) -> Result:
    """The loader alone, over about `seconds` after its processes have started and their first batches are fetched.

    `ms_per_step` is what it takes for one worker's part of an optimizer step; a step has as many tokens as the mean of the batches read.
    """
    stream = load(first.training, map(first.request, count()), num_workers=num_workers)
    for _ in range(1 + 2 * num_workers):  # each process fetches two batches ahead: these would look free
        next(stream)
    tokens, micro_steps, elapsed = _count(stream, seconds)
    del stream  # ends the processes
    tokens_per_step = tokens / micro_steps * first.part.accumulation_steps
    ms = 1000 * elapsed / micro_steps * first.part.accumulation_steps
    result: Result = {
        "num_workers": num_workers, "seconds": elapsed, "tokens_per_s": tokens / elapsed, "tokens_per_step": tokens_per_step,
        "ms_per_step": ms,
    }
    if step_ms is None:
        return result
    wait = wait_ms(ms, step_ms, num_workers)
    return result | {"step_ms": step_ms, "wait_ms": wait, "wait_share": wait / (wait + step_ms)}


def wait_ms(loader_ms: float, step_ms: float, num_workers: int) -> float:
    """Milliseconds that a step waits: loader processes work beside it, and without any the loader has its turn before each step."""
    return max(0.0, loader_ms - step_ms) if num_workers else loader_ms


def _count(stream: Iterator[Batch], seconds: float) -> tuple[int, int, float]:
    """Tokens, micro-batches and seconds until `seconds` have passed, at least one batch."""
    started, tokens = time.perf_counter(), 0
    for micro_steps in count(1):
        tokens += next(stream).num_tokens
        if (elapsed := time.perf_counter() - started) >= seconds:
            return tokens, micro_steps, elapsed


def loader_sentence(loader: Result) -> str:
    """The timing in words."""
    workers = f"{loader['num_workers']} processes" if loader["num_workers"] else "no processes of its own (hardware.num_workers 0)"
    said = (
        f"\nloader alone, {workers}: {loader['tokens_per_s']:,.0f} tokens/s; "
        f"a step of {loader['tokens_per_step']:,.0f} tokens on one worker takes it {loader['ms_per_step']:.2f} ms"
    )
    if "step_ms" not in loader:
        return f"{said}; give --step_ms, the time of a training step, for the wait that this means"
    return f"{said}; with steps of {loader['step_ms']:g} ms each waits {loader['wait_ms']:.2f} ms, {loader['wait_share']:.1%} of the time"


def _say(text: str) -> None:
    print(text, file=sys.stderr)
