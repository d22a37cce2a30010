"""Probes of a machine, of what it shares with others and of the links between them, before a run. Run on the workers, without Ray.

They measure and do not judge: `cluster.doctor` schedules them, `cluster.findings` says what their figures mean. torch is imported where
it is used, so that a machine where it does not import still answers everything else.
"""

from __future__ import annotations

import os
import platform
import resource
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypedDict

from .. import __version__
from ..data import storage
from ..data.storage import Location, Url, location

PACKAGES = ("ray", "torch", "deepspeed", "numpy", "pyarrow")
SHARED_MEMORY = Path("/dev/shm")
PROBE_FOLDER = ".hyena-glt-doctor-"
CONNECT_S = 5.0
"""Until a connection counts as refused."""
SEEN_WITHIN_S = 10.0
"""How long a file of another machine may take to show; NFS keeps the names of a folder for some seconds."""
GROUP_S = 60
"""Until a process group that does not form, or a sum that does not end, is given up."""
NUM_SUMS = 3
SUM_BYTES = {"gloo": 16 << 20, "nccl": 256 << 20}
"""What is summed at once, by backend: about a second's worth on slow links, and large enough for fast ones."""

_listening: list[socket.socket] = []
"""Sockets of `listen`, open until the process ends."""


class Disk(TypedDict):
    """A file system, in bytes."""

    path: str
    total: int
    free: int


class Gpu(TypedDict):
    """A GPU as its driver describes it."""

    name: str
    driver: str
    memory: int
    """Bytes."""
    used: int
    """Bytes that some process holds."""


class Machine(TypedDict):
    """What a machine has."""

    host: str
    versions: dict[str, str | None]
    """Package, or python, -> version; None where it is not installed."""
    gpus: list[Gpu]
    temporary: Disk | None
    """Where Ray keeps its session and spills objects; None where it is not known."""
    shared_memory: Disk | None
    open_files: int
    """Files that a process may have open."""


class Reading(TypedDict):
    """What a machine saw of the files that others wrote."""

    missing: list[str]
    mb_per_s: float | None


# One machine


