"""Leakage: how much of val and test stands in train, measured on the stored rows. Needs neither Ray nor torch.

Held-out rows are read first, then all of train, of which only that is kept which they hold too: memory depends on the held-out
rows alone. Suffixes: W rows, L letters, M sampled k-mers or band rows, H hashes of a signature.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..data.dataset import Rows
from ..data.similarity.fracminhash import choose_scale, merge, sketch_rows
from ..data.similarity.leakage import LEAKAGE_K, NUM_HASHES, THRESHOLD, Leakage, match_windows, summarise
from ..data.similarity.minhash import signatures
from ..data.similarity.near_duplicates import NEAR_DUPLICATE_K, Bands, Signatures, band_rows, choose_bands, similar_to_train
from ..dna import SequenceType
from .data_rows import RowBlock, evenly, read_blocks
from .data_statistics import Report, row_hashes

MAX_HASHES = 1 << 24
"""Sampled k-mers of the held-out rows together, at most: 128 MiB."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitLeakage:
    """One held-out split against the whole of train."""

    rows: int
    """Held-out rows that were looked up."""
    exact_rows: int
    """Rows that are the same as one of train, on either strand."""
    shares: Leakage
    worst: tuple[tuple[str, float], ...]
    """(row, share of its k-mers that train holds) of the rows with the largest share."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Method:
    """What is compared, the same for all splits."""

    sequence_type: SequenceType
    k: int
    scale: int
    minhash_k: int
    bands: Bands


@dataclass(frozen=True, slots=True)
class _HeldOut:
    """What is kept of a held-out split: the rows, and their hashes sorted."""

    rows: Rows
    chosen_W: np.ndarray
    kmers_M: np.ndarray
    exact_W: np.ndarray
    """uint64 in the order of `chosen_W`."""
    known: Signatures
    band_keys_M: np.ndarray
    band_places_M: np.ndarray


@dataclass(slots=True)
class _Found:
    """What train has in common with the held-out splits."""

    kmers_M: np.ndarray
    exact: np.ndarray
    near: list[set[int]]
    """For each held-out split, the places of rows that are near-duplicates of one of train."""


def measure_leakage(train: Rows, held_out: Mapping[str, Rows], max_rows: int, report: Report) -> dict[str, SplitLeakage]:
    """Each held-out split against all of train: exact rows, sampled k-mers and MinHash, both strands for DNA and RNA.

    At most `max_rows` rows of each held-out split are looked up, spread evenly. k and thresholds are those of the measurement during
    preprocessing. DataError for a shard that cannot be read.
    """
    method = _method(train, held_out, max_rows)
    splits = [_fingerprint(rows, evenly(rows.num_rows, max_rows), method, report) for rows in held_out.values()]
    found = _found_in_train(train, splits, method, report)
    return {name: _split_leakage(split, found, near, method) for name, split, near in zip(held_out, splits, found.near, strict=True)}


def _method(train: Rows, held_out: Mapping[str, Rows], max_rows: int) -> _Method:
    kind = train.tokenizer.sequence_type
    width = int(train.manifest.config["preprocessing"]["max_length"])
    num_kmers = width * sum(min(rows.num_rows, max_rows) for rows in held_out.values())
    scale = choose_scale(num_kmers, max_hashes=MAX_HASHES, window_kmers=width)
    return _Method(
        sequence_type=kind, k=LEAKAGE_K[kind], scale=scale, minhash_k=NEAR_DUPLICATE_K[kind], bands=choose_bands(NUM_HASHES, THRESHOLD),
    )


def _fingerprint(rows: Rows, chosen_W: np.ndarray, method: _Method, report: Report) -> _HeldOut:
    kmers, exact, hashes = [np.empty(0, np.uint64)], [np.empty(0, np.uint64)], []
    for block in read_blocks(rows, chosen_W):
        kmers.append(sketch_rows(block.letters_WL, method.k, method.sequence_type, method.scale)[1])
        exact.append(row_hashes(block.letters_WL, method.sequence_type))
        hashes.append(signatures(block.letters_WL, method.minhash_k, method.sequence_type, NUM_HASHES))
        report(len(block.number_W))
    known = Signatures(chosen_W, np.concatenate(hashes))
    keys, places = band_rows(known.hash_WH, known.place_W, method.bands)
    order = np.argsort(keys, kind="stable")
    return _HeldOut(rows, chosen_W, merge(kmers), np.concatenate(exact), known, keys[order], places[order])


def _found_in_train(train: Rows, splits: list[_HeldOut], method: _Method, report: Report) -> _Found:
    kmers, exact = (merge(getattr(split, name) for split in splits) for name in ("kmers_M", "exact_W"))
    has_kmer, has_exact = np.zeros(len(kmers), bool), np.zeros(len(exact), bool)
    near: list[set[int]] = [set() for _ in splits]
    for block in read_blocks(train):
        joined_WL = join_neighbours(block, method.k)
        _mark(kmers, has_kmer, sketch_rows(joined_WL, method.k, method.sequence_type, method.scale)[1])
        _mark(exact, has_exact, row_hashes(block.letters_WL, method.sequence_type))
        hash_WH = signatures(block.letters_WL, method.minhash_k, method.sequence_type, NUM_HASHES)
        for split, found in zip(splits, near, strict=True):
            found.update(_near_duplicates(split, hash_WH, method).tolist())
        report(len(block.number_W))
    return _Found(kmers[has_kmer], exact[has_exact], near)


def join_neighbours(block: RowBlock, k: int) -> np.ndarray:
    """Letters [W, L + k - 1]: a full row goes on with the first k - 1 letters of the next where that begins at its end.

    So that no k-mer of the record is lost between two rows.
    """
    letters_WL = block.letters_WL
    num_rows, width = letters_WL.shape
    joined = np.zeros((num_rows, width + k - 1), np.uint8)
    joined[:, :width] = letters_WL
    source, record = (block.places[name].combine_chunks().dictionary_encode().indices.to_numpy() for name in ("source", "record"))
    same = (source[1:] == source[:-1]) & (record[1:] == record[:-1])
    follows = np.flatnonzero(same & (np.diff(block.places["start"].to_numpy()) == width))
    taken = min(k - 1, width)
    joined[follows, width : width + taken] = letters_WL[follows + 1, :taken]
    return joined


def _mark(known: np.ndarray, seen: np.ndarray, values: np.ndarray) -> None:
    """Set `seen` where `values` are among `known`, which is sorted."""
    if len(known):
        at = np.minimum(np.searchsorted(known, values), len(known) - 1)
        seen[at[known[at] == values]] = True


def _near_duplicates(split: _HeldOut, train_WH: np.ndarray, method: _Method) -> np.ndarray:
    """Places of held-out rows that are similar to one of these rows of train."""
    last = int(split.chosen_W[-1]) + 1 if len(split.chosen_W) else 0
    place_W = np.arange(last, last + len(train_WH))  # behind the held-out ones, so that one table of signatures holds both
    keys, places = band_rows(train_WH, place_W, method.bands)
    shared = np.isin(keys, split.band_keys_M)
    wanted = np.isin(split.band_keys_M, keys[shared])
    if not shared.any():
        return np.empty(0, np.int64)
    both = Signatures(np.concatenate([split.chosen_W, place_W]), np.concatenate([split.known.hash_WH, train_WH]))
    held_out = split.band_keys_M[wanted], split.band_places_M[wanted]
    return similar_to_train((keys[shared], places[shared]), held_out, both, THRESHOLD)


def _split_leakage(split: _HeldOut, found: _Found, near: set[int], method: _Method) -> SplitLeakage:
    matches = [
        match_windows(block.letters_WL, block.number_W, found.kmers_M, method.k, method.sequence_type, method.scale)
        for block in read_blocks(split.rows, split.chosen_W)
    ]
    shares = summarise(matches, len(near), k=method.k, scale=method.scale, near_duplicate_threshold=THRESHOLD)
    names = _names(split.rows, [place for place, _ in shares.worst])
    return SplitLeakage(
        rows=len(split.chosen_W), exact_rows=int(np.isin(split.exact_W, found.exact).sum()), shares=shares,
        worst=tuple((names[place], share) for place, share in shares.worst),
    )


def _names(rows: Rows, places: list[int]) -> dict[int, str]:
    """Where rows stand in the inputs: `record:first-last`, counted from 1."""
    names = {}
    for block in read_blocks(rows, np.array(sorted(places), np.int64)):
        for number, place in zip(block.number_W.tolist(), block.places.to_pylist(), strict=True):
            names[number] = f"{place['record']}:{place['start'] + 1:,}-{place['start'] + place['length']:,}"
    return names
