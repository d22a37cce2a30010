"""Pretrain: check the settings against the data and the run folder, train on Ray, say what came out. Runs on the driver."""

from __future__ import annotations

import json
import logging
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import ray
import torch

from cluster.parcel import code_commit
from cluster.paths import placed, with_default_folders
from hyena_glt import __version__
from hyena_glt.config import (
    Config,
    CurriculumConfig,
    DataConfig,
    changed_settings,
    config_from_dict,
    dump_config,
    only_task,
    require_built,
)
from hyena_glt.data.dataset import Rows
from hyena_glt.data.manifest import TOKENIZER
from hyena_glt.data.mixture import Mixture, as_paths, open_training, open_validation
from hyena_glt.data.storage import Location, absolute, ensure_folder, is_folder, location, names_in, size, write_bytes
from hyena_glt.errors import CheckpointError, ClusterError, ConfigError
from hyena_glt.inference.load import require_same_tokenizer
from hyena_glt.model import build_model
from hyena_glt.model.weights import check_weights
from hyena_glt.objectives import build_objective
from hyena_glt.tokenizers import load_tokenizer
from hyena_glt.training.checkpoint import (
    CHECKPOINTS,
    CONFIG_FILE,
    ENVIRONMENT_FILE,
    LATEST,
    WEIGHTS_FILE,
    CheckpointInfo,
    Progress,
    newest_whole,
    none_whole,
    read_config,
    read_info,
    resolve_checkpoint,
)
from hyena_glt.training.copies import fetched
from hyena_glt.training.feed import Course
from hyena_glt.training.guard import is_impatient
from hyena_glt.training.launch import choose_workers, require_own_gpus, train_on_ray
from hyena_glt.training.metrics import METRICS_FILE, last_reports
from hyena_glt.training.orders import Orders
from hyena_glt.training.plan import Plan, plan_run, sizes_in_range, states
from hyena_glt.training.precision import choose_precision
from hyena_glt.training.progress import progress_bar
from hyena_glt.training.worker import INTERRUPTED

from ._command import run_as
from ._plan import PROBE_STEPS, announce_timeline, estimate
from ._ray import is_local, start_ray
from .initialize import describe_model, estimate_worker, fitting_vocab_size, save_initial

FREE_SECTIONS = ("preprocessing", "tokenization", "output", "hardware", "cluster", "logging", "tune")
"""Sections that may change when a run goes on; the first three have done their work."""
FREE_SETTINGS = (
    "training.num_epochs", "training.max_steps", "training.max_tokens", "training.early_stopping_patience", "training.eval_max_rows",
    "training.init_from", "training.output_dir", "training.batch_size", "training.gradient_accumulation_steps",
    "training.on_bad_step", "training.spike_factor", "model.vocab_size",
)
COSTS = ("cpu_hours", "gpu_hours", "tokens_per_cpu_hour", "tokens_per_gpu_hour")

log = logging.getLogger(__name__)


def pretrain(
    cfg: Config, *, init_only: bool = False, dry_run: bool = False, probe_steps: int | None = None, orders: Orders | None = None
) -> dict[str, Any]:
    """Train a model as `cfg` says, going on where an earlier start of the same run ended. `orders` lets a sweep hold or stop it.

    `dry_run` says instead what would happen, and by `probe_steps` real steps (default: 20; 0: none) how long it would take.

    Returns the result that the command line prints: status, run, steps, tokens, losses, checkpoint, hours.
    Raises ConfigError, DataError, CheckpointError or ClusterError, before anything starts where that is possible.
    """
    cfg = placed(cfg, "pretrain")
    if init_only:
        return save_initial(with_run_folder(cfg), dry_run=dry_run)
    require_built(cfg, "pretrain")
    cfg, mixture = resolve(cfg)
    run = location(str(cfg.training.output_dir))
    info = earlier_start(cfg, run, mixture.checksum())
    with start_ray(cfg.cluster.address, cfg.cluster.num_cpus):
        workers, use_gpu = workers_on_cluster(cfg)
        _check_world_size(cfg, info, workers)
        moves, global_rows = (info.progress.moves, info.global_rows) if info else ({}, None)
        plan = plan_run(cfg, mixture, world_size=workers, global_rows=global_rows, moves=moves)
        sizes = sizes_in_range(cfg, plan)
        if not use_gpu:
            choose_precision(cfg.hardware, "cpu")
        domains = planned_domains(cfg, plan, mixture)
        _announce(cfg, plan, run, use_gpu, info, domains)
        if dry_run:
            planned = _dry_result(cfg, plan, mixture, use_gpu) | {"domains": domains}
            steps = PROBE_STEPS if probe_steps is None else probe_steps
            return planned | (estimate(cfg, plan, sizes=sizes, use_gpu=use_gpu, steps=steps) if steps else {})
        if info and _has_ended(info.progress, plan):
            log.warning("this run has ended already; its result follows. A longer run or more patience goes on")
            return run_result(run)
        _claim(cfg, run, mixture)
        with progress_bar(run, total_steps=plan.total_steps):
            train_on_ray(
                cfg, run, sizes=sizes, use_gpu=use_gpu, bytes_needed=_bytes_needed(cfg, plan, mixture, use_gpu), orders=orders,
            )
    return run_result(run)


