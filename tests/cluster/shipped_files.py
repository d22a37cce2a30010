"""The files under cluster/ as text and as YAML, and what must hold of each of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
LAUNCHERS = [CLUSTER / name for name in ("aws.yaml", "gcp.yaml", "onprem.yaml")]
MANIFESTS = [CLUSTER / "kuberay" / name for name in ("raycluster.yaml", "rayjob.yaml")]
OTHERS = [CLUSTER / name for name in ("slurm.sh", "Dockerfile", "grafana.json")]

WORLD = re.compile(r"0\.0\.0\.0|::/0|\bLoadBalancer\b|\bNodePort\b|enableIngress|^\s*EXPOSE\b", re.MULTILINE)
SECRET = re.compile(
    r"""(?:KEY|TOKEN|SECRET|PASSWORD)(?:_ID)?\s*[=:]\s*["']?[\w/+-]{8,}  # a value given to such a name
    | \bAKIA[0-9A-Z]{12,} | \b[0-9a-f]{40,}\b | -----BEGIN | ://[^/\s:]+:[^/\s@]+@""",
    re.VERBOSE,
)


def read_yaml(path: Path) -> Any:
    """Anchors and merges resolved, as the launcher and kubectl do."""
    return yaml.safe_load(path.read_text())


def open_doors(text: str) -> list[str]:
    """What opens something to the world."""
    return WORLD.findall(text)


def secrets_in(text: str) -> list[str]:
    """What looks like a secret that is written out."""
    return [found.group() for found in SECRET.finditer(text)]
