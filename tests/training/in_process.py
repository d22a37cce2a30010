"""Training in this process: the loop without Ray, one worker, real DeepSpeed."""

from __future__ import annotations

from pathlib import Path

import torch

from hyena_glt.config import load_config
from hyena_glt.data.storage import Location, ensure_folder, write_bytes
from hyena_glt.training.checkpoint import Progress
from hyena_glt.training.loop import train
from hyena_glt.training.metrics import METRICS_FILE, read_reports
from hyena_glt.training.orders import OWNER_FILE
from hyena_glt.training.worker import Worker

SETTINGS = (
    "model.hidden_size=16", "model.num_layers=2", "model.mixers=[se,li]", "model.max_position_embeddings=64", "model.vocab_size=4",
    "model.num_attention_heads=2", "training.max_steps=6", "training.batch_size=4", "training.learning_rate=1e-2",
    "training.eval_max_rows=8",
    "logging.log_interval=1", "logging.eval_interval=3", "logging.save_interval=3", "logging.use_tensorboard=false",
    "hardware.precision=fp32", "hardware.zero_stage=1",
)
"""Of a tiny model's run."""


def run(data: Path, folder: Location, *settings: str, order: str = "") -> Progress:
    """Train a tiny model in this process, under an order of its driver."""
    given = [*SETTINGS, f"data.train_path={data}", f"data.val_path={data}", *settings]
    latest = {setting.split("=")[0]: setting for setting in given}
    if not any(name.startswith("tasks.") for name in latest):
        latest["tasks"] = "tasks.causal_lm.weight=1"
    ensure_folder(folder / "checkpoints")
    write_bytes(folder / OWNER_FILE, f"test {order}".strip().encode())
    return train(load_config(None, list(latest.values())), Worker(0, 1, torch.device("cpu"), folder, "test"))


def losses(folder: Location, kind: str = "train") -> list[float]:
    return [report["loss"] for report in read_reports(folder / METRICS_FILE) if report["kind"] == kind]
