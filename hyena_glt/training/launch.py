"""Start a run on Ray Train, watch it, restart it after lost workers; runs on the driver."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.exceptions import RayError
from ray.train.torch import TorchConfig, TorchTrainer

from ..config import Config, config_from_dict, config_to_dict
from ..errors import ClusterError, ConfigError, HyenaError
from .loop import train
from .orders import Orders
from .probe import Timing, probe, read_timing
from .worker import ray_worker

RAY_FOLDER = ".ray"
"""Ray Train's own bookkeeping inside the run folder; checkpoints are ours, so nothing in it is needed to go on."""

MISTAKES = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NotImplementedError, TypeError, ValueError,
)
"""What a worker raises for a mistake in code or settings, which a restart would meet again."""

log = logging.getLogger(__name__)


def choose_workers(cfg: Config, *, num_gpus: int) -> tuple[int, bool]:
    """(Number of workers, whether each has a GPU) on a cluster with `num_gpus` GPUs."""
    wanted = cfg.hardware.num_gpus if cfg.hardware.num_gpus is not None else num_gpus
    workers = cfg.cluster.train_workers
    if isinstance(workers, tuple):
        workers = min(max(wanted, workers[0]), workers[1])
    return workers or max(1, wanted), wanted > 0


def require_own_gpus(cfg: Config, *, workers: int, use_gpu: bool) -> None:
    """ConfigError where two workers of one run could get the same GPU and talk by nccl, which refuses that."""
    share = cfg.cluster.gpus_per_worker
    if use_gpu and workers > 1 and share <= 0.5 and cfg.hardware.distributed_backend != "gloo":
        raise ConfigError(
            f"cluster.gpus_per_worker: with {share:g} several of a run's {workers} workers may get one GPU, over which nccl cannot sum; "
            f"let a run have one worker (hardware.num_gpus: 1), or set hardware.distributed_backend to gloo"
        )


def train_on_ray(
    cfg: Config, run: Path, *, workers: int, use_gpu: bool, bytes_needed: Callable[[int], int], orders: Orders | None = None
) -> None:
    """Train until the run has ended; ClusterError if workers fail more often than `cluster.max_failures`.

    Restarts are made here and not by Ray Train, because bad data or a bad setting would fail the same way each time. Where a worker runs
    out of memory the next start has smaller micro-batches and more of them; `bytes_needed` estimates what `batch_size` rows take.
    `orders` lets another thread hold or stop the run.
    """
    orders, attempt = orders or Orders(run), 0
    while True:
        try:
            _fit_once(cfg, run, orders, workers=workers, use_gpu=use_gpu)
            return
        except ray.train.WorkerGroupError as error:
            _raise_if_ours(error)
            reason = _first_reason(error)
            if any(map(_is_out_of_memory, _causes(error))):
                cfg = _with_smaller_batches(cfg, bytes_needed, reason)
                continue
            if not _may_pass(error):
                raise ClusterError(f"training stopped on an error that a restart would meet again: {reason}") from error
            if attempt == cfg.cluster.max_failures:
                raise ClusterError(
                    f"training failed {attempt + 1} times, last by: {reason}. The same command goes on from the last checkpoint in {run}"
                ) from error
            attempt += 1
            log.warning("a worker was lost (%s); going on from the last checkpoint, restart %d of %d",
                        reason, attempt, cfg.cluster.max_failures)
        except ray.train.ControllerError as error:
            _raise_if_ours(error)
            raise ClusterError(f"Ray Train could not run the job: {error.controller_failure}") from error


def smaller_batch(batch_size: int, bytes_needed: Callable[[int], int]) -> int | None:
    """The largest divisor of a batch that did not fit whose estimate is at most three quarters of its; else the next smaller divisor.

    None for a single row, which cannot be divided.
    """
    divisors = [size for size in range(batch_size - 1, 0, -1) if batch_size % size == 0]
    fitting = [size for size in divisors if bytes_needed(size) <= 0.75 * bytes_needed(batch_size)]
    return next(iter(fitting or divisors), None)


def _with_smaller_batches(cfg: Config, bytes_needed: Callable[[int], int], reason: str) -> Config:
    """The same global batch in smaller micro-batches; ClusterError where a single row does not fit."""
    training = cfg.training
    size = smaller_batch(training.batch_size, bytes_needed)
    if size is None:
        raise ClusterError(
            f"a single row does not fit into the memory of a worker ({reason}). Set hardware.gradient_checkpointing, shorten "
            f"data.sequence_length, raise hardware.zero_stage, or choose a smaller model"
        )
    steps = training.gradient_accumulation_steps * training.batch_size // size
    log.warning(
        "out of memory with %d rows a micro-step (%s); going on from the last checkpoint with training.batch_size=%d "
        "training.gradient_accumulation_steps=%d: the same global batch, an estimated %.2f GB instead of %.2f",
        training.batch_size, reason, size, steps, bytes_needed(size) / 1e9, bytes_needed(training.batch_size) / 1e9,
    )
    return replace(cfg, training=replace(training, batch_size=size, gradient_accumulation_steps=steps))


