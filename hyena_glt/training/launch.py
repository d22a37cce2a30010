"""Start a run on Ray Train, watch it, restart it after lost workers; runs on the driver."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from typing import Any, TypeVar

import ray
import ray.train
from ray.exceptions import RayError
from ray.train.torch import TorchConfig, TorchTrainer

from ..config import Config, config_from_dict, config_to_dict
from ..data.storage import Location, remove_folder
from ..errors import ClusterError, ConfigError, HyenaError, StorageError
from .checkpoint import newest_step
from .failures import is_out_of_memory, may_pass, raise_ours, reason
from .gang import Gang, asked_for, await_gang, largest_with_room
from .loop import train
from .orders import Orders
from .probe import Timing, probe, read_timing
from .worker import GROWING, WITHDRAWN, ray_worker

RAY_FOLDER = ".ray"
"""Ray Train's own bookkeeping inside the run folder; checkpoints are ours, so nothing in it is needed to go on."""

GANG_SETTINGS = "cluster.train_workers, cluster.cpus_per_worker, hardware.num_gpus"
"""What a run that finds no room may ask less by."""

CONTROLLER_ENVIRONMENT = {
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",  # seconds of a notice are steps
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",  # a new node may still be loading its image
}
"""What Ray Train's controller reads; a value that the user has set stays."""

GOES_ON = {
    WITHDRAWN: "a node is being withdrawn; its workers have saved, and the run goes on elsewhere",
    GROWING: "there is room for more workers; these have saved, and the run goes on with more",
}
"""Why a start ended that another one follows at once, and what is said then."""

INSIST_S = 1.0
"""Between two attempts to write an order."""

T = TypeVar("T")

log = logging.getLogger(__name__)


def choose_workers(cfg: Config, *, num_gpus: int) -> tuple[int, bool]:
    """(Number of workers, of a range the most; whether each has a GPU) on a cluster with `num_gpus` GPUs."""
    wanted = cfg.hardware.num_gpus if cfg.hardware.num_gpus is not None else num_gpus
    workers = cfg.cluster.train_workers
    return (workers[1] if isinstance(workers, tuple) else workers) or max(1, wanted), wanted > 0


def require_own_gpus(cfg: Config, *, workers: int, use_gpu: bool) -> None:
    """ConfigError where two workers of one run could get the same GPU and talk by nccl, which refuses that."""
    share = cfg.cluster.gpus_per_worker
    if use_gpu and workers > 1 and share <= 0.5 and cfg.hardware.distributed_backend != "gloo":
        raise ConfigError(
            f"cluster.gpus_per_worker: with {share:g} several of a run's {workers} workers may get one GPU, over which nccl cannot sum; "
            f"let a run have one worker (hardware.num_gpus: 1), or set hardware.distributed_backend to gloo"
        )


def train_on_ray(
    cfg: Config, run: Location, *, sizes: Sequence[int], use_gpu: bool, bytes_needed: Callable[[int], int], orders: Orders | None = None
) -> None:
    """Train until the run has ended; ClusterError where `cluster.max_failures` restarts brought no new checkpoint.

    Restarts are made here and not by Ray Train, because bad data or a bad setting would fail the same way each time. Where a worker runs
    out of memory the next start has smaller micro-batches and more of them; `bytes_needed` estimates what `batch_size` rows take. Where
    a node is withdrawn, or more workers have room, they have saved and left, and the next start takes what room there is: `sizes` are the
    numbers of workers that it may have, largest first. `orders` lets another thread hold or stop the run.
    """
    orders, failures = orders or Orders(run), 0
    saved = newest_step(run)
    while True:
        try:
            ended = _fit_once(cfg, run, orders, sizes=sizes, use_gpu=use_gpu)
            if ended not in GOES_ON:
                return
            log.warning(GOES_ON[ended])
            continue
        except ray.train.TrainingFailedError as error:
            raise_ours(error)
            if is_out_of_memory(error):
                cfg = _with_smaller_batches(cfg, bytes_needed, reason(error))
                continue
            if not may_pass(error):
                raise ClusterError(f"training stopped on an error that a restart would meet again: {reason(error)}") from error
            before, saved = saved, newest_step(run)
            failures = 1 if saved != before else failures + 1
            if failures > cfg.cluster.max_failures:
                raise ClusterError(
                    f"training failed {failures} times without a checkpoint between, last by: {reason(error)}. The same command goes on "
                    f"from the last checkpoint in {run}"
                ) from error
            log.warning("a worker was lost (%s); going on from the last checkpoint, restart %d of %d until the next one",
                        reason(error), failures, cfg.cluster.max_failures)


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


def probe_on_ray(cfg: Config, run: Location, *, sizes: Sequence[int], use_gpu: bool, steps: int) -> Timing:
    """Time `steps` steps in a folder that holds no run; ClusterError where the workers fail."""
    try:
        _fit_once(cfg, run, Orders(run), sizes=sizes, use_gpu=use_gpu, probe_steps=steps)
    except ray.train.TrainingFailedError as error:
        raise_ours(error)
        raise ClusterError(f"the probe of {steps} steps failed: {reason(error)}") from error
    return read_timing(run)


