"""Kill a preprocessing command with all processes of its Ray, and look at what stands: damaged, or as an unbroken run leaves it."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import psutil

from hyena_glt.data.storage import Location, Url, list_files, open_file
from hyena_glt.data.verify import verify

ROOT = Path(__file__).parents[1]
MARK = "PREPROCESSING_UNDER_TEST"
POLL_S = 0.002


class Command:
    """A command of `hyena-glt`, started; its output goes to files in `folder`.

    With a Ray of its own, or on that at `address`, whose workers then get this process's AWS_ variables, as from `ray job submit`. A mark
    in the environment, which all processes inherit, finds them also where Ray gave them another parent and group.
    """

    def __init__(self, words: Sequence[str], folder: Path, address: str = "local") -> None:
        self.mark, self._stdout, self._stderr = uuid.uuid4().hex, folder / "stdout", folder / "stderr"
        shared = {"PYTHONPATH": str(ROOT), **{name: value for name, value in os.environ.items() if name.startswith("AWS_")}}
        for_workers = {} if address == "local" else {"RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps({"runtime_env": {"env_vars": shared}})}
        with self._stdout.open("w") as out, self._stderr.open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "hyena_glt.cli", *words, f"cluster.address={address}"], cwd=folder, stdout=out, stderr=err,
                env={**os.environ, **shared, **for_workers, MARK: self.mark}, start_new_session=True,
            )

    def result(self) -> dict[str, object]:
        """Wait for the end; what the command says about a run that succeeded."""
        assert self.process.wait() == 0, self._stderr.read_text()[-2000:]
        return json.loads(self._stdout.read_text().splitlines()[-1])

    def said(self) -> str:
        """The end of what the command has said on stderr so far."""
        return self._stderr.read_text()[-2000:]

    def error(self) -> str:
        """Wait for the end; the last line that a run that failed says."""
        assert self.process.wait() == 1, self._stdout.read_text()
        return self._stderr.read_text().splitlines()[-1]

    def kill_when(self, moment: Callable[[], bool]) -> None:
        """Wait until it is time or the command has ended, then end every process with SIGKILL."""
        while self.process.poll() is None and not moment():
            time.sleep(POLL_S)
        self.kill()

    def kill(self) -> None:
        """SIGKILL to all processes, until none is left."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        while found := list(self._processes()):
            for process in found:
                process.kill()
            psutil.wait_procs(found)
        self.process.wait()

    def _processes(self) -> Iterator[psutil.Process]:
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    yield process
            except psutil.Error:
                continue


def num_written(work: Path) -> int:
    """How many shards an unfinished run has recorded; `work` is the folder that it works in."""
    return len(list(work.glob(".preprocess/written/*/[!.]*")))


def contents(output: Location) -> dict[str, str]:
    """Name -> SHA-256 of every file or object."""
    if isinstance(output, Url):
        return {str(item).removeprefix(f"{output}/"): _sha256(open_file(item).read()) for item in list_files(output)}
    return {path.relative_to(output).as_posix(): _sha256(path.read_bytes()) for path in sorted(output.rglob("*")) if path.is_file()}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def assert_damaged_or_whole(output: Location, whole: Mapping[str, str]) -> list[str]:
    """What a killed run may leave: something that does not validate, or all that an unbroken run writes. The damage, a sentence each."""
    damage = verify(output)
    if not damage:
        assert contents(output) == whole, f"{output} validates and is wrong"
    return damage