def probe_on_ray(cfg: Config, run: Path, *, workers: int, use_gpu: bool, steps: int) -> Timing:
    """Time `steps` steps in a folder that holds no run; ClusterError where the workers fail."""
    try:
        _fit_once(cfg, run, Orders(run), workers=workers, use_gpu=use_gpu, probe_steps=steps)
    except ray.train.WorkerGroupError as error:
        _raise_if_ours(error)
        raise ClusterError(f"the probe of {steps} steps failed: {_first_reason(error)}") from error
    return read_timing(run)


def _fit_once(cfg: Config, run: Path, orders: Orders, *, workers: int, use_gpu: bool, probe_steps: int | None = None) -> None:
    storage, token = run / RAY_FOLDER, orders.start()
    trainer = TorchTrainer(
        _train_on_worker,
        train_loop_config={"config": config_to_dict(cfg), "run": str(run), "token": token, "probe_steps": probe_steps},
        torch_config=TorchConfig(backend=_backend(cfg, use_gpu)),
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers, use_gpu=use_gpu,
            resources_per_worker={"CPU": cfg.cluster.cpus_per_worker} | ({"GPU": cfg.cluster.gpus_per_worker} if use_gpu else {}),
        ),
        run_config=ray.train.RunConfig(
            name=token, storage_path=str(storage),
            failure_config=ray.train.FailureConfig(max_failures=0),
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
            worker_runtime_env={"env_vars": _worker_environment(cfg, use_gpu)},
        ),
    )
    try:
        with stop_on_interrupt(orders.stop):
            in_thread(trainer.fit)
    finally:
        shutil.rmtree(storage, ignore_errors=True)


def _backend(cfg: Config, use_gpu: bool) -> str:
    """gloo for sums on the host, nccl between GPUs."""
    wanted = cfg.hardware.distributed_backend
    return "cpu:gloo,cuda:nccl" if use_gpu and wanted in ("auto", "nccl") else "gloo"


def _worker_environment(cfg: Config, use_gpu: bool) -> dict[str, str]:
    """What must be set before a worker imports torch and DeepSpeed."""
    threads = str(cfg.cluster.cpus_per_worker)
    environment = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1"}
    return environment | ({} if use_gpu else {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""})


def _train_on_worker(settings: dict[str, Any]) -> None:
    """What each worker runs; only plain values cross the wire."""
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    cfg, worker = config_from_dict(settings["config"]), ray_worker(settings["run"], settings["token"])
    if settings["probe_steps"]:
        probe(cfg, worker, settings["probe_steps"])
    else:
        train(cfg, worker)


def in_thread(function: Callable[[], object]) -> None:
    """Run `function` beside the main thread, which stays free for signals and does not hand them to Ray Train."""
    outcome: list[BaseException] = []

    def call() -> None:
        try:
            function()
        except BaseException as error:  # raised again below, in the thread that waits
            outcome.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(timeout=0.2)
    if outcome:
        raise outcome[0]


@contextmanager
def stop_on_interrupt(stop: Callable[[], None]) -> Iterator[None]:
    """The first SIGINT or SIGTERM asks the workers, by `stop`, to save and end; a second one acts as usual."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(signum: int, _frame: object) -> None:
        log.warning("interrupted: saving a checkpoint, then ending; once more to end at once")
        stop()
        signal.signal(signum, previous[signum])

    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The exception and all that led to it, those of single workers included."""
    seen: set[int] = set()
    queue: list[BaseException | None] = [error]
    while queue:
        current = queue.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        queue += [current.__cause__, getattr(current, "cause", None), getattr(current, "controller_failure", None)]
        queue += list((getattr(current, "worker_failures", None) or {}).values())


def _raise_if_ours(error: BaseException) -> None:
    """Raise the HyenaError inside, if there is one: it is a sentence for the user, and a retry would not help."""
    for cause in _causes(error):
        if isinstance(cause, HyenaError):
            raise cause from None


def _may_pass(error: ray.train.WorkerGroupError) -> bool:
    """Whether a restart may help.

    Ray, torch and the network report a lost process, node, device or connection by many classes, so the failures that stay are named
    instead: mistakes in code.
    """
    return not any(_stays(cause) for cause in _causes(error))


def _stays(failure: BaseException) -> bool:
    return isinstance(failure, MISTAKES) and not isinstance(failure, RayError)


def _is_out_of_memory(failure: BaseException) -> bool:
    """On a GPU, or on a CPU where the allocator is refused memory; the kernel's killer shows as a lost worker instead."""
    return type(failure).__name__ == "OutOfMemoryError" or isinstance(failure, MemoryError) or "not enough memory" in str(failure)


def _first_reason(error: ray.train.WorkerGroupError) -> str:
    rank, failure = next(iter(error.worker_failures.items()))
    text = str(failure).strip().splitlines()
    return f"worker {rank}: {type(failure).__name__}: {text[0] if text else ''}"


