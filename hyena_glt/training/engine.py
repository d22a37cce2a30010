"""The only place that knows DeepSpeed: build an engine, take a step, save and load a rank's share. Runs on the workers."""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import sys
from argparse import Namespace
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from ..config.tree import HardwareConfig, TrainingConfig
from ..data.batches import Batch
from ..errors import CheckpointError
from ..files import naming
from ..model.block import set_dropout
from .checkpoint import OPTIMIZER_FOLDER, facts_of
from .guard import is_guarded
from .optim import build_optimizer, parameter_groups, set_rate
from .precision import Precision, autocast
from .snapshot import HostMemory, Snapshot

STATE_TAG, UNIVERSAL_TAG = "state", "universal"
FACTS_FILE = "files.json"
"""In a universal checkpoint: name -> what `facts_of` says of each file."""


class Autocast(nn.Module):
    """A model that computes in `precision`, its weights in float32."""

    def __init__(self, model: nn.Module, precision: Precision, device_type: str) -> None:
        super().__init__()
        self.model, self.precision, self.device_type = model, precision, device_type

    def forward(
        self, ids: torch.Tensor, padding: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        with autocast(self.precision, self.device_type):
            return self.model(ids, padding, targets, weights)


def import_deepspeed(device_type: str) -> Any:
    """DeepSpeed, told which accelerator to use; it asks the environment while it is imported.

    On a CPU its own ops would be compiled on first use: all are off, torch and gloo do the same without a compiler.
    Every torch.load is restricted to plain data, with DeepSpeed's own few types allowed by name.
    """
    os.environ["DS_ACCELERATOR"] = device_type
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "error")
    import deepspeed
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.utils.tensor_fragment import fragment_address

    if device_type == "cpu":
        deepspeed.ops.__compatible_ops__ = {}  # also spares the probe, which calls a compiler for each op
    torch.serialization.add_safe_globals([LossScaler, DynamicLossScaler, fragment_address])
    return deepspeed


def deepspeed_config(
    hardware: HardwareConfig, *, batch_size: int, accumulation_steps: int, max_grad_norm: float | None, universal: bool
) -> dict[str, Any]:
    """DeepSpeed's JSON. Precision is not in it: see `Autocast`. It accumulates where `accumulation_steps`, the most of any step, is
    above 1; `Engine.backward` is told where a step ends."""
    zero: dict[str, Any] = {"stage": hardware.zero_stage}
    if hardware.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu"}
    if hardware.offload_parameters:
        zero["offload_param"] = {"device": "cpu"}
    return {
        "train_micro_batch_size_per_gpu": batch_size,
        "gradient_accumulation_steps": accumulation_steps,
        "gradient_clipping": max_grad_norm or 0.0,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": sys.maxsize,
        "checkpoint": {"load_universal": universal},
    }


