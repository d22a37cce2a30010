"""Pages of results: what a benchmark writes, on which machine, and below it what somebody wrote about it."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

NOTES = "## Notes"


def write_report(out: Path, name: str, report: object, text: str) -> None:
    """Write NAME.json, and NAME.md anew; what stands in the page from `NOTES` on is kept."""
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")
    page = out / f"{name}.md"
    notes = "".join(page.read_text().partition(NOTES)[1:]) if page.exists() else ""
    page.write_text(f"{text.rstrip()}\n\n{notes}".rstrip() + "\n")


def shown(command: Sequence[str]) -> str:
    """As a shell takes it, with the folders of this machine cut off where their names have no spaces."""
    return re.sub(r"(?<=[ ='\[,])/(?:[^\s,'\]]*/)?(?=[^\s/])", ".../", shlex.join(command))


def own_command() -> str:
    """The command of this process, as `shown`."""
    return shown(["python", f"tests/benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])


def cpu_name() -> str:
    """This machine's processor, and how many of them the system has."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())
    return f"{name}, {os.cpu_count()} CPUs"
