"""Training in worlds of several processes: the loop without Ray, real DeepSpeed over gloo.

The processes are forked from a server that has imported all that they need, so a world of four begins in a second.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import torch
import torch.distributed as dist

from hyena_glt.config import load_config
from hyena_glt.training.checkpoint import CHECKPOINTS
from hyena_glt.training.engine import import_deepspeed
from hyena_glt.training.loop import train
from hyena_glt.training.orders import OWNER_FILE
from hyena_glt.training.worker import Worker

TOKEN = "test"

import_deepspeed("cpu")
torch.set_num_threads(1)


def run_world(
    world_size: int, settings: list[str], folder: Path, *, timeout_s: float = 120, first: Callable[[int], None] | None = None
) -> None:
    """Train with so many workers to the end of the run; each calls `first` with its rank before."""
    with tempfile.TemporaryDirectory() as meeting:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        shared = world_size, meeting, settings, str(folder), first
        workers = [context.Process(target=_work, args=(rank, *shared)) for rank in range(world_size)]
        _finish(workers, timeout_s)


def begin(run: Path) -> Path:
    """A run folder as its driver leaves it to the workers."""
    (run / CHECKPOINTS).mkdir(parents=True)
    (run / OWNER_FILE).write_text(TOKEN)
    return run


def _finish(workers: list[ForkServerProcess], timeout_s: float) -> None:
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout_s)
    for worker in workers:
        worker.kill()
    assert [worker.exitcode for worker in workers] == [0] * len(workers)


def _work(
    rank: int, world_size: int, meeting: str, settings: list[str], folder: str, first: Callable[[int], None] | None
) -> None:
    import os

    if first:
        first(rank)
    os.environ["LOCAL_RANK"] = str(rank)
    dist.init_process_group("gloo", store=dist.FileStore(f"{meeting}/store", world_size), rank=rank, world_size=world_size)
    train(load_config(None, settings), Worker(rank, world_size, torch.device("cpu"), Path(folder), TOKEN))
    dist.destroy_process_group()
