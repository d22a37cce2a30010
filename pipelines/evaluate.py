"""Story of an evaluation: find the checkpoint and held-out windows, measure, compare with counting. One process, no Ray."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import torch

from cluster.paths import is_job, require_absolute
from hyena_glt.config import Config, dump_config, overridden
from hyena_glt.data.batches import Batch, EvaluationBatches, load
from hyena_glt.data.dataset import Rows, open_rows
from hyena_glt.data.manifest import locate_split, output_around, read_manifest
from hyena_glt.data.mixture import as_paths
from hyena_glt.data.storage import Location
from hyena_glt.errors import ConfigError, DataError
from hyena_glt.evaluation.baselines import baselines, beaten
from hyena_glt.evaluation.bleu import bleu
from hyena_glt.evaluation.metrics import Tally, choose_metrics, measure
from hyena_glt.evaluation.run_folder import save_evaluation
from hyena_glt.inference import LoadedModel, load_model
from hyena_glt.inference.load import require_same_tokenizer
from hyena_glt.training.checkpoint import read_info
from hyena_glt.training.metrics import bits_per_base

from ._command import run_as
from ._progress import ProgressBar

Result = dict[str, object]

READ = (
    "data.eval_data", "data.train_path", "data.val_path", "data.sequence_length", "model", "hardware.precision", "hardware.mixed_precision",
    "training.batch_size", "tasks.masked_lm.mask_probability",
)
"""The settings, and sections whole, that an evaluation reads on top of a checkpoint's own."""


def evaluate(
    model_path: str, *, eval_data: str | None = None, metrics: tuple[str, ...] = (), overrides: tuple[str, ...] = (), dry_run: bool = False
) -> Result:
    """Measure a checkpoint on held-out windows, beside uniform and Markov baselines; writes evaluation.json into its run folder.

    model_path: a run folder (its best checkpoint), `checkpoints`, a step folder or a pointer file. eval_data: a split folder
    or a preprocessing output; default: data.eval_data, else the test split beside data.train_path, else a val split.
    metrics: names as in `evaluation.metrics`; default: all that have a meaning here but bleu. overrides: `section.key=value`
    on top of the checkpoint's settings. Raises CheckpointError, ConfigError, DataError.
    """
    # 1) What is asked, and whether it can be answered.
    started = time.monotonic()
    refuse_unread(overrides)
    if is_job():
        require_absolute({"PATH": model_path, "--eval_data": eval_data})
    loaded = load_model(model_path, "cuda" if torch.cuda.is_available() else "cpu", overrides=overrides)
    cfg = _with_eval_data(loaded.config, eval_data)
    chosen = choose_metrics(metrics, loaded.tokenizer, causal=loaded.causal)
    rows = open_heldout(cfg, loaded)
    result: Result = {
        "checkpoint": str(loaded.path), "step": read_info(loaded.path).progress.step, "objective": "causal" if loaded.causal else "masked",
        "data": str(rows.folder / rows.split), "rows": rows.num_rows, "device": loaded.device.type,
    }
    if dry_run:
        print(dump_config(cfg), file=sys.stderr)
        return result | {"metrics": list(chosen)}

    # 2) The model.
    tally = _measure(loaded, rows, cfg.training.batch_size)
    values = tally.values(chosen, loaded.tokenizer, causal=loaded.causal)
    notes = []
    if "bleu" in chosen:
        taken = bleu(loaded, rows, batch_size=cfg.training.batch_size)
        values["bleu"] = taken.score
        notes.append(f"BLEU was taken on {taken.num_tokens:,} tokens of {taken.num_windows:,} windows, spread evenly over the split")

    # 3) What counting achieves on the same bases.
    bits = bits_per_base(tally.loss, loaded.tokenizer, causal=loaded.causal)
    by_name, note = _count_baselines(cfg, loaded, rows)
    result |= {
        "metrics": values, "scored_tokens": tally.num_scored, "bits_per_base": bits, "baselines": by_name,
        "beats": beaten(bits, by_name) if bits is not None else [], "notes": [*notes, *note],
        "seconds": round(time.monotonic() - started, 1),
    }
    return result | {"evaluation_file": str(save_evaluation(loaded.path, result))}


