"""What a run reports, and where: metrics.jsonl, TensorBoard, W&B. Rank 0 writes; runs on the workers.

Every report is one flat dict of plain numbers and strings. `kind` is "start", "train", "eval", "save", "statistics", "warning" or "end".
"""

from __future__ import annotations

import json
import logging
import math
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ..config.tree import LoggingConfig
from ..data.batches import Batch
from ..data.storage import Location, read_bytes
from ..files import naming
from ..tokenizers import Tokenizer

Report = dict[str, Any]
"""Plain numbers and strings."""

METRICS_FILE = "metrics.jsonl"
WANDB_ID_FILE = "wandb_id"
CONTINUED = (METRICS_FILE, WANDB_ID_FILE)
"""What the next start goes on with."""

SKIPPED, ROLLED_BACK = "skipped", "rolled_back"
"""`event` of a warning about a bad step: it was left out, or the run went back to its checkpoint of step `back_to`."""

PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40": 181e12, "4090": 165e12}
"""Dense bf16 operations per second, from the vendors' data sheets."""

log = logging.getLogger(__name__)


def bits_per_base(loss: float, tokenizer: Tokenizer, *, causal: bool) -> float | None:
    """Loss in nats a token -> bits a base, or None where a token does not bring whole new bases.

    Characters and disjoint k-mers bring `bases_per_token` each. An overlapping k-mer brings one new base to a causal model; to a
    masked model it brings none that its neighbours do not show, so there is no such figure.
    """
    if tokenizer.overlapping and not causal:
        return None
    return loss / math.log(2.0) / tokenizer.bases_per_token


def loss_metrics(loss: float, accuracy: float, tokenizer: Tokenizer, *, causal: bool) -> Report:
    """The figures that follow from a mean loss in nats."""
    bits = bits_per_base(loss, tokenizer, causal=causal)
    figures: Report = {"loss": loss, "perplexity": math.exp(min(loss, 700.0)), "accuracy": accuracy}
    return figures | ({} if bits is None else {"bits_per_base": bits})


def by_domain(name: str, values: Mapping[str, float | None]) -> Report:
    """`name/domain` for the domains of a mixture that have a value; nothing for a single domain, whose figure is the total."""
    return {f"{name}/{domain}": value for domain, value in values.items() if value is not None} if len(values) > 1 else {}


def peak_flops(device: torch.device) -> float | None:
    """Peak of the device in bf16, or None where it is not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((flops for key, flops in PEAK_FLOPS.items() if key in name), None)


def device_facts(device: torch.device) -> Report:
    """Name of this rank's device and, for a GPU, its whole memory in GB."""
    if device.type != "cuda":
        return {"device": "cpu"}
    return {"device": torch.cuda.get_device_name(device), "device_memory_gb": torch.cuda.get_device_properties(device).total_memory / 1e9}


def device_metrics(device: torch.device) -> Report:
    """Peak memory in GB and utilisation in percent of this rank's GPU; nothing on a CPU."""
    if device.type != "cuda":
        return {}
    figures: Report = {"gpu_memory_gb": torch.cuda.max_memory_allocated(device) / 1e9}
    try:
        figures["gpu_utilization"] = float(torch.cuda.utilization(device))
    except Exception as error:  # NVML's own are no RuntimeErrors, and a figure is no reason to end a run
        _warn_once(f"no GPU utilisation ({type(error).__name__}: {error}); it needs nvidia-ml-py and a driver that answers")
    return figures


@cache
def _warn_once(sentence: str) -> None:
    log.warning(sentence)


