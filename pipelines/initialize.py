"""Count a model, estimate its memory, and save its first weights (`--mode init_only`); starts no Ray."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from hyena_glt.config import Config, DataConfig, HardwareConfig, ModelConfig, dump_config, only_task, require_built
from hyena_glt.data.manifest import TOKENIZER
from hyena_glt.data.storage import ensure_folder, location, write_bytes
from hyena_glt.errors import ConfigError
from hyena_glt.files import atomic_write
from hyena_glt.model.count import MemoryEstimate, count_parameters, estimate_memory
from hyena_glt.objectives import build_objective
from hyena_glt.tokenizers import Tokenizer, build_tokenizer
from hyena_glt.training.checkpoint import CONFIG_FILE, WEIGHTS_FILE, CheckpointInfo, Progress, newest_whole
from hyena_glt.training.commit import write_alone
from hyena_glt.training.launch import choose_workers
from hyena_glt.training.prepare import initial_model


def save_initial(cfg: Config, *, dry_run: bool) -> dict[str, Any]:
    """Build the model, save it as step 0 of the run folder, and say how large it is and what training it will need.

    Needs no data: the tokenizer is the `tokenization` section's. A later `pretrain` on the same folder starts from these weights.
    """
    require_built(replace(cfg, data=DataConfig()), "pretrain")
    run = location(str(cfg.training.output_dir))
    if newest_whole(run, damaged := []) is not None or damaged:
        raise ConfigError(f"training.output_dir: {run} has checkpoints already; choose a new folder")
    tokenizer = build_tokenizer(cfg.preprocessing.sequence_type, cfg.tokenization)
    cfg = replace(cfg, model=replace(cfg.model, vocab_size=fitting_vocab_size(cfg.model, tokenizer)))
    workers, use_gpu = choose_workers(cfg, num_gpus=torch.cuda.device_count())
    width = cfg.data.sequence_length or cfg.model.max_position_embeddings
    described = describe_model(cfg, tokenizer, world_size=workers, rows=cfg.training.batch_size, width=width, use_gpu=use_gpu)
    if dry_run:
        return {"status": "planned", **described}
    model = initial_model(cfg, vocab_size=tokenizer.vocab_size, causal=build_objective(only_task(cfg.tasks), tokenizer).causal)
    info = CheckpointInfo(progress=Progress(), world_size=0, zero_stage=cfg.hardware.zero_stage, global_rows=None, data_checksum=None)

    def write(folder: Path) -> None:
        safetensors.torch.save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / WEIGHTS_FILE)
        tokenizer.save(folder / TOKENIZER)
        atomic_write(folder / CONFIG_FILE, dump_config(cfg))

    ensure_folder(run)
    write_bytes(run / CONFIG_FILE, dump_config(cfg).encode())
    checkpoint = write_alone(run, info, write)
    return {"status": "initialized", "run": str(run), "checkpoint": str(checkpoint), **described}


def fitting_vocab_size(model: ModelConfig, tokenizer: Tokenizer) -> int:
    """The tokenizer's number of symbols; ConfigError if `model.vocab_size` says another."""
    if model.vocab_size not in (None, tokenizer.vocab_size):
        raise ConfigError(
            f"model.vocab_size: {model.vocab_size} does not fit the data, whose {tokenizer.kind} tokenizer has {tokenizer.vocab_size} "
            f"symbols; set it to {tokenizer.vocab_size} or leave it out"
        )
    return tokenizer.vocab_size


def describe_model(
    cfg: Config, tokenizer: Tokenizer, *, world_size: int, rows: int, width: int, use_gpu: bool
) -> dict[str, Any]:
    """The real parameter count and the estimated memory of a worker in GB, for a micro-batch of rows x width tokens.

    Offloaded parts count as they stand in the host's memory.
    """
    parameters, memory = estimate_worker(cfg, tokenizer, world_size=world_size, rows=rows, width=width, use_gpu=use_gpu)
    parts = ("weights", "gradients", "optimizer", "activations", "total")
    gigabytes = {f"{part}_gb": round(getattr(memory, part) / 1e9, 3) for part in parts}
    return {"parameters": parameters, "memory_per_worker": gigabytes | {"rows": rows, "tokens_per_row": width, "workers": world_size}}


def estimate_worker(
    cfg: Config, tokenizer: Tokenizer, *, world_size: int, rows: int, width: int, use_gpu: bool
) -> tuple[int, MemoryEstimate]:
    """(Parameters, bytes on one worker) for a micro-batch of rows x width tokens."""
    model, hardware = cfg.model, cfg.hardware
    causal = build_objective(only_task(cfg.tasks), tokenizer).causal
    parameters = count_parameters(model, vocab_size=tokenizer.vocab_size, causal=causal)
    return parameters, estimate_memory(
        num_parameters=parameters, width=model.hidden_size, intermediate=model.intermediate_size or 4 * model.hidden_size,
        layers=[model.mixers[i % len(model.mixers)] for i in range(model.num_layers)], num_rows=-(-tokenizer.num_ids // 8) * 8,
        tokens=rows * width, zero_stage=hardware.zero_stage, world_size=world_size,
        compute_bytes=4 if _computes_in_float32(hardware, use_gpu) else 2,
        gradient_checkpointing=hardware.gradient_checkpointing,
    )


def _computes_in_float32(hardware: HardwareConfig, use_gpu: bool) -> bool:
    automatic = hardware.precision == "auto"
    return hardware.precision == "fp32" or (automatic and (not use_gpu or hardware.mixed_precision is False))