def refuse_unread(overrides: tuple[str, ...]) -> None:
    """ConfigError for each setting that `section.key=value` strings give and no evaluation reads."""
    unread = [path for path in overridden(overrides) if path not in READ and path.split(".")[0] not in READ]
    if unread:
        raise ConfigError(*(f"{path}: has no effect on an evaluation; remove it. These have: {', '.join(READ)}" for path in unread))


def _with_eval_data(cfg: Config, eval_data: str | None) -> Config:
    return replace(cfg, data=replace(cfg.data, eval_data=eval_data)) if eval_data else cfg


def open_heldout(cfg: Config, loaded: LoadedModel) -> Rows:
    """The held-out rows. DataError if they are tokenized otherwise than the model's, ConfigError if longer than its limit."""
    folder, split = locate_heldout(cfg)
    rows = open_rows(str(folder / split), split, cfg.data.sequence_length)
    require_same_tokenizer(loaded.tokenizer, rows.tokenizer, str(folder))
    if rows.width > loaded.model.max_length:
        room = loaded.model.max_length - 2 * rows.tokenizer.add_special_tokens
        raise ConfigError(
            f"data.sequence_length: the rows of {folder / split} have {rows.width:,} tokens, the model reads at most "
            f"{loaded.model.max_length:,}; evaluate with data.sequence_length={room}, which cuts rows and loses nothing"
        )
    return rows


def locate_heldout(cfg: Config) -> tuple[Location, str]:
    """Folder and split to evaluate on: data.eval_data, else what was held out beside data.train_path, else data.val_path."""
    data = cfg.data
    if data.eval_data:
        return _heldout_in(data.eval_data)
    if not data.train_path:
        raise ConfigError("data.eval_data: not set, and neither is data.train_path; name the held-out data with --eval_data")
    folder, _ = locate_split(_only_path(data.train_path), "train")
    if data.val_path and "test" not in read_manifest(folder).splits:
        return _heldout_in(_only_path(data.val_path))
    return _heldout_in(str(folder))


def _only_path(paths: str | tuple[str, ...]) -> str:
    first, *others = as_paths(paths)
    if others:
        raise ConfigError("data.eval_data: the run has several datasets; name the one to evaluate on with --eval_data")
    return first


def _heldout_in(path: str) -> tuple[Location, str]:
    """A split folder itself; of a preprocessing output the test split, else val."""
    folder, named = output_around(path)
    if named:
        return locate_split(path, named)
    splits = read_manifest(folder).splits
    for split in ("test", "val"):
        if split in splits and splits[split].rows:
            return folder, split
    raise DataError(f"{folder} holds nothing out: it has neither test nor val rows; preprocess with preprocessing.split.test above 0")


def _measure(loaded: LoadedModel, rows: Rows, batch_size: int) -> Tally:
    """Sums over all rows."""
    batches = EvaluationBatches(rows, loaded.objective, batch_size)
    tally = measure(loaded, _shown(load(batches, range(len(batches))), len(batches)))
    if not tally.num_scored:
        raise DataError(f"{rows.folder / rows.split}: no token of its {rows.num_rows:,} rows can be scored; all are ambiguous or too short")
    return tally


def _shown(batches: Iterator[Batch], total: int) -> Iterator[Batch]:
    """The same batches; says on stderr how many are done."""
    progress = ProgressBar("batches")
    progress("evaluating", 0, total)
    try:
        for done, batch in enumerate(batches, 1):
            yield batch
            progress("evaluating", done, total)
    finally:
        progress.close()


def _count_baselines(cfg: Config, loaded: LoadedModel, rows: Rows) -> tuple[dict[str, float], list[str]]:
    """Bits per base of each baseline, and a note where the training split is gone or was too large to count whole."""
    if not cfg.data.train_path:
        return {}, ["No baselines, because data.train_path is not set"]
    try:
        train = [open_rows(path, "train") for path in as_paths(cfg.data.train_path)]
    except DataError as error:
        return {}, [f"No baselines, because the training split cannot be read: {error}"]
    found = baselines(train, rows, loaded.objective)
    total = sum(of_train.manifest.splits[of_train.split].bases for of_train in train)
    sampled = [f"Baselines were counted on {found.train_bases:,} of {total:,} training bases"] if found.train_bases < total else []
    return found.bits_per_base, sampled


if __name__ == "__main__":
    run_as("evaluate")
