"""Where an unfinished run keeps what its stages leave for each other. Known to driver and workers."""

from __future__ import annotations

from pathlib import Path

SCRATCH = ".preprocess"
"""The folder of intermediate files, inside the output folder."""


def bases_file(output: Path, number: int) -> Path:
    """The clean letters of one file of sequences, one byte a base."""
    return output / SCRATCH / "bases" / f"{number:05d}"


def lower_case_file(output: Path, number: int) -> Path:
    """The lower-case stretches of one input file, int64 [K, 2] in bases of its clean letters."""
    return bases_file(output, number).with_suffix(".lower.npy")