def with_run_folder(cfg: Config) -> Config:
    """`training.output_dir` as an absolute path or a URL."""
    folder = str(absolute(str(with_default_folders(cfg).training.output_dir)))
    return replace(cfg, training=replace(cfg.training, output_dir=folder))


def resolve(cfg: Config) -> tuple[Config, Mixture]:
    """Fill in what depends on the data, with absolute paths, and check that data and model fit each other."""
    if cfg.data.train_path is None:
        raise ConfigError("data.train_path: needed to train; give the folder that `hyena-glt preprocess` wrote")
    cfg = with_run_folder(cfg)
    if cfg.logging.use_wandb and find_spec("wandb") is None:
        raise ConfigError("logging.use_wandb: wandb is not installed; pip install 'hyena-glt[wandb]', or set it to false")
    cfg = replace(cfg, data=_with_absolute_paths(cfg.data))
    mixture = open_training(cfg.data)
    if not cfg.data.val_path:
        beside = tuple(str(rows.folder) for rows in mixture.rows if "val" in rows.manifest.splits)
        cfg = replace(cfg, data=replace(cfg.data, val_path=beside if len(beside) > 1 else next(iter(beside), None)))
    validation = open_validation(cfg.data)
    if (waiting := _waits_for_validation(cfg)) and not validation:
        raise ConfigError(f"{waiting}: there is no validation split to watch; preprocess with one, or name data.val_path")
    for rows in validation.values():
        require_same_tokenizer(mixture.tokenizer, rows.tokenizer, str(rows.folder))
    for rows in (*validation.values(), *mixture.rows):
        _check_lengths(cfg, rows)
    _check_curriculum(cfg, mixture)
    model = replace(cfg.model, vocab_size=fitting_vocab_size(cfg.model, mixture.tokenizer))
    cfg = replace(_with_the_datas_settings(cfg, mixture.rows[0]), model=model)
    if init_from := cfg.training.init_from:
        cfg = replace(cfg, training=replace(cfg.training, init_from=str(absolute(init_from))))
        _check_start(cfg, resolve_checkpoint(init_from), mixture)
    return cfg, mixture


def _waits_for_validation(cfg: Config) -> str | None:
    """The first setting that waits for the validation loss, if any does."""
    if cfg.training.early_stopping_patience:
        return "training.early_stopping_patience"
    if any(stage.early_stopping_patience for stage in cfg.training.stages):
        return "training.stages"
    given = cfg.curriculum.given() if cfg.curriculum else {}
    return next((f"curriculum.{name}.by" for name, curriculum in given.items() if curriculum.by == "plateau"), None)


def _with_absolute_paths(data: DataConfig) -> DataConfig:
    paths = {name: getattr(data, name) for name in ("train_path", "val_path", "eval_data")}
    return replace(data, **{
        name: tuple(str(absolute(one)) for one in path) if isinstance(path, tuple) else path and str(absolute(path))
        for name, path in paths.items()
    })


def _with_the_datas_settings(cfg: Config, rows: Rows) -> Config:
    """The sections that made the data say what they are; other values given here come too late and are named.

    Of a mixture, whose datasets have the tokenizer in common and little else, the first stands for all.
    """
    made = config_from_dict({name: rows.manifest.config[name] for name in ("preprocessing", "tokenization")})
    given = replace(Config(), preprocessing=cfg.preprocessing, tokenization=cfg.tokenization)
    too_late = set(changed_settings(given, Config())) & set(changed_settings(given, made))
    if too_late:
        log.warning("note: the data were made with other values of %s; those count", ", ".join(sorted(too_late)))
    return replace(cfg, preprocessing=made.preprocessing, tokenization=made.tokenization)


