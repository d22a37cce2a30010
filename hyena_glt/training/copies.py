"""Checkpoints that lie in an object store, copied to the disk of the node that reads them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from ..data.storage import Location, Url, download
from ..errors import CheckpointError, HyenaError
from ..files import scratch_folder, scratch_path
from .checkpoint import COMMIT_FILE, damage, read_commit
from .worker import Worker

AT_ONCE = 8
"""Objects."""


@contextmanager
def fetched(folder: Location, *names: str) -> Iterator[Path]:
    """A step folder where files are read: itself; or, of one in a store, a copy of the files `names` for as long as the block runs.

    CheckpointError where one of them is missing or damaged in the store.
    """
    if isinstance(folder, Path):
        yield folder
        return
    with scratch_folder() as copy:
        _copy(folder, copy, [*names, COMMIT_FILE])
        try:
            if problem := damage(copy, names=names):
                raise CheckpointError(f"{problem}; take another checkpoint of the run")
            yield copy
        except HyenaError as error:  # the reader does not know the copy
            raise type(error)(str(error).replace(str(copy), str(folder))) from error


@contextmanager
def on_each_node(worker: Worker, folder: Location) -> Iterator[Path]:
    """A step folder of the run where its ranks read it: itself; or, of one in a store, a copy on each node. Every rank must call it."""
    if isinstance(folder, Path):
        yield folder
        return
    name = f"{worker.token}-{folder.name}"
    with scratch_folder(name) if worker.leads_disk else nullcontext(scratch_path(name)) as copy:
        if worker.leads_disk:
            _copy(folder, copy, [*read_commit(folder)[1], COMMIT_FILE])
        worker.barrier()
        yield copy
        worker.barrier()


def _copy(folder: Url, to: Path, names: Iterable[str]) -> None:
    """What is not there is left out: whoever compares the copy with checkpoint.json finds that."""
    def copy(name: str) -> None:
        with suppress(FileNotFoundError):
            download(folder / name, to / name)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(copy, names))
