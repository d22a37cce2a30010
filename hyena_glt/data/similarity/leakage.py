"""How much of val and test is found in train, by sampled k-mers of both strands and by MinHash. Pure arithmetic.

Suffixes: W held-out windows, L letters, M sampled k-mers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ...dna import SequenceType
from .fracminhash import sketch_rows

LEAKAGE_K: dict[SequenceType, int] = {"dna": 31, "rna": 31, "protein": 7}
"""Long enough that a k-mer is hardly shared by chance: of 4^31 or 20^7 (1.3e9) different ones a genome holds few.

A base changed in 100 leaves 73 % of 31-mers, in 20 only 20 %; a residue changed in 10 leaves 48 % of 7-mers.
"""
NUM_HASHES, THRESHOLD = 128, 0.8
"""Of the search for near-duplicates in train: 0.8 of 21-mers in common are 99.5 % identical bases."""


class Matches(NamedTuple):
    """Held-out windows by their place, int64 [W]: how many distinct k-mers were sampled, and how many of them train holds."""

    place_W: np.ndarray
    sampled_W: np.ndarray
    found_W: np.ndarray


@dataclass(frozen=True, kw_only=True, slots=True)
class Leakage:
    """One held-out split against train; plain values, for the manifest. Shares are of the windows that have a sampled k-mer."""

    k: int
    scale: int
    """One k-mer in so many was looked at."""
    windows: int
    unsampled_windows: int
    """Windows of which no k-mer was sampled (short, ambiguous or repetitive): nothing is known of them."""
    sampled_kmers: int
    found_kmers: int
    """Sampled k-mers that train holds, on either strand; distinct within a window."""
    kmer_share: float
    half_found_share: float
    """Windows of whose sampled k-mers train holds at least 0.5."""
    mostly_found_share: float
    """The same for 0.9."""
    near_duplicate_threshold: float
    near_duplicate_share: float
    """Share of all windows that have a MinHash similarity of at least the threshold to a window of train."""
    worst: tuple[tuple[int, float], ...]
    """(place, share of k-mers found in train) of the windows with the largest share, largest first."""


def match_windows(
    letters_WL: np.ndarray, place_W: np.ndarray, train_sketch_M: np.ndarray, k: int, sequence_type: SequenceType, scale: int
) -> Matches:
    """Look the windows' sampled k-mers up in train's sketch (sorted, made with the same k and scale).

    Letters uint8 [W, L], 0 behind a window's end. The containment of a window is found / sampled (Irber et al. 2022).
    """
    row, hash_ = sketch_rows(letters_WL, k, sequence_type, scale)
    at = np.searchsorted(train_sketch_M, hash_)
    inside = at < len(train_sketch_M)
    found = row[inside][train_sketch_M[at[inside]] == hash_[inside]]
    return Matches(place_W, np.bincount(row, minlength=len(place_W)), np.bincount(found, minlength=len(place_W)))


def summarise(
    parts: Sequence[Matches], num_near_duplicates: int, *, k: int, scale: int, near_duplicate_threshold: float, num_worst: int = 10
) -> Leakage:
    """The result for one split from the matches of all its windows, in any order and division."""
    place, sampled, found = (np.concatenate([np.empty(0, np.int64), *columns]) for columns in zip(*parts, strict=True))
    known = sampled > 0
    share = found[known] / sampled[known]
    order = np.lexsort((place[known], -share))[:num_worst]
    return Leakage(
        k=k,
        scale=scale,
        windows=len(place),
        unsampled_windows=int((~known).sum()),
        sampled_kmers=int(sampled.sum()),
        found_kmers=int(found.sum()),
        kmer_share=float(found.sum() / max(sampled.sum(), 1)),
        half_found_share=float((share >= 0.5).sum() / max(len(share), 1)),
        mostly_found_share=float((share >= 0.9).sum() / max(len(share), 1)),
        near_duplicate_threshold=near_duplicate_threshold,
        near_duplicate_share=num_near_duplicates / max(len(place), 1),
        worst=tuple(zip(place[known][order].tolist(), share[order].tolist(), strict=True)),
    )
