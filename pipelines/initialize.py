"""Count a model, estimate its memory, and save its first weights (`--mode init_only`); starts no Ray."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch

from hyena_glt.config import Config, DataConfig, TaskConfig, active_tasks, dump_config, require_built
from hyena_glt.errors import ConfigError
from hyena_glt.model.count import count_parameters, estimate_memory
from hyena_glt.objectives import build_objective
from hyena_glt.tokenizers import Tokenizer, build_tokenizer
from hyena_glt.training.checkpoint import WEIGHTS_FILE, CheckpointInfo, Progress, atomic_write, clear_staging_folder, commit, newest_whole
from hyena_glt.training.loop import initial_model


def save_initial(cfg: Config) -> dict[str, Any]:
    """Build the model, save it as step 0 of the run folder, and say how large it is and what training it will need.

    Needs no data: the tokenizer is the `tokenization` section's. A later `pretrain` on the same folder starts from these weights.
    """
    require_built(replace(cfg, data=DataConfig()), "pretrain")
    run = Path(str(cfg.training.output_dir))
    if newest_whole(run, []) is not None:
        raise ConfigError(f"training.output_dir: {run} has checkpoints already; choose a new folder")
    tokenizer = build_tokenizer(cfg.preprocessing.sequence_type, cfg.tokenization)
    if cfg.model.vocab_size not in (None, tokenizer.vocab_size):
        raise ConfigError(
            f"model.vocab_size: {cfg.model.vocab_size} does not fit the {tokenizer.kind} tokenizer of the tokenization section, "
            f"which has {tokenizer.vocab_size} symbols; set it to {tokenizer.vocab_size} or leave it out"
        )
    width = cfg.data.sequence_length or cfg.model.max_position_embeddings
    described = describe_model(cfg, tokenizer, world_size=cfg.hardware.num_gpus or 1, rows=cfg.training.batch_size, width=width)
    model = initial_model(cfg, vocab_size=tokenizer.vocab_size, causal=build_objective(only_task(cfg), tokenizer).causal)
    staged = clear_staging_folder(run, 0)
    safetensors.torch.save_file({k: v.contiguous() for k, v in model.state_dict().items()}, staged / WEIGHTS_FILE)
    tokenizer.save(staged / "tokenizer.json")
    saved = replace(cfg, model=replace(cfg.model, vocab_size=tokenizer.vocab_size))
    for folder in (staged, run):
        atomic_write(folder / "config.yaml", dump_config(saved))
    info = CheckpointInfo(progress=Progress(), world_size=0, zero_stage=cfg.hardware.zero_stage, global_rows=None, data_checksum=None)
    return {"status": "initialized", "run": str(run), "checkpoint": str(commit(run, info)), **described}


def only_task(cfg: Config) -> TaskConfig:
    """The section of the one objective that is trained; `require_built` has refused more than one."""
    return next(iter(active_tasks(cfg.tasks).values()))


def describe_model(cfg: Config, tokenizer: Tokenizer, *, world_size: int, rows: int, width: int) -> dict[str, Any]:
    """The real parameter count and the estimated memory of a worker in GB, for a micro-batch of rows x width tokens."""
    model, hardware = cfg.model, cfg.hardware
    causal = build_objective(only_task(cfg), tokenizer).causal
    parameters = count_parameters(model, vocab_size=tokenizer.vocab_size, causal=causal)
    memory = estimate_memory(
        num_parameters=parameters, width=model.hidden_size, intermediate=model.intermediate_size or 4 * model.hidden_size,
        layers=[model.mixers[i % len(model.mixers)] for i in range(model.num_layers)], num_rows=-(-tokenizer.num_ids // 8) * 8,
        tokens=rows * width, zero_stage=hardware.zero_stage, world_size=world_size,
        compute_bytes=4 if hardware.precision == "fp32" or hardware.mixed_precision is False else 2,
        gradient_checkpointing=hardware.gradient_checkpointing,
    )
    parts = ("weights", "gradients", "optimizer", "activations", "total")
    gigabytes = {f"{part}_gb": round(getattr(memory, part) / 1e9, 3) for part in parts}
    return {"parameters": parameters, "memory_per_worker": gigabytes | {"rows": rows, "tokens_per_row": width, "workers": world_size}}
