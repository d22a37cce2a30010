"""Where a worker writes what grows while it trains (metrics, TensorBoard, stacks); of a run in a store, what brings that there."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import ExitStack, nullcontext, suppress
from pathlib import Path
from threading import Event, Thread

from ..data.storage import Location, Url, download, remove_file, write_bytes
from ..errors import ClusterError, StorageError
from ..files import scratch_folder
from .orders import require_owner

STORE_S = 3.0
"""Between two times that what has changed is stored."""
LAST_TRIES_S = 60.0
"""How long the last of it is tried again where the store refuses it."""


class Desk:
    """The run folder itself, or a folder of this node and a thread that stores its files, whole and by the same names, as they change.

    `continued` are files that an earlier start may have written and this one goes on with; the `outdated` ones of an earlier start go.
    Nothing is stored once the run belongs to another start than `token`, which stores files of the same names.
    """

    def __init__(self, run: Location, token: str, *, continued: Iterable[str] = (), outdated: Iterable[str] = ()) -> None:
        self._resources, self._closed, self._stored = ExitStack(), Event(), dict[Path, tuple[int, int]]()
        self._run, self._token = run, token
        if isinstance(run, Path):
            self.folder = run
            return
        self.folder = self._resources.enter_context(scratch_folder())
        for name in continued:
            with suppress(FileNotFoundError):
                download(run / name, self.folder / name)
        for name in outdated:
            remove_file(run / name)
        self._thread = Thread(target=self._follow, args=(run,), name="desk", daemon=True)
        self._thread.start()

    def close(self, *, failed: bool) -> None:
        """Store what is not stored yet. After a failure it is tried once.

        Raises StorageError where the store refuses it to the end, ClusterError where the run has been taken over.
        """
        with self._resources:
            if isinstance(self._run, Url) and not self._closed.is_set():
                self._closed.set()
                self._thread.join()
                with suppress(OSError, StorageError, ClusterError) if failed else nullcontext():
                    self._store_last(self._run, 0.0 if failed else LAST_TRIES_S)

    def _follow(self, run: Url) -> None:
        while not self._closed.wait(STORE_S):
            with suppress(OSError, StorageError, ClusterError):  # of a later start the thread that trains hears by itself
                self._store(run)

    def _store_last(self, run: Url, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while True:
            try:
                return self._store(run)
            except (OSError, StorageError):
                if time.monotonic() > deadline:
                    raise
            time.sleep(1.0)

    def _store(self, run: Url) -> None:
        for path in sorted(path for path in self.folder.rglob("*") if path.is_file() and not path.is_symlink()):
            found = path.stat()
            state = found.st_size, found.st_mtime_ns
            if found.st_size and self._stored.get(path) != state:
                require_owner(run, self._token)
                write_bytes(run / path.relative_to(self.folder).as_posix(), path.read_bytes())
                self._stored[path] = state