def _check_start(cfg: Config, start: Location, mixture: Mixture) -> None:
    """Refuse to start from weights of another tokenizer or architecture."""
    tokenizer = mixture.tokenizer
    causal = build_objective(only_task(cfg.tasks), tokenizer).causal
    with torch.device("meta"):
        model = build_model(cfg.model, vocab_size=tokenizer.vocab_size, causal=causal)
    with fetched(start, TOKENIZER, WEIGHTS_FILE) as folder:
        require_same_tokenizer(load_tokenizer(folder / TOKENIZER), tokenizer, str(mixture.rows[0].folder))
        check_weights(model, folder / WEIGHTS_FILE)


def _check_lengths(cfg: Config, rows: Rows) -> None:
    if rows.width > cfg.model.max_position_embeddings:
        raise ConfigError(
            f"data.sequence_length: rows of {rows.width:,} tokens are longer than model.max_position_embeddings "
            f"({cfg.model.max_position_embeddings:,}); raise that, or set data.sequence_length to at most "
            f"{cfg.model.max_position_embeddings - 2 * rows.tokenizer.add_special_tokens:,}"
        )


def _check_curriculum(cfg: Config, mixture: Mixture) -> None:
    curriculum = cfg.curriculum or CurriculumConfig()
    if curriculum.sequence_length and max(curriculum.sequence_length.values) > mixture.piece_length:
        raise ConfigError(
            f"curriculum.sequence_length.values: {max(curriculum.sequence_length.values):,} is longer than the data's rows of "
            f"{mixture.piece_length:,} tokens, which are cut and never joined; preprocess with a longer preprocessing.max_length"
        )
    unweighted = [str(rows.folder) for rows in mixture.rows if not rows.weighted]
    if curriculum.difficulty and curriculum.difficulty.measure == "repeats" and unweighted:
        raise ConfigError(
            f"curriculum.difficulty.measure: {unweighted[0]} has no weights that tell repeats; preprocess with soft_masked: weight"
        )


def earlier_start(cfg: Config, run: Location, data_checksum: str) -> CheckpointInfo | None:
    """What an earlier start of this run left, or None; refuses a folder of another run and changed settings or data."""
    if size(run / CONFIG_FILE) is None:
        if is_folder(run) and names_in(run):
            raise ConfigError(f"training.output_dir: {run} holds other files and no config.yaml of a run; choose an empty or new folder")
        return None
    folder = newest_whole(run, passed_over := [])
    if passed_over and folder is None:
        raise none_whole(run, passed_over)
    if folder is None:  # nothing was trained here yet, so nothing can be mixed up
        return None
    info = read_info(folder)
    weighty = ("model", "tasks") if not info.has_optimizer else None
    changed = [key for key in changed_settings(read_config(run), cfg) if not _is_free(key)]
    changed = [key for key in changed if weighty is None or key.split(".")[0] in weighty]
    if changed:
        raise ConfigError(
            f"training.output_dir: {run} is the folder of another run; these settings differ from its config.yaml: {', '.join(changed)}. "
            f"Take them back to go on with it, or choose a new folder"
        )
    if info.data_checksum not in (None, data_checksum):
        where = " and ".join(as_paths(cfg.data.train_path))
        raise CheckpointError(f"{run} was trained on other data than what {where} now holds; choose a new training.output_dir")
    if info.has_optimizer and info.zero_stage != cfg.hardware.zero_stage:
        raise ConfigError(f"hardware.zero_stage: {run} was started with {info.zero_stage}, and a run keeps its stage; set it back")
    return info


