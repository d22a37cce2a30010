"""`python -m pipelines.NAME ...` is `hyena-glt NAME ...`: what `ray job submit` starts from a working directory. Runs on the driver."""

from __future__ import annotations

import runpy
import sys


def run_as(command: str) -> None:
    """Run the command line with this process's arguments, and end with its exit status."""
    sys.argv[1:1] = [command]
    runpy.run_module("hyena_glt.cli", run_name="__main__")  # by name, because imports point the other way
