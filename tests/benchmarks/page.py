"""Pages of results: what a benchmark writes, on which machine, and below it what somebody wrote about it."""

from __future__ import annotations

import os
import platform
from pathlib import Path

NOTES = "## Notes"


def write_page(path: Path, text: str) -> None:
    """Write a page anew; what stands in it from `NOTES` on is kept."""
    notes = "".join(path.read_text().partition(NOTES)[1:]) if path.exists() else ""
    path.write_text(f"{text.rstrip()}\n\n{notes}".rstrip() + "\n")


def cpu_name() -> str:
    """This machine's processor, and how many of them the system has."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())
    return f"{name}, {os.cpu_count()} CPUs"
