"""The windows of a task, some thousands at a time: read as one matrix of letters, and filtered as whole arrays. Runs on the workers.

Suffixes: W windows of a block, L letters (the longest window).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ..tokenizers.base import pieces
from .complexity import low_complexity_fraction
from .fasta import unambiguous
from .job import Filters, Job, Task
from .scratch import bases_file
from .windows import Windows, windows_between


class Block(NamedTuple):
    """Consecutive windows of a split."""

    region_W: np.ndarray
    start_W: np.ndarray
    """First base, counted from the record's."""
    place_W: np.ndarray
    """Number of the first base among all inputs' bases."""
    length_W: np.ndarray
    letters_WL: np.ndarray
    """uint8, 0 behind the end of a window. May be a view of a file: not to be written to."""

    def take(self, kept_W: np.ndarray) -> Block:
        """The windows for which a mask is true; the block itself if that is all of them."""
        return self if kept_W.all() else Block(*(column[kept_W] for column in self))


def concatenate(blocks: list[Block]) -> Block:
    """The windows of all blocks as one."""
    return blocks[0] if len(blocks) == 1 else Block(*map(np.concatenate, zip(*blocks, strict=True)))


def blocks_of(job: Job, task: Task) -> Iterator[Block]:
    """The windows of a task in order, read from the clean letters."""
    regions, opened = job.regions[task.split], dict[int, np.ndarray]()
    for first in range(task.first, task.last, job.rows_per_group):
        windows = windows_between(regions, first, min(first + job.rows_per_group, task.last), job.cut)
        yield Block(
            region_W=windows.region_W, start_W=windows.start_W, place_W=regions.place_R[windows.region_W] + windows.start_W,
            length_W=windows.end_W - windows.start_W, letters_WL=_letters(job, task.split, windows, opened),
        )


def _letters(job: Job, split: str, windows: Windows, opened: dict[int, np.ndarray]) -> np.ndarray:
    """uint8 [W, L]: the view of a file where all windows are whole and of one region, else gathered."""
    ends = np.append(np.flatnonzero(np.diff(windows.region_W)) + 1, len(windows.region_W))
    runs = [Windows(*(column[first:last] for column in windows)) for first, last in zip([0, *ends[:-1]], ends, strict=True)]
    whole = [_whole_windows(job, split, run, opened) for run in runs]
    if len(runs) == 1 and len(whole[0]) == len(windows.region_W):
        return whole[0]
    letters_WL = np.zeros((len(windows.region_W), job.cut.max_length), np.uint8)
    for run, rows, end in zip(runs, whole, ends, strict=True):
        first = end - len(run.region_W)
        letters_WL[first : first + len(rows)] = rows
        for row in range(first + len(rows), end):  # only the last windows of a region are shorter
            letters = _region_letters(job, split, int(windows.region_W[row]), opened)[windows.start_W[row] : windows.end_W[row]]
            letters_WL[row, : len(letters)] = letters
    return letters_WL


def _whole_windows(job: Job, split: str, run: Windows, opened: dict[int, np.ndarray]) -> np.ndarray:
    """Those of a run of windows of one region that have the full length, as a view [windows, L] of the file."""
    length, stride = job.cut.max_length, job.cut.stride
    num_whole = int((run.end_W - run.start_W == length).sum())
    if not num_whole:
        return np.empty((0, length), np.uint8)
    letters = _region_letters(job, split, int(run.region_W[0]), opened)
    stretch = letters[run.start_W[0] : run.start_W[0] + (num_whole - 1) * stride + length]
    return np.lib.stride_tricks.sliding_window_view(stretch, length)[::stride]


def _region_letters(job: Job, split: str, region: int, opened: dict[int, np.ndarray]) -> np.ndarray:
    """The clean letters from the first base of a region's record on, as a memory map."""
    regions = job.regions[split]
    file = int(regions.file_R[region])
    if file not in opened:
        opened[file] = np.asarray(np.memmap(bases_file(job.output, file), np.uint8, "r"))
    return opened[file][regions.offset_R[region] :]


def drop_reasons(block: Block, filters: Filters) -> dict[str, np.ndarray]:
    """Reason -> bool [W], the windows that do not stay for it; a window has one reason at most, the first that holds."""
    reasons = {"short": block.length_W < filters.min_length}
    if filters.max_ambiguous_fraction < 1:
        reasons["ambiguous"] = ambiguous_bases(block, filters) > filters.max_ambiguous_fraction * block.length_W
    if filters.max_low_complexity_fraction < 1:
        low_W = low_complexity_fraction(block.letters_WL, filters.sequence_type)
        reasons["low_complexity"] = low_W > filters.max_low_complexity_fraction
    taken_W = np.zeros(len(block.length_W), bool)
    for reason, dropped_W in reasons.items():
        reasons[reason] = dropped_W & ~taken_W
        taken_W |= dropped_W
    return reasons


def ambiguous_bases(block: Block, filters: Filters) -> np.ndarray:
    """Ambiguous letters in each window, int64 [W]."""
    known, found_W = unambiguous(filters.sequence_type) + b"\0", np.zeros(len(block.length_W), np.int64)
    table = np.ones(256, np.uint8)
    table[np.frombuffer(known, np.uint8)] = 0
    for rows in pieces(block.letters_WL):
        if block.letters_WL[rows].tobytes().translate(None, known):  # few pieces have any, and this makes no array
            found_W[rows] = table[block.letters_WL[rows]].sum(axis=1)
    return found_W
