"""Write checkpoints while the training goes on. Runs on the workers; no Ray, and no sums between workers.

Each rank's thread writes a snapshot of its state and then lists its files; rank 0's thread waits for the lists of all ranks, commits,
moves the pointers and prunes. So a checkpoint exists once all of it is on the disk, and one is written at a time. To an object store a rank
writes by way of a folder of its node.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Protocol, TypeVar

from ..data.storage import Location, Url, first_line, remove_file, upload
from ..errors import StorageError
from ..files import atomic_write, insist, scratch_folder
from .checkpoint import CHECKPOINTS, COMMIT_FILE, CheckpointInfo
from .commit import commit, list_part, listed_parts, point, prune, staging_folder
from .metrics import Report
from .orders import read_order

POLL_S, STORE_POLL_S = 0.02, 1.0

T = TypeVar("T")


class Part(Protocol):
    """What one rank adds to a checkpoint: `snapshot.Snapshot`."""

    def write(self, folder: Path) -> list[str]:
        """Write into `folder` and return the names of the files."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """One checkpoint, beside the ranks' parts."""

    info: CheckpointInfo
    texts: Mapping[str, str]
    """Small files by name, which rank 0 writes."""
    pointers: tuple[str, ...] = ()
    """What shall name it."""
    keep: int | None = None
    """Regular checkpoints that stay; None: all."""


class _Abandoned(Exception):
    """The run has failed, or belongs to a later start: nobody wants the rest of this checkpoint."""


@dataclass(slots=True)
class Saver:
    """One rank's writer."""

    run: Location
    token: str
    """The start that it writes for."""
    rank: int
    world_size: int
    retry_s: float
    """How long what the storage refuses is tried again."""
    _reports: list[Report] = field(default_factory=list)
    _thread: Thread | None = None
    _failure: Exception | None = None
    _closed: Event = field(default_factory=Event)

    def begin(self, part: Part, wanted: Wanted) -> None:
        """Write in the background; `wait` comes between two of these."""
        self._thread = Thread(target=self._save, args=(part, wanted), name="saver", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Return when what was begun is written, on rank 0 when it is committed; raises what kept it from that."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def check(self) -> None:
        """Raise what has kept a checkpoint from being written, if anything has."""
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Give up what is not done yet."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()

    def take_reports(self) -> list[Report]:
        """What has happened since the last call."""
        taken = self._reports
        self._reports = []
        return taken

    def _save(self, part: Part, wanted: Wanted) -> None:
        began, step = time.monotonic(), wanted.info.progress.step
        staged = staging_folder(self.run, step, self.token)
        try:
            with ExitStack() as stack:
                folder = self._insist(step, lambda: stack.enter_context(_folder_for(staged)))
                self._write(part, wanted, folder, staged)
            if self.rank == 0:
                self._await_parts(step, staged)
                self._insist(step, lambda: commit(self.run, staged, wanted.info))
                self._insist(step, lambda: self._tidy(wanted))
                self._reports.append({"kind": "save", "step": step, "writing_s": time.monotonic() - began})
        except _Abandoned:
            pass
        except Exception as error:  # `check` raises it in the thread that trains
            self._failure = error

    def _write(self, part: Part, wanted: Wanted, folder: Path, staged: Location) -> None:
        step = wanted.info.progress.step
        names = self._insist(step, lambda: _write_files(part, wanted.texts, folder))
        if isinstance(self.run, Url):
            self._upload(wanted, folder, names)
        self._insist(step, lambda: list_part(staged, self.rank, names, folder=folder))

    def _upload(self, wanted: Wanted, folder: Path, names: list[str]) -> None:
        step, final = wanted.info.progress.step, self.run / CHECKPOINTS / wanted.info.name
        if self.rank == 0:  # a damaged checkpoint, or one that this run has gone behind, ends before its files change;
            # what other ranks change before that their checksums tell
            self._insist(step, lambda: remove_file(final / COMMIT_FILE))
        for name in names:
            self._insist(step, partial(upload, folder / name, final / name))

    def _await_parts(self, step: int, staged: Location) -> None:
        while len(self._insist(step, lambda: listed_parts(staged))) < self.world_size:
            self._pause(POLL_S if isinstance(staged, Path) else STORE_POLL_S)

    def _tidy(self, wanted: Wanted) -> None:
        folder = wanted.info.name
        for pointer in wanted.pointers:
            point(self.run, pointer, folder)
        prune(self.run, keep=wanted.keep)

    def _insist(self, step: int, act: Callable[[], T]) -> T:
        """Do it, if the run is still this start's; again and again while the storage refuses and time is left."""

        def attempt() -> T:
            try:
                if read_order(self.run)[0] != self.token:
                    raise _Abandoned
                return act()
            except (OSError, RuntimeError, StorageError) as error:  # torch raises a RuntimeError where it cannot write
                raise StorageError(f"the checkpoint of step {step} could not be written in {self.run} ({first_line(error)})") from error

        def warn(message: str) -> None:
            self._reports.append({"kind": "warning", "step": step, "message": message})

        try:
            return insist(attempt, retry_s=self.retry_s, warn=warn, wait=self._pause)
        except StorageError as error:
            raise StorageError(
                f"{error} for {self.retry_s:g} s; make room or mend the storage, and run the same command to go on from the checkpoint "
                f"before it"
            ) from error

    def _pause(self, seconds: float) -> None:
        if self._closed.wait(seconds):
            raise _Abandoned


def _folder_for(staged: Location) -> AbstractContextManager[Path]:
    """Where a rank writes its files."""
    return nullcontext(staged) if isinstance(staged, Path) else scratch_folder()


def _write_files(part: Part, texts: Mapping[str, str], folder: Path) -> list[str]:
    """The names of all that was written."""
    folder.mkdir(parents=True, exist_ok=True)
    names = part.write(folder)
    for name, text in texts.items():
        atomic_write(folder / name, text)
    return [*names, *texts]