def _fit_once(
    cfg: Config, run: Location, orders: Orders, *, sizes: Sequence[int], use_gpu: bool, probe_steps: int | None = None
) -> str | None:
    """One start of the run; returns why it ended."""
    resources = {"CPU": float(cfg.cluster.cpus_per_worker)} | ({"GPU": cfg.cluster.gpus_per_worker} if use_gpu else {})
    workers = largest_with_room(sizes, resources, ray.cluster_resources())
    await_gang(Gang(workers, resources, GANG_SETTINGS), timeout_s=cfg.cluster.start_timeout_s)
    storage, token = run / RAY_FOLDER, orders.start(retry_s=cfg.logging.save_retry_s)
    trainer = TorchTrainer(
        _train_on_worker,
        train_loop_config={"config": config_to_dict(cfg), "run": str(run), "token": token, "probe_steps": probe_steps},
        torch_config=TorchConfig(backend=_backend(cfg, use_gpu), timeout_s=cfg.cluster.collective_timeout_s),
        scaling_config=ray.train.ScalingConfig(num_workers=workers, use_gpu=use_gpu, resources_per_worker=resources),
        run_config=ray.train.RunConfig(
            name=token, storage_path=str(storage),
            # Every failure comes back to `train_on_ray`; by default Ray Train would start again by itself after some, unseen.
            failure_config=ray.train.FailureConfig(max_failures=0, max_preemption_failures=0, controller_failure_limit=0),
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
            worker_runtime_env={"env_vars": _worker_environment(cfg, use_gpu)},
        ),
    )
    for name, value in CONTROLLER_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        more = [size - workers for size in sizes if size > workers]
        with stop_on_interrupt(orders.stop), _growing(run, orders, more, resources, every_s=cfg.cluster.grow_interval_s):
            return in_thread(trainer.fit).return_value
    finally:
        with suppress(OSError, StorageError):
            if orders.owned():  # else a later start keeps its own there
                remove_folder(storage)


@contextmanager
def _growing(
    run: Location, orders: Orders, more: Sequence[int], resources: Mapping[str, float], *, every_s: float
) -> Iterator[None]:
    """Ask the cluster for the most `more` workers that there may be, and let this start leave once so many or fewer have room.

    Once it has saved: before, the room may be that which it is about to take itself, and no start shall end without progress. Not by Ray
    Train's range, whose new group would begin at the last checkpoint.
    """
    ended, saved = threading.Event(), newest_step(run)

    def look() -> None:
        with ExitStack() as demand:
            is_there = None
            while not ended.wait(every_s):
                with suppress(HyenaError, OSError, RayError):  # of a cluster or storage in trouble, which the start itself will meet
                    if newest_step(run) == saved:
                        continue
                    is_there = is_there or demand.enter_context(asked_for(Gang(more[0], resources)))
                    if is_there() or largest_with_room([*more[1:], 0], resources, ray.available_resources()):
                        orders.grow()

    watcher = threading.Thread(target=look, name="growth", daemon=True)
    if more and every_s:
        watcher.start()
    try:
        yield
    finally:
        ended.set()
        if watcher.is_alive():
            watcher.join()


def _backend(cfg: Config, use_gpu: bool) -> str:
    """gloo for sums on the host, nccl between GPUs."""
    wanted = cfg.hardware.distributed_backend
    return "cpu:gloo,cuda:nccl" if use_gpu and wanted in ("auto", "nccl") else "gloo"


def _worker_environment(cfg: Config, use_gpu: bool) -> dict[str, str]:
    """What must be set before a worker imports torch and DeepSpeed."""
    threads = str(cfg.cluster.cpus_per_worker)
    environment = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1"}
    return environment | ({} if use_gpu else {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""})


def _train_on_worker(settings: dict[str, Any]) -> str | None:
    """What each worker runs, and why it ended; only plain values cross the wire."""
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    cfg, worker = config_from_dict(settings["config"]), ray_worker(settings["run"], settings["token"])
    if settings["probe_steps"]:
        probe(cfg, worker, settings["probe_steps"])
        return None
    return train(cfg, worker).stopped_by


def in_thread(function: Callable[[], T]) -> T:
    """Call `function` beside the main thread, which stays free for signals and does not hand them to Ray Train."""
    outcome: Future[T] = Future()

    def call() -> None:
        try:
            outcome.set_result(function())
        except BaseException as error:  # raised again in the thread that waits
            outcome.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    while not outcome.done():
        wait([outcome], timeout=0.2)
    return outcome.result()


def _insist(act: Callable[[], None]) -> None:
    """Do it, again and again while the storage refuses."""
    with suppress(ClusterError):  # a later start has the run, and this one ends anyway
        while True:
            try:
                return act()
            except (OSError, StorageError):
                time.sleep(INSIST_S)


@contextmanager
def stop_on_interrupt(stop: Callable[[], None]) -> Iterator[None]:
    """The first SIGINT or SIGTERM asks the workers, by `stop`, to save and end; a second one acts as usual."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(signum: int, _frame: object) -> None:
        log.warning("interrupted: saving a checkpoint, then ending; once more to end at once")
        threading.Thread(target=_insist, args=(stop,), daemon=True).start()  # the main thread may be writing an order now
        signal.signal(signum, previous[signum])

    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