def _check_world_size(cfg: Config, info: CheckpointInfo | None, workers: int) -> None:
    """ConfigError where the same workers would take another global batch, and where the optimizer's shards cannot be divided anew."""
    training, optimizer = cfg.training, cfg.training.optimizer
    asked = workers * training.batch_size * training.gradient_accumulation_steps
    if info and info.world_size == workers and info.global_rows not in (None, asked):
        raise ConfigError(
            f"training.batch_size: a run keeps its global batch, here {info.global_rows} rows, and {workers} workers x batch_size "
            f"{training.batch_size} x gradient_accumulation_steps {training.gradient_accumulation_steps} are {asked}; make them equal"
        )
    if info and info.has_optimizer and info.world_size != workers and optimizer != "adamw" and info.zero_stage > 0:
        raise ConfigError(
            f"cluster.train_workers: this run's checkpoint was written by {info.world_size} workers, and {workers} are asked for; "
            f"DeepSpeed can divide the state of adamw anew, not that of {optimizer}. Give it {info.world_size} workers again"
        )


def _is_free(key: str) -> bool:
    return key.split(".")[0] in FREE_SECTIONS or key in FREE_SETTINGS


def _has_ended(progress: Progress, plan: Plan) -> bool:
    last = plan.timeline.stages[-1]
    impatient = progress.step > last.first_step and is_impatient(progress, last.early_stopping_patience)
    return progress.step >= plan.total_steps or impatient


def _bytes_needed(cfg: Config, plan: Plan, mixture: Mixture, use_gpu: bool) -> Callable[[int], int]:
    """Estimated bytes on a worker for a micro-batch of so many rows."""
    def bytes_of(rows: int) -> int:
        _, memory = estimate_worker(
            cfg, mixture.tokenizer, world_size=plan.world_size, rows=rows, width=plan.width, use_gpu=use_gpu
        )
        return memory.total

    return bytes_of


def workers_on_cluster(cfg: Config) -> tuple[int, bool]:
    """Number of workers and whether they use GPUs; ClusterError if they do not fit a local Ray. A cluster may grow, and is waited for."""
    num_gpus = int(ray.cluster_resources().get("GPU", 0))
    workers, use_gpu = choose_workers(cfg, num_gpus=num_gpus)
    require_own_gpus(cfg, workers=workers, use_gpu=use_gpu)
    if is_local(cfg.cluster.address):
        _require_room(cfg, _least_workers(cfg, workers), use_gpu, num_gpus)
    elif not use_gpu and cfg.hardware.num_gpus is None:
        log.warning("this cluster has no GPU now, so CPUs train; to wait for GPUs, say how many by hardware.num_gpus")
    return workers, use_gpu


def _least_workers(cfg: Config, workers: int) -> int:
    """Of its `workers`, those that a run cannot do without."""
    return cfg.cluster.train_workers[0] if isinstance(cfg.cluster.train_workers, tuple) else workers


def _require_room(cfg: Config, workers: int, use_gpu: bool, num_gpus: int) -> None:
    if use_gpu and workers * cfg.cluster.gpus_per_worker > num_gpus:
        raise ClusterError(f"{workers} GPUs are asked for (hardware.num_gpus, cluster.train_workers), and this cluster has {num_gpus}")
    cpus = int(ray.cluster_resources().get("CPU", 0))
    if workers * cfg.cluster.cpus_per_worker > cpus:
        raise ClusterError(
            f"{workers} workers of {cfg.cluster.cpus_per_worker} CPUs (cluster.train_workers, cluster.cpus_per_worker) do not fit this "
            f"cluster's {cpus} CPUs; ask for less, or tell a local Ray that it has more by cluster.num_cpus"
        )


def planned_domains(cfg: Config, plan: Plan, mixture: Mixture) -> dict[str, dict[str, float]]:
    """Of each domain: share of the rows drawn, the rows that it has, and how often the whole run goes through them."""
    drawn = Course(plan, mixture, cfg.data, cfg.training.seed).rows_drawn(plan.total_steps)
    return {
        name: {"share": number / sum(drawn), "rows": rows.num_rows, "epochs": number / rows.num_rows}
        for (name, rows), number in zip(mixture.domains.items(), drawn, strict=True)
    }


def _announce(
    cfg: Config, plan: Plan, run: Location, use_gpu: bool, info: CheckpointInfo | None, domains: dict[str, dict[str, float]]
) -> None:
    device = "GPU" if use_gpu else "CPU"
    log.info("%s: %s steps of %s rows (%s tokens) on %d %s worker%s, %.2f epochs", run, f"{plan.total_steps:,}", plan.global_rows,
             f"{plan.tokens_per_step:,}", plan.world_size, device, "s" * (plan.world_size > 1), plan.epoch(plan.total_steps))
    for name, domain in domains.items() if len(domains) > 1 else ():
        log.info("%s: %.1f %% of the rows drawn, %.2f epochs of it", name, 100 * domain["share"], domain["epochs"])
    announce_timeline(plan)
    if info:
        log.info("going on from step %s", f"{info.progress.step:,}")
    for note in (*plan.notes, *_hints_without_effect(cfg, use_gpu)):
        log.warning("note: %s", note)