def versions() -> dict[str, str | None]:
    """Version of Python, of this project and of the packages that a run depends on; None for one that is not installed."""
    return {"python": platform.python_version(), "hyena-glt": __version__} | {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def machine(session: str | None) -> Machine:
    """What this machine has; `session` is the folder of its Ray."""
    return {
        "host": socket.gethostname(), "versions": versions(), "gpus": _gpus(),
        "temporary": _disk(session) if session else None, "shared_memory": _disk(SHARED_MEMORY),
        "open_files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
    }


def _disk(path: str | Path) -> Disk | None:
    if not Path(path).exists():
        return None
    usage = shutil.disk_usage(path)
    return {"path": str(path), "total": usage.total, "free": usage.free}


def _gpus() -> list[Gpu]:
    """By nvidia-smi, which sees also what Ray hides from a process without a share in the GPUs."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,memory.used", "--format=csv,noheader,nounits"]
    try:
        lines = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30).stdout.strip().splitlines()
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[field.strip() for field in line.split(",")] for line in lines]
    return [
        {"name": name, "driver": driver, "memory": int(memory) << 20, "used": int(used) << 20}
        for name, driver, memory, used in rows if memory.isdecimal() and used.isdecimal()
    ]


def now() -> float:
    """This machine's clock, in seconds."""
    return time.time()


def sees(paths: Sequence[str]) -> list[str]:
    """Those of `paths`, local or in an object store, that are not there."""
    return [path for path in paths if storage.size(path) is None and not storage.is_folder(path)]


# Storage


def make_probe_folder(path: str, name: str) -> str:
    """A new folder for probes at `path`, or in the nearest folder above that exists; in an object store beside `path`.

    A run folder that is not there yet must stay so: a run wants an empty one.
    """
    place = location(path)
    if isinstance(place, Url):
        return str(place.parent / f"{PROBE_FOLDER}{name}")
    folder = next(parent for parent in (place, *place.parents) if parent.is_dir()) / f"{PROBE_FOLDER}{name}"
    folder.mkdir()
    return str(folder)


def remove_probe_folder(path: str) -> None:
    """Delete the probe folder with all in it."""
    storage.remove_folder(location(path))


def write_file(folder: str, name: str, num_bytes: int) -> float:
    """Write a file as checkpoints' files are written, through to the disk and renamed; MB/s."""
    content = name.encode() + os.urandom(num_bytes - len(name))  # random, because some file systems compress
    started = time.monotonic()
    storage.write_bytes(location(folder) / name, content)
    return num_bytes / (time.monotonic() - started) / 1e6


def read_files(folder: str, names: Sequence[str]) -> Reading:
    """Read what machines called `names` wrote; a file that does not show, or holds something else, is missing."""
    place, found, seconds, num_bytes = location(folder), [], 0.0, 0
    limit = time.monotonic() + SEEN_WITHIN_S
    for name in names:
        while (content := _read_uncached(place / name)) is None and time.monotonic() < limit:
            time.sleep(0.2)
        if content is not None and content[0].startswith(name.encode()):
            found.append(name)
            num_bytes, seconds = num_bytes + len(content[0]), seconds + content[1]
    return {"missing": [name for name in names if name not in found], "mb_per_s": num_bytes / seconds / 1e6 if found else None}


def _read_uncached(path: Location) -> tuple[bytes, float] | None:
    """Content and seconds; None if there is no such file. What this machine still has in memory is dropped first."""
    try:
        if isinstance(path, Path):
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        started = time.monotonic()
        return storage.read_bytes(path), time.monotonic() - started
    except FileNotFoundError:
        return None


def free_space(folder: str) -> Disk | None:
    """Of the file system that holds a local folder; None in an object store."""
    return None if isinstance(location(folder), Url) else _disk(folder)


# Links


def listen(host: str) -> int:
    """Take connections at a port that is free on this machine; the port."""
    server = socket.create_server((host, 0), backlog=4096)
    _listening.append(server)
    port: int = server.getsockname()[1]
    return port


def free_port(host: str) -> int:
    """A port that is free on this machine."""
    with socket.create_server((host, 0)) as server:
        port: int = server.getsockname()[1]
        return port


def unreachable(others: Mapping[str, tuple[str, int]]) -> list[str]:
    """Those machines, name -> (host, port), that take no connection from here."""
    with ThreadPoolExecutor(max_workers=32) as pool:
        answers = pool.map(_connects, others.values())
    return [name for name, connects in zip(others, answers, strict=True) if not connects]


def _connects(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=CONNECT_S).close()
    except OSError:
        return False
    return True


def sum_speed(rank: int, world_size: int, host: str, port: int, backend: str) -> float:
    """GB/s of an all_reduce over all ranks, as the bytes that pass each rank's link: 2 (n - 1) / n of the tensor.

    Rank 0's machine is `host`, where it takes connections at `port`. Every rank must call it.
    """
    import torch
    import torch.distributed as dist

    device = torch.device("cuda" if backend == "nccl" else "cpu")
    limit = timedelta(seconds=GROUP_S)
    dist.init_process_group(backend, init_method=f"tcp://{host}:{port}", rank=rank, world_size=world_size, timeout=limit)
    try:
        tensor = torch.ones(SUM_BYTES[backend] // 4, device=device)
        dist.all_reduce(tensor)  # the first sum sets up the links
        seconds = min(_timed_sum(tensor) for _ in range(NUM_SUMS))
        return 2 * (world_size - 1) / world_size * SUM_BYTES[backend] / seconds / 1e9
    finally:
        dist.destroy_process_group()


def _timed_sum(tensor: object) -> float:
    import torch
    import torch.distributed as dist

    dist.barrier()
    started = time.perf_counter()
    dist.all_reduce(tensor)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def multiply() -> str:
    """Multiply two matrices on the GPU that this process got; the GPU's name."""
    import torch

    matrix = torch.ones(1024, 1024, device="cuda", dtype=torch.bfloat16)
    torch.testing.assert_close((matrix @ matrix)[0, 0].item(), 1024.0)
    return torch.cuda.get_device_name()
