"""Search spaces of sweeps, a YAML file each, and their loader. Neither torch nor ray is needed to read one."""

from __future__ import annotations

from .domains import Domain
from .loader import load_space, shipped
from .space import METRICS, Metric, Scheduler, Space

__all__ = ["METRICS", "Domain", "Metric", "Scheduler", "Space", "load_space", "shipped"]