def _hints_without_effect(cfg: Config, use_gpu: bool) -> list[str]:
    """One notice for the settings that only help hardware that is not here."""
    if use_gpu:
        return []
    hardware = cfg.hardware
    hints = {
        "hardware.offload_optimizer": hardware.offload_optimizer, "hardware.offload_parameters": hardware.offload_parameters,
        "hardware.pin_memory": cfg.hardware.pin_memory, "hardware.distributed_backend: nccl": cfg.hardware.distributed_backend == "nccl",
        "hardware.compile_model": cfg.hardware.compile_model,
    }
    given = [name for name, on in hints.items() if on]
    return [f"without a GPU these have no effect: {', '.join(given)}"] if given else []


def _claim(cfg: Config, run: Location, mixture: Mixture) -> None:
    """Make the run folder this run's."""
    ensure_folder(run / CHECKPOINTS)
    write_bytes(run / CONFIG_FILE, dump_config(cfg).encode())
    write_bytes(run / ENVIRONMENT_FILE, (json.dumps(environment(mixture), indent=1) + "\n").encode())


def environment(mixture: Mixture) -> dict[str, Any]:
    """What one would need to repeat the run: command, code, versions, machine, input checksums."""
    return {
        "command": sys.argv, "commit": code_commit(), "python": platform.python_version(), "platform": platform.platform(),
        "versions": {"hyena-glt": __version__} | {name: version(name) for name in ("torch", "ray", "deepspeed", "numpy", "pyarrow")},
        "devices": {name: count for name, count in sorted(ray.cluster_resources().items()) if name.startswith(("CPU", "GPU", "accel"))},
        "cpu": _cpu_name(), "data": [{"folder": str(rows.folder), "checksum": rows.manifest.checksum} for rows in mixture.rows],
        "inputs": [
            {"path": item.path, "size": item.size, "sha256": item.sha256} for rows in mixture.rows for item in rows.manifest.inputs
        ],
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")] or [platform.processor()]
    return f"{names[0]} x {os.cpu_count()}"


def _dry_result(cfg: Config, plan: Plan, mixture: Mixture, use_gpu: bool) -> dict[str, Any]:
    print(dump_config(cfg), file=sys.stderr)
    described = describe_model(
        cfg, mixture.tokenizer, world_size=plan.world_size, rows=cfg.training.batch_size, width=plan.width, use_gpu=use_gpu
    )
    return {
        "status": "planned", "steps": plan.total_steps, "tokens_per_step": plan.tokens_per_step, "workers": plan.world_size, "gpu": use_gpu,
        "accumulation_steps": plan.accumulation_steps, "epochs": plan.epoch(plan.total_steps), "padding_share": mixture.padding_share,
        "timeline": states(plan), "shards": sum(len(rows.shards) for rows in mixture.rows), "notes": list(plan.notes), **described,
    }


def run_result(run: Location) -> dict[str, Any]:
    """The result of a run, read back from its folder; the same for a run that has just ended and one that ended long ago."""
    folder = resolve_checkpoint(run / CHECKPOINTS / LATEST)
    progress = read_info(folder).progress
    reports = last_reports(run / METRICS_FILE)
    start, train, end = (reports.get(kind, {}) for kind in ("start", "train", "end"))
    return {
        "status": INTERRUPTED if progress.stopped_by == INTERRUPTED else "finished", "run": str(run), "checkpoint": str(folder),
        "stopped_by": progress.stopped_by, "parameters": start.get("parameters"), "steps": progress.step, "tokens": progress.tokens,
        "train_loss": train.get("loss"), "train_bits_per_base": train.get("bits_per_base"),
        "val_loss": reports.get("eval", {}).get("loss"), "val_bits_per_base": reports.get("eval", {}).get("bits_per_base"),
        "best_val_loss": progress.best_loss, "best_step": progress.best_step,
    } | {kind: end[kind] for kind in COSTS if kind in end}


if __name__ == "__main__":
    run_as("pretrain")
