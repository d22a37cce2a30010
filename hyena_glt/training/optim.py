"""Optimizers by name, and which parameters share a weight decay, a rate and a rule. Runs on the workers."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import nn

from ..config.tree import TrainingConfig
from ..errors import ConfigError

_BLOCK = re.compile(r"(?:^|\.)blocks\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class Group:
    """Parameters that are updated alike; `rate_factor` times the run's rate is theirs."""

    parameters: list[nn.Parameter]
    weight_decay: float
    rate_factor: float
    by_muon: bool


def parameter_groups(model: nn.Module, cfg: TrainingConfig) -> list[Group]:
    """Matrices decay; norms, biases, embeddings and filters do not. Rates differ where `cfg` says so.

    A block's rate is `layer_rate_decay` times that of the block above, the embedding's that of the lowest block; what stands above the
    blocks has the full rate.
    """
    depths = [int(found[1]) for name, _ in model.named_parameters() if (found := _BLOCK.search(name))]
    num_blocks = max(depths, default=-1) + 1
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decays = not getattr(parameter, "_no_weight_decay", False)
            factor = cfg.layer_rate_decay ** _blocks_above(name, num_blocks) * _kind_factor(parameter, decays, cfg)
            groups.setdefault((decays, factor), []).append(parameter)
    ordered = sorted(groups.items(), key=lambda item: not item[0][0])  # stable: those that decay first
    return [
        Group(parameters, cfg.weight_decay if decays else 0.0, factor, cfg.optimizer == "muon" and decays)
        for (decays, factor), parameters in ordered
    ]


def _blocks_above(name: str, num_blocks: int) -> int:
    found = _BLOCK.search(name)
    if found:
        return num_blocks - 1 - int(found[1])
    return num_blocks if "embedding" in name or "positions" in name else 0


def _kind_factor(parameter: nn.Parameter, decays: bool, cfg: TrainingConfig) -> float:
    if decays and cfg.optimizer == "muon":
        return cfg.muon_learning_rate / cfg.learning_rate
    if cfg.filter_learning_rate is not None and getattr(parameter, "_shapes_filter", False):
        return cfg.filter_learning_rate / cfg.learning_rate
    return 1.0


def build_optimizer(groups: list[Group], cfg: TrainingConfig, *, sharded: bool) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter, 2019), Lion (Chen et al., 2023) or Muon (Jordan et al., 2024) over `groups`.

    AdamW is torch's fused kernel, so that no node needs a compiler; Lion is lion-pytorch's; Muon is DeepSpeed's, which orthogonalizes the
    matrices' momentum before ZeRO divides it, and gives the other groups to AdamW. sharded: whether ZeRO divides anything.
    """
    options = [{"params": group.parameters, "weight_decay": group.weight_decay} for group in groups]
    betas = (cfg.adam_beta1, cfg.adam_beta2)
    match cfg.optimizer:
        case "adamw":
            return torch.optim.AdamW(options, lr=cfg.learning_rate, betas=betas, eps=cfg.adam_epsilon, fused=True)
        case "lion":
            return _lion()(options, lr=cfg.learning_rate, betas=betas)
    return _muon(groups, cfg, sharded)


def _lion() -> type[torch.optim.Optimizer]:
    try:
        from lion_pytorch import Lion
    except ImportError:
        raise ConfigError("training.optimizer: lion needs lion-pytorch; pip install 'hyena-glt[lion]', or choose adamw or muon") from None
    return Lion


def _muon(groups: list[Group], cfg: TrainingConfig, sharded: bool) -> torch.optim.Optimizer:
    if not torch.cuda.is_available():
        torch.compiler.set_stance("force_eager")  # DeepSpeed compiles its kernel, and a laptop may have no compiler
    from deepspeed.runtime.zero.muon.muon_optimizer import MuonWithAuxAdam

    from .muon import Muon

    options = []
    for group in groups:
        for parameter in group.parameters:
            parameter.use_muon = group.by_muon
        own = {"momentum": cfg.muon_momentum} if group.by_muon else {"betas": (cfg.adam_beta1, cfg.adam_beta2), "eps": cfg.adam_epsilon}
        options.append({
            "params": group.parameters, "use_muon": group.by_muon, "weight_decay": group.weight_decay, "lr": cfg.learning_rate, **own,
        })
    kind = MuonWithAuxAdam if sharded else Muon
    return kind(options, adam_optimizer=torch.optim.AdamW, adam_optimizer_kwargs={"fused": True})


def set_rate(optimizer: torch.optim.Optimizer, rate: float, factors: list[float]) -> None:
    """Give each group its factor times `rate`."""
    for group, factor in zip(optimizer.param_groups, factors, strict=True):
        group["lr"] = rate * factor
