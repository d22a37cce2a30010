"""A real run folder in seconds: the lambda genome as preprocessed data, and a tiny model trained on it in plain torch."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file

from hyena_glt.config import Config, config_from_dict, dump_config, only_task
from hyena_glt.data.batches import EvaluationBatches, Slice, TrainingBatches
from hyena_glt.data.dataset import Rows, open_rows
from hyena_glt.data.manifest import InputFile, Manifest, SplitManifest, write_manifest
from hyena_glt.data.mixture import open_training
from hyena_glt.data.row_format import RowFormat, id_bits
from hyena_glt.data.shard_index import Shard, Shards
from hyena_glt.inference import LoadedModel, load_model
from hyena_glt.model import LanguageModel, build_model
from hyena_glt.objectives import Objective, build_objective
from hyena_glt.tokenizers import Tokenizer, build_tokenizer
from hyena_glt.training.checkpoint import BEST, WEIGHTS_FILE, CheckpointInfo, Progress, step_name
from hyena_glt.training.commit import point, write_alone
from hyena_glt.training.metrics import RunLog, loss_metrics

LAMBDA = Path(__file__).parents[1] / "pipelines" / "genomes" / "lambda.fa"
TINY_MODEL = {
    "name": "tiny", "hidden_size": 32, "num_layers": 3, "num_attention_heads": 2, "max_position_embeddings": 128,
    "mixers": ["se", "mr", "li"],
}


def lambda_letters() -> bytes:
    """The genome of phage lambda, upper case."""
    return b"".join(line for line in LAMBDA.read_bytes().upper().splitlines() if not line.startswith(b">"))


def write_data(
    folder: Path, tokenizer: Tokenizer, letters: dict[str, bytes], *, max_length: int, stride: int | None = None,
    soft_masked: float | None = None,
) -> Path:
    """A preprocessing output with one shard a split, from each split's letters.

    Where `soft_masked` is given, tokens have weights: that for lower-case letters, 1 for others (one letter a token).
    """
    width = tokenizer.num_tokens(max_length)
    row_format = RowFormat(width=width, id_bits=id_bits(tokenizer.num_ids), weights=soft_masked is not None)
    splits = {}
    for split, sequence in letters.items():
        starts = range(0, len(sequence), stride or max_length)
        windows = [sequence[i : i + max_length] for i in starts]
        ids = pad_rows([tokenizer.encode(window) for window in windows], width)
        columns = [
            row_format.packings["input_ids"].pack(ids), pa.array(["lambda.fa"] * len(ids)), pa.array(["lambda"] * len(ids)),
            pa.array(list(starts), pa.int64()), pa.array([len(window) for window in windows], pa.int32()),
        ]
        if soft_masked is not None:
            weights = [np.where(np.frombuffer(window, np.uint8) >= ord("a"), soft_masked, 1).astype(np.float16) for window in windows]
            columns.append(row_format.packings["weights"].pack(pad_rows(weights, width)))
        splits[split] = _write_shard(folder, split, pa.Table.from_arrays(columns, schema=row_format.schema), int((ids != 0).sum()))
    tokenizer.save(folder / "tokenizer.json")
    content = (folder / "tokenizer.json").read_bytes()
    total = sum(map(len, letters.values()))
    write_manifest(folder, Manifest(
        config={"preprocessing": {"max_length": max_length}, "tokenization": {}, "output": {}}, tokenizer=tokenizer.to_dict(),
        tokenizer_sha256=hashlib.sha256(content).hexdigest(), width=width, id_bits=row_format.id_bits, splits=splits,
        columns=tuple(row_format.schema.names),
        inputs=(InputFile(path="lambda.fa", size=total, sha256="0" * 64, records=1, bases=total),),
        dropped={"shorter than min_length": {"windows": 2, "bases": 31}},
    ))
    return folder


def pad_rows(rows: Sequence[np.ndarray], width: int) -> np.ndarray:
    """[rows, width], 0 behind each row."""
    return np.stack([np.pad(row, (0, width - len(row))) for row in rows])


def _write_shard(folder: Path, split: str, table: pa.Table, tokens: int) -> SplitManifest:
    path = folder / split / "part-00000.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(table, path, row_group_size=64, write_page_checksum=True)
    content = path.read_bytes()
    checksum = hashlib.sha256(content).hexdigest()
    metadata = pq.read_metadata(path)
    shard = Shard(
        path=f"{split}/{path.name}", rows=len(table), tokens=tokens, size=len(content), sha256=checksum,
        row_groups=tuple(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)),
    )
    return SplitManifest(rows=len(table), tokens=tokens, bases=int(table["length"].to_numpy().sum()), shards=Shards.of([shard]))


def write_lambda_data(
    folder: Path, tokenization: dict[str, object], *, max_length: int = 128, stride: int | None = None, soft_masked: float | None = None
) -> Path:
    """Lambda with its last 20 % held out, half for val and half for test; with `soft_masked` every other 100 bases are lower-case."""
    letters = lambda_letters()
    if soft_masked is not None:
        letters = b"".join(letters[i : i + 100].lower() + letters[i + 100 : i + 200] for i in range(0, len(letters), 200))
    first, second = int(len(letters) * 0.8), int(len(letters) * 0.9)
    parts = {"train": letters[:first], "val": letters[first:second], "test": letters[second:]}
    tokenizer = build_tokenizer("dna", config_from_dict({"tokenization": tokenization}).tokenization)
    return write_data(folder, tokenizer, parts, max_length=max_length, stride=stride, soft_masked=soft_masked)


def tiny_config(
    run: Path, data: Path, *, causal: bool, model: dict[str, object] | None = None, tokenization: dict[str, object] | None = None
) -> Config:
    """Settings of a run that takes seconds."""
    return config_from_dict({
        "model": TINY_MODEL | (model or {}), "tokenization": tokenization or {"kind": "char"},
        "data": {"train_path": str(data), "val_path": str(data)},
        "training": {"output_dir": str(run), "batch_size": 8, "learning_rate": 3e-3, "max_steps": 100},
        "tasks": {"causal_lm": {}} if causal else {"masked_lm": {}},
        "logging": {"use_tensorboard": False},
    })


def random_model(
    folder: Path, *, causal: bool, mixers: tuple[str, ...] = ("se", "mr", "li"), tokenization: dict[str, object] | None = None,
    model: dict[str, object] | None = None, sequence_type: str = "dna",
) -> LoadedModel:
    """A model with random weights, larger than the initial ones so that context matters, through a checkpoint on disk."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    cfg = tiny_config(folder, folder, causal=causal, model={"mixers": list(mixers), "num_layers": len(mixers)} | (model or {}))
    default: dict[str, object] = {"kind": "amino_acid" if sequence_type == "protein" else "char"}
    tokenizer = build_tokenizer(sequence_type, config_from_dict({"tokenization": tokenization or default}).tokenization)
    network = build_model(cfg.model, vocab_size=tokenizer.vocab_size, causal=causal)
    with torch.no_grad():
        for weights in network.parameters():
            if weights.ndim == 2:
                weights *= 8
    return load_model(save_checkpoint(network, cfg, tokenizer, folder, 1))


