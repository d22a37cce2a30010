"""Story of embedding: sequences of FASTA or the rows of a preprocessed split, a model on each worker, vectors as Parquet."""

from __future__ import annotations

import json
import shutil
import time
from functools import partial
from pathlib import Path
from typing import get_args

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.paths import is_job, require_absolute
from hyena_glt.data.scratch import SCRATCH
from hyena_glt.data.stages import Row, ray_data_context
from hyena_glt.data.storage import absolute
from hyena_glt.errors import ConfigError, DataError
from hyena_glt.files import atomic_write
from hyena_glt.inference.load import LoadedModel
from hyena_glt.inference.on_ray import part_file
from hyena_glt.inference.stretches import Per, embed_stretches
from hyena_glt.inference.windows import plan_context
from hyena_glt.training.checkpoint import resolve_checkpoint

from ._command import run_as
from ._on_model import claim, model_identity, output_folder, read_model, read_settings, work_through
from ._progress import ProgressBar
from ._ray import start_ray
from ._sequences import Sequences, find_sequences

Result = dict[str, object]

EMBEDDINGS, SUMMARY = "embeddings", "summary.json"
TASK_TOKENS = {"sequence": 1 << 20, "window": 1 << 20, "token": 1 << 15}
"""A task reads about so many, or one window, and holds its vectors in memory; a sequence that one vector stands for is not divided."""


def embed(
    model_path: str, *, sequences: str, output_dir: str, per: Per = "sequence", batch_size: int = 16, overrides: tuple[str, ...] = ()
) -> Result:
    """Embed each sequence, or each of its windows or tokens, as `inference.embed` does; a stopped call goes on where it was.

    sequences: FASTA, compressed or not, a folder or a glob of it; or a preprocessing output (its test split) or one of its split folders.
    output_dir: gets embeddings/ with Parquet files that follow on each other, their rows (`inference.stretches.columns`) in the order of
    the input, and summary.json; sequences shorter than a token are left out, and counted. overrides: `section.key=value` of
    `_on_model.READ`.
    Raises CheckpointError, ConfigError (the folder of another run), DataError (sequences that cannot be read, or of another tokenizer).
    """
    started = time.monotonic()
    if per not in get_args(Per):
        raise ConfigError(f"--per must be one of {', '.join(get_args(Per))}, got {per}")
    cfg = read_settings("embed", overrides)
    if is_job():
        require_absolute({"PATH": model_path, "--input": sequences, "--output_dir": output_dir})
    place, output = resolve_checkpoint(absolute(model_path)), output_folder(output_dir)
    trained, tokenizer = read_model(place)
    found, progress = find_sequences(sequences, tokenizer, output), ProgressBar("windows", {"checksums": "bytes", "reading": "bytes"})
    # As many windows as of a causal model.
    context = plan_context(trained.model.max_position_embeddings, tokenizer, causal=False, overlap=None)
    try:
        claim(output, {**model_identity(place), "per": per, "tasks": f"{TASK_TOKENS[per]} tokens", **found.identity(progress)})
        if not (output / SUMMARY).exists():
            with start_ray(cfg.cluster.address, cfg.cluster.num_cpus), ray_data_context():
                tasks = found.tasks(context, TASK_TOKENS[per], divide=per != "sequence", on_progress=progress)
                work_through(
                    partial(_embed_task, sequences=found, per=per, batch_size=batch_size), tasks, lambda task: int(task["windows"]),
                    cfg=cfg, model=place, parts=output / EMBEDDINGS, on_progress=partial(progress, "embedding"),
                )
                _finish(output, tasks, width=trained.model.hidden_size, left_out=found.left_out)
    except OSError as error:
        raise DataError(f"a file could not be read or written ({error}); when that is cured, the same command goes on") from error
    finally:
        progress.close()
    return {"path": str(output / EMBEDDINGS), **json.loads((output / SUMMARY).read_text()), "seconds": round(time.monotonic() - started, 1)}


def _finish(output: Path, tasks: list[Row], *, width: int, left_out: int) -> None:
    """Say what was made; what the stages left for each other goes."""
    vectors = sum(pq.read_metadata(part_file(output / EMBEDDINGS, task)).num_rows for task in tasks)
    for unfinished in (output / EMBEDDINGS).glob(".*"):
        unfinished.unlink(missing_ok=True)
    atomic_write(output / SUMMARY, json.dumps({"vectors": vectors, "width": width, "left_out": left_out}) + "\n")
    shutil.rmtree(output / SCRATCH, ignore_errors=True)


def _embed_task(loaded: LoadedModel, task: Row, *, sequences: Sequences, per: Per, batch_size: int) -> pa.Table:
    """The vectors of one task. Runs on the workers."""
    context = plan_context(loaded.model.max_length, loaded.tokenizer, causal=loaded.causal, overlap=None)
    return embed_stretches(loaded, context, sequences.stretches(task, context), per=per, batch_size=batch_size)


if __name__ == "__main__":
    run_as("embed")
