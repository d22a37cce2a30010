"""CPU time and peak memory of a process with its descendants, from outside."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import psutil

SAMPLE_S = 0.1
Row = dict[str, float]


class Meter:
    """CPU time of a process with its descendants, and of the machine, since the meter was made."""

    def __init__(self, pid: int) -> None:
        self.pid, self.clock = pid, time.time()
        self.began = self._now()

    def _now(self) -> tuple[float, float, float]:
        """Wall, the tree's and the machine's CPU seconds."""
        tree = sum(map(cpu_seconds, processes(self.pid)))
        machine = psutil.cpu_times()
        return time.perf_counter(), tree, sum(machine) - machine.idle - machine.iowait - machine.guest - machine.guest_nice

    def read(self) -> Row:
        """`other_cores` is how many cores everything else kept busy meanwhile."""
        wall, tree, machine = (now - before for now, before in zip(self._now(), self.began, strict=True))
        return {"cpu_s": tree, "other_cores": max(0.0, machine - tree) / wall}


class Peaks:
    """The most memory that any worker, the driver, and any other process of a case had, MiB: all of it, and its private part."""

    def __init__(self, pid: int) -> None:
        self.pid, self.peaks, self.stopped = pid, {}, threading.Event()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()

    def _watch(self) -> None:
        while not self.stopped.wait(SAMPLE_S):
            for process in processes(self.pid):
                self._note(process)

    def _note(self, process: psutil.Process) -> None:
        """The kernel keeps the high-water mark of all memory; the private part is sampled."""
        try:
            title = process.cmdline()
            status = dict(line.split(":", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
        except (psutil.NoSuchProcess, ProcessLookupError, FileNotFoundError):
            return
        kind = "driver" if process.pid == self.pid else "worker" if title and title[0].startswith("ray::") else "other"
        for name, field in ((kind, "VmHWM"), (f"{kind}, private", "RssAnon")):
            self.peaks[name] = max(self.peaks.get(name, 0), int(status.get(field, "0 kB").split()[0]) // 1024)

    def stop(self) -> dict[str, int]:
        self.stopped.set()
        self.thread.join()
        return self.peaks


def cpu_seconds(process: psutil.Process) -> float:
    """User and system time, that of its dead children included; they count there from when the process has noticed."""
    try:
        return sum(process.cpu_times()[:4])
    except psutil.NoSuchProcess:
        return 0.0


def processes(pid: int) -> list[psutil.Process]:
    """A process and its living descendants."""
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]