@dataclass(slots=True)
class Meter:
    """Sums since the last report; times with a monotonic clock. Loss and hits stay on the device until they are asked for."""

    loss_sum: float | torch.Tensor = 0.0
    hits: float | torch.Tensor = 0.0
    scored: float = 0.0
    weight: float = 0.0
    """Sum of the scored tokens' weights; as many as `scored` where each counts 1."""
    tokens: int = 0
    started: float = field(default_factory=time.monotonic)
    waited_s: float = 0.0
    """Seconds in which this worker waited for the loader."""
    stalled_s: float = 0.0
    """Seconds in which training stood still for checkpoints."""
    steps: int = 0
    peer_wait_s: float = 0.0
    """Seconds in which this worker waited for the others to begin a step."""
    forward_s: float = 0.0
    """Seconds in this worker's forward passes, on a CPU."""
    _passes: list[tuple[torch.cuda.Event, torch.cuda.Event]] = field(default_factory=list)
    """Begin and end of each forward pass on a GPU."""

    def add(self, loss_sum: torch.Tensor, hits: torch.Tensor, batch: Batch) -> None:
        """Add one micro-step's sums."""
        self.loss_sum += loss_sum
        self.hits += hits
        self.scored += batch.num_scored
        self.weight += batch.total_weight
        self.tokens += batch.num_tokens

    def sums(self) -> tuple[float, float, float, float, float]:
        """Loss, hits, scored tokens, their weight, tokens: what workers add up and a new Meter takes."""
        return float(self.loss_sum), float(self.hits), self.scored, self.weight, self.tokens

    @property
    def mean_loss(self) -> float:
        """Nats per scored token, weighted; NaN where nothing was scored."""
        return float(self.loss_sum) / self.weight if self.weight else float("nan")

    @property
    def accuracy(self) -> float:
        """Share of right ones among the scored tokens, whatever they weigh; NaN where nothing was scored."""
        return float(self.hits) / self.scored if self.scored else float("nan")

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time inside out of the rate."""
        began = time.monotonic()
        yield
        self.started += time.monotonic() - began

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time inside as waiting for the loader."""
        began = time.monotonic()
        yield
        self.waited_s += time.monotonic() - began

    @contextmanager
    def computing(self, device: torch.device) -> Iterator[None]:
        """Count the time inside, the device's own where that is a GPU, as a forward pass."""
        if device.type == "cuda":
            began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            began.record()
            yield
            ended.record()
            self._passes.append((began, ended))
            return
        start = time.monotonic()
        yield
        self.forward_s += time.monotonic() - start

    def own_s(self) -> float:
        """Seconds a step of what does not wait for other workers: forward passes and the loader. All passes must have ended."""
        passes_s = self.forward_s + sum(began.elapsed_time(ended) for began, ended in self._passes) / 1000
        return (passes_s + self.waited_s) / max(1, self.steps)

    @contextmanager
    def waiting_for_peers(self) -> Iterator[None]:
        """Count the time inside, once a step, as waiting for the other workers."""
        began = time.monotonic()
        yield
        self.peer_wait_s += time.monotonic() - began
        self.steps += 1

    def loader_wait_share(self) -> float:
        """Share of the time since the meter was made in which this worker waited for the loader."""
        return self.waited_s / max(1e-9, time.monotonic() - self.started)

    def tokens_per_s(self) -> float:
        """All workers together, since the meter was made."""
        return self.tokens / max(1e-9, time.monotonic() - self.started)


class RunLog:
    """Rank 0's open files and services; `require_owner` raises where another start now writes this metrics.jsonl."""

    def __init__(
        self, run: Path, cfg: LoggingConfig, *, settings: dict[str, object], name: str | None = None,
        require_owner: Callable[[], None] = lambda: None,
    ) -> None:
        path = run / METRICS_FILE
        if path.exists():
            os.truncate(path, whole_size(path))  # else the next report would be glued to what a crash cut short
        self._file = path.open("ab", buffering=0)
        self._unwritten, self._require_owner = b"", require_owner
        self._board = _tensorboard(run) if cfg.use_tensorboard else None
        self._wandb = _wandb(run, cfg, settings, name or run.name) if cfg.use_wandb else None

    def write(self, report: Report) -> None:
        """One report, everywhere. What the storage refuses to take now goes with the next one."""
        self._unwritten += json.dumps(report).encode() + b"\n"
        with suppress(OSError):
            self._flush()
        step = int(report.get("step") or 0)
        kind = str(report["kind"])
        scalars = {f"{kind}/{k}": v for k, v in report.items() if isinstance(v, int | float) and k != "step"}
        if self._board:
            for name, value in scalars.items():
                self._board.add_scalar(name, value, step)
        if self._wandb and kind in ("train", "eval"):
            self._wandb.log(scalars, step=step)

    def _flush(self) -> None:
        if self._unwritten:
            self._require_owner()
        while self._unwritten:
            self._unwritten = self._unwritten[self._file.write(self._unwritten) :]

    def close(self) -> None:
        """Flush everything; StorageError where the storage still refuses it."""
        if self._board:
            with suppress(OSError):
                self._board.close()
        if self._wandb:
            self._wandb.finish()
        with self._file, naming(Path(self._file.name)):
            self._flush()


def _tensorboard(run: Path) -> Any:
    from tensorboardX import SummaryWriter

    # No limit to its queue: the thread that empties it ends where the disk is full, and a full queue would then hold the training.
    return SummaryWriter(str(run / "logs"), max_queue=0)


def _wandb(run: Path, cfg: LoggingConfig, settings: dict[str, object], name: str) -> Any:
    """The same W&B run after a resume; offline unless there is an account or the user chose a mode."""
    import wandb

    id_file = run / WANDB_ID_FILE
    if not id_file.exists():
        id_file.write_text(secrets.token_hex(4))
    mode = os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False, verify=False) else "offline")
    return wandb.init(
        project=cfg.wandb_project, name=name, id=id_file.read_text().strip(), resume="allow", dir=str(run), config=settings,
        mode=mode, settings=wandb.Settings(silent=True),
    )


def whole_size(path: Location) -> int:
    """Bytes of a metrics.jsonl up to the end of its last whole line; 0 where there is none."""
    return len(_whole_part(path))


def _whole_part(path: Location) -> bytes:
    try:
        content = read_bytes(path)
    except FileNotFoundError:
        return b""
    return content[: content.rfind(b"\n") + 1]


def read_reports(path: Location) -> list[Report]:
    """All whole lines of a metrics.jsonl, in the order written; a last line that a crash cut short is left out."""
    return [json.loads(line) for line in _whole_part(path).splitlines()]


def last_reports(path: Location) -> dict[str, Report]:
    """The last report of each kind."""
    return {str(report["kind"]): report for report in read_reports(path)}