@dataclass(slots=True)
class Engine:
    """A DeepSpeed engine behind the few verbs that the loop needs."""

    deepspeed: Any
    _engine: Any
    _optimizer: torch.optim.Optimizer
    """The one that DeepSpeed wraps."""
    _rate_factors: list[float]
    """Of its groups."""
    model: nn.Module
    zero_stage: int
    _host: HostMemory
    _max_grad_norm: float | None
    """To clip to before a step at ZeRO 0; DeepSpeed clips what ZeRO shards."""
    _guarded: bool
    """Whether the device is waited for at each step."""
    _grad_norm: torch.Tensor | None = None
    """Of the last step at ZeRO 0, on the device."""

    def loss(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """(Weighted sum of cross-entropy in nats over the scored positions, number of right predictions)."""
        return self._engine(batch.inputs, batch.padding, batch.targets, batch.weights)

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        """Add a micro-step's gradient; DeepSpeed averages over workers, the loop scales for that. `last` of the step, it is summed up."""
        self._engine.set_gradient_accumulation_boundary(last)
        self._engine.backward(loss, scale_wrt_gas=False)
        if not last:
            self._engine.step()  # counts the micro-step

    def step(self) -> bool:
        """Move the weights by what was added up; False where that was left out, because it was not finite.

        At ZeRO 0 this is looked at where the device is waited for at each step anyway.
        """
        left_out = self._engine.skipped_steps
        if self.zero_stage == 0:  # DeepSpeed would look at the weights one by one, which takes a host five times as long
            limit = math.inf if self._max_grad_norm is None else self._max_grad_norm
            self._grad_norm = nn.utils.clip_grad_norm_(self.model.parameters(), limit)
            if self._guarded and not math.isfinite(self._grad_norm):
                self._engine.zero_grad()
                return False
        self._engine.step()
        return self._engine.skipped_steps == left_out

    def drop(self, loss: torch.Tensor) -> None:
        """End a step without moving the weights; `loss` is its last micro-step's. Every rank must call it.

        ZeRO leaves out a step with a gradient that is not finite and clears all that was added up for it.
        """
        self.backward(loss * math.inf, last=True)
        if self.zero_stage == 0:
            self._grad_norm = None
            self._engine.zero_grad()
        else:
            self._engine.step()

    def gradient(self, parameter: nn.Parameter) -> torch.Tensor | None:
        """The whole gradient of the global batch, between the last `backward` and `step`. Every rank must call it."""
        return self.deepspeed.utils.safe_get_full_grad(parameter)

    def weight(self, parameter: nn.Parameter) -> torch.Tensor:
        """The whole float32 weight. Every rank must call it."""
        whole = self.deepspeed.utils.safe_get_full_fp32_param(parameter)
        return parameter.detach() if whole is None else whole

    def set_rate(self, rate: float) -> None:
        """Learning rate of the next step."""
        set_rate(self._engine.optimizer, rate, self._rate_factors)

    def scale_loss(self, scale: float) -> None:
        """Loss scale of the next step (fp16, ZeRO 1 to 3); DeepSpeed unscales before it clips."""
        if scale != 1.0:
            self._engine.optimizer.override_loss_scale(scale)

    def grad_norm(self) -> float | None:
        """Global gradient norm of the last step before clipping; None where the step was left out. The device is waited for."""
        norm = self._grad_norm if self.zero_stage == 0 else self._engine.get_global_grad_norm()
        return None if norm is None or not math.isfinite(norm) else float(norm)

    def skipped_steps(self) -> int:
        """Steps since the start that were left out because a gradient was not finite (ZeRO 1 to 3)."""
        return int(self._engine.skipped_steps)

    def train(self, mode: bool = True) -> None:
        """Dropout on or off."""
        self._engine.train(mode)

    def set_dropout(self, probability: float) -> None:
        """Dropout of the next steps."""
        set_dropout(self.model, probability)

    def weights(self) -> dict[str, torch.Tensor]:
        """The whole float32 state dict on the CPU, on rank 0; empty elsewhere. Every rank must call it."""
        state: dict[str, torch.Tensor] = {}
        for prefix, module in self.model.named_modules(remove_duplicate=True):
            own = list(module.named_parameters(recurse=False))
            with self._gathered([parameter for _, parameter in own]):
                if dist.get_rank() == 0:
                    named = own + [(n, b) for n, b in module.named_buffers(recurse=False) if n not in module._non_persistent_buffers_set]
                    state |= {f"{prefix}.{n}".lstrip("."): self._host.copy(t) for n, t in named}
                self._host.wait()  # leaving this block, ZeRO 3 takes the memory of whole weights for others
        return state

    def _gathered(self, parameters: list[nn.Parameter]) -> Any:
        return self.deepspeed.zero.GatheredParameters(parameters, enabled=self.zero_stage == 3 and bool(parameters))

    def snapshot(self) -> Snapshot:
        """Copy this rank's share of the optimizer state, and on rank 0 the weights, to the host. Every rank must call it.

        It takes the memory of the snapshot before, which must have been written.
        """
        self._host.reuse()
        with TemporaryDirectory() as folder:  # for what DeepSpeed writes beside them: folders, and converters as code
            self._engine.save_checkpoint(f"{folder}/{OPTIMIZER_FOLDER}", tag=STATE_TAG, save_latest=False)
            kept, self._engine.checkpoint_engine.states = self._engine.checkpoint_engine.states, {}
        return Snapshot({str(Path(path).relative_to(folder)): state for path, state in kept.items()}, self.weights())

    def load(self, folder: Path, *, universal: bool) -> None:
        """Go on from `folder`: weights and optimizer state. Every rank must call it."""
        source = folder / OPTIMIZER_FOLDER
        weight_decays = [group["weight_decay"] for group in self._optimizer.param_groups]
        loaded, _ = self._engine.load_checkpoint(str(source), tag=UNIVERSAL_TAG if universal else STATE_TAG)
        if loaded is None:
            raise CheckpointError(f"DeepSpeed found no optimizer state in {source}")
        # From a universal checkpoint ZeRO 3 gives every group the first group's settings, and all weights one step counter,
        # which then counts each of them.
        for group, weight_decay in zip(self._optimizer.param_groups, weight_decays, strict=True):
            group["weight_decay"] = weight_decay
        for state in self._optimizer.state.values():
            if "step" in state:
                state["step"] = torch.as_tensor(state["step"]).clone()


def build_engine(
    model: nn.Module, hardware: HardwareConfig, training: TrainingConfig, *, device: torch.device,
    precision: Precision, accumulation_steps: int, universal: bool,
) -> Engine:
    """Put `model` on `device` under DeepSpeed; torch.distributed must be initialised."""
    deepspeed = import_deepspeed(device.type)
    from .checkpoint_engine import Snapshots

    deepspeed.init_distributed(dist_backend=dist.get_backend(), verbose=False)
    if hardware.compile_model and device.type == "cuda":
        model.compile_parts()
    model.to(device)
    groups = parameter_groups(model, training)
    sharded = hardware.zero_stage > 0
    optimizer = build_optimizer(groups, training, sharded=sharded)
    # ZeRO clips Muon's updates, whose norm is their own and not the gradient's, and so would only shrink the steps.
    zero_clips = sharded and training.optimizer != "muon"
    config = deepspeed_config(
        hardware, batch_size=training.batch_size, accumulation_steps=accumulation_steps,
        max_grad_norm=training.max_grad_norm if zero_clips else None, universal=universal,
    )
    if training.optimizer == "muon":
        config["zero_optimization"]["reduce_scatter"] = False  # else ZeRO 3 would orthogonalize pieces of a matrix
    engine, *_ = deepspeed.initialize(model=Autocast(model, precision, device.type), optimizer=optimizer, config=config)
    host = HostMemory()
    engine.checkpoint_engine = Snapshots(host)
    factors = [group.rate_factor for group in groups]
    return Engine(deepspeed, engine, optimizer, factors, model, hardware.zero_stage, host, training.max_grad_norm, is_guarded(training))


def make_universal(folder: Path, device_type: str) -> None:
    """Rewrite a checkpoint's optimizer shards so that any number of workers can load them; one rank calls it.

    What stands there already is used if all of it is as it was written. StorageError where it cannot be written (a full disk).

    ZeRO 1 and 2 write no universal metadata of their own, hence `inject_missing_state`. One process each, because a worker
    with threads must not fork.
    """
    import_deepspeed(device_type)
    from deepspeed.checkpoint import ds_to_universal

    source = folder / OPTIMIZER_FOLDER
    final = source / UNIVERSAL_TAG
    if _is_as_written(final):
        return
    shutil.rmtree(final, ignore_errors=True)
    partial = source / f".{UNIVERSAL_TAG}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    options = Namespace(
        input_folder=str(source / STATE_TAG), output_folder=str(partial), num_extract_workers=1, num_merge_workers=1,
        keep_temp_folder=False, strict=True, inject_missing_state=True,
    )
    with naming(final), redirect_stdout(io.StringIO()):
        try:
            ds_to_universal.main(options)
        except RuntimeError as error:  # torch's, where it cannot write
            raise OSError(str(error)) from error
        facts = {path.relative_to(partial).as_posix(): facts_of(path) for path in sorted(partial.rglob("*")) if path.is_file()}
        (partial / FACTS_FILE).write_text(json.dumps(facts))
        partial.rename(final)


def _is_as_written(universal: Path) -> bool:
    """Whether all of a universal checkpoint is there, and its content the one that was written."""
    try:
        facts = json.loads((universal / FACTS_FILE).read_text())
        return all(facts_of(universal / name) == found for name, found in facts.items())
    except (OSError, ValueError):
        return False