def random_bases(number: int, seed: int = 0) -> str:
    """A sequence of random bases."""
    return "".join(np.random.default_rng(seed).choice(list("ACGT"), number))


def train_tiny(cfg: Config, run: Path, *, steps: int, log_every: int = 5) -> Path:
    """Train, log and save as the real loop does, without DeepSpeed and Ray; returns the run folder."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    run.mkdir(parents=True, exist_ok=True)
    (run / "config.yaml").write_text(dump_config(cfg))
    environment = {"command": "hyena-glt pretrain tiny.yaml", "versions": {"torch": torch.__version__}, "devices": ["cpu"]}
    (run / "environment.json").write_text(json.dumps(environment))
    rows, val = open_training(cfg.data), open_rows(cfg.data.val_path, "val")
    objective = build_objective(only_task(cfg.tasks), rows.tokenizer)
    model = build_model(cfg.model, vocab_size=rows.tokenizer.vocab_size, causal=objective.causal)
    optimizer = torch.optim.AdamW(model.parameters(), lr=cfg.training.learning_rate)
    batches, part = TrainingBatches(rows, objective, 0, 16), Slice(0, 1, cfg.training.batch_size, 1)
    log, started, tokens = RunLog(run, cfg.logging, settings={}), time.monotonic(), 0
    place = {"total_steps": steps}
    log.write({"kind": "start", "step": 0, "tokens": 0, "parameters": sum(p.numel() for p in model.parameters()), "device": "cpu", **place})
    for step in range(1, steps + 1):
        batch = batches[part.request(step - 1)]
        loss_sum, hits = model(batch.inputs, batch.padding, batch.targets)
        loss = loss_sum / batch.num_scored
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item()
        optimizer.step()
        optimizer.zero_grad()
        tokens += batch.num_tokens
        elapsed = time.monotonic() - started
        where = {"step": step, "tokens": tokens, "epoch": step * len(batch.inputs) / rows.num_rows, "elapsed_s": elapsed, **place}
        if step % log_every == 0:
            figures = loss_metrics(loss.item(), hits.item() / batch.num_scored, rows.tokenizer, causal=objective.causal)
            speed = {"learning_rate": cfg.training.learning_rate, "grad_norm": norm, "tokens_per_s": tokens / elapsed}
            log.write({"kind": "train", **where, **figures, **speed})
        if step % (4 * log_every) == 0:
            log.write({"kind": "eval", **where, **_validate(model, val, objective)})
    log.write({"kind": "end", **where, "reason": "finished", "cpu_hours": elapsed / 3600})
    log.close()
    save_checkpoint(model, cfg, rows.tokenizer, run, steps, tokens)
    return run


def _validate(model: LanguageModel, rows: Rows, objective: Objective) -> dict[str, float]:
    dataset = EvaluationBatches(rows, objective, 16)
    batches = [dataset[i] for i in range(len(dataset))]
    with torch.no_grad():
        sums = [model(b.inputs, b.padding, b.targets) for b in batches]
    scored = sum(b.num_scored for b in batches)
    loss, hits = sum(float(s) for s, _ in sums), sum(int(h) for _, h in sums)
    return loss_metrics(loss / scored, hits / scored, rows.tokenizer, causal=objective.causal)


def save_checkpoint(model: LanguageModel, cfg: Config, tokenizer: Tokenizer, run: Path, step: int, tokens: int = 0) -> Path:
    """Commit a checkpoint without optimizer state, as latest and best."""
    info = CheckpointInfo(progress=Progress(step=step, tokens=tokens), world_size=1, zero_stage=1, global_rows=8, data_checksum="")

    def write(staged: Path) -> None:
        save_file(model.state_dict(), staged / WEIGHTS_FILE)
        (staged / "config.yaml").write_text(dump_config(cfg))
        tokenizer.save(staged / "tokenizer.json")

    folder = write_alone(run, info, write)
    point(run, BEST, step_name(step))
    return folder
