"""Signatures, bands and near-duplicates against plain references."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyena_glt.data.similarity.kmers import NO_KMER, kmer_hashes
from hyena_glt.data.similarity.minhash import NO_KMERS, signatures, similarity
from hyena_glt.data.similarity.near_duplicates import (
    MAX_LEADERS,
    RECALL,
    Bands,
    Signatures,
    band_rows,
    choose_bands,
    decide,
    shares_key,
    similar_pairs,
    similar_to_train,
)
from hyena_glt.dna import reverse_complement
from tests.data.similarity.at_once import near_duplicates

H = 16


def as_matrix(texts: list[str]) -> np.ndarray:
    matrix = np.zeros((len(texts), max(map(len, texts))), np.uint8)
    for row, text in zip(matrix, texts, strict=True):
        row[: len(text)] = np.frombuffer(text.encode(), np.uint8)
    return matrix


def random_windows(num: int, length: int, seed: int = 0) -> np.ndarray:
    return np.frombuffer(b"ACGT", np.uint8)[np.random.default_rng(seed).integers(0, 4, (num, length))]


@st.composite
def alike(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, float]:
    """Signatures in families: a few ancestors, each window one of them with some hashes changed; places in any order."""
    seeds = draw(st.lists(st.tuples(st.integers(0, 3), st.sets(st.integers(0, H - 1), max_size=8)), min_size=1, max_size=24))
    rows = [[1000 * ancestor + h + 100 * number * (h in changed) for h in range(H)] for number, (ancestor, changed) in enumerate(seeds)]
    place = draw(st.permutations(range(0, 7 * len(rows), 7)))
    return np.array(rows, np.uint16), np.array(place, np.int64), draw(st.sampled_from([0.5, 0.75, 0.9]))


def slow_pairs(hash_WH: np.ndarray, place_W: np.ndarray, bands: Bands, threshold: float) -> set[tuple[int, int]]:
    """The leaders of each bucket by lists."""
    buckets, row_of = defaultdict(list), dict(zip(place_W.tolist(), hash_WH.tolist(), strict=True))
    for place in sorted(row_of):
        for band in range(bands.num_bands):
            first = band * bands.hashes_per_band
            buckets[band, *row_of[place][first : first + bands.hashes_per_band]].append(place)
    pairs = set()
    for bucket in buckets.values():
        left, leaders = bucket, 0
        while left and leaders < MAX_LEADERS:
            leader, leaders = left[0], leaders + 1
            same = {p for p in left[1:] if sum(a == b for a, b in zip(row_of[leader], row_of[p], strict=True)) / H >= threshold}
            pairs |= {(leader, p) for p in same}
            left = [p for p in left[1:] if p not in same]
    return pairs


def slow_decide(pairs: set[tuple[int, int]]) -> list[int]:
    dropped = []
    for later in sorted({b for _, b in pairs}):
        if any(b == later and a not in dropped for a, b in pairs):
            dropped.append(later)
    return dropped


@given(st.lists(st.text("ACGTN", max_size=60), min_size=1, max_size=6), st.integers(1, 12))
def test_filled_bins_hold_the_least_hash_and_the_others_one_of_those(texts, k):
    matrix = as_matrix(texts)
    for found, hashes in zip(signatures(matrix, k, "dna", H), kmer_hashes(matrix, k, "dna"), strict=True):
        bins: dict[int, int] = {}
        for number in (int(h) >> 32 for h in hashes if h != NO_KMER):
            bins[number >> 28] = min(number, bins.get(number >> 28, number))
        least = {number: min(value & 0xFFFF, 0xFFFE) for number, value in bins.items()}
        assert {number: int(found[number]) for number in least} == least
        assert set(found.tolist()) <= (set(least.values()) or {int(NO_KMERS)})


@given(st.lists(st.text("ACGTN", min_size=1, max_size=60), min_size=1, max_size=4), st.integers(1, 12), st.randoms())
def test_a_signature_depends_on_the_set_of_canonical_kmers_alone(texts, k, random):
    turned = [reverse_complement(text.encode()).decode() if random.random() < 0.5 else text for text in texts]
    np.testing.assert_array_equal(signatures(as_matrix(turned), k, "dna", H), signatures(as_matrix(texts), k, "dna", H))


@pytest.mark.parametrize("length, num_hashes", [(600, 256), (60, 128)])
def test_the_estimate_is_unbiased_also_where_most_bins_were_empty(length, num_hashes):
    """Windows that share a half: J = shared / (2 * all - shared) k-mers; the mean error of 2,000 pairs is far below the bound."""
    a, b = random_windows(2000, length, 1), random_windows(2000, length, 2)
    b[:, : length // 2] = a[:, : length // 2]
    shared, each = length // 2 - 20, length - 20
    estimate = similarity(signatures(a, 21, "dna", num_hashes), signatures(b, 21, "dna", num_hashes))
    assert estimate.mean() == pytest.approx(shared / (2 * each - shared), abs=0.01)


def test_windows_without_a_kmer_are_like_nothing():
    found = signatures(as_matrix(["N" * 30, "", "ACGT" * 8]), 21, "dna", H)
    assert similarity(found, found).tolist() == [0, 0, 1]
    keys, places = band_rows(found, np.array([5, 6, 7]), Bands(4, 4))
    assert places.tolist() == [7] * 4 and len(keys) == 4


@pytest.mark.parametrize(
    "num_hashes, threshold, wanted", [(128, 0.9, (10, 12)), (128, 0.8, (18, 7)), (128, 0.5, (42, 3)), (16, 0.05, (16, 1))]
)
def test_bands(num_hashes, threshold, wanted):
    assert choose_bands(num_hashes, threshold) == wanted


def test_bands_find_as_many_as_the_formula_says():
    rng = np.random.default_rng(0)
    bands = choose_bands(128, 0.8)
    a = rng.integers(0, 60_000, (4000, 128)).astype(np.uint16)
    b = np.where(rng.random(a.shape) < 0.8, a, rng.integers(0, 60_000, a.shape)).astype(np.uint16)
    keys = [band_rows(x, np.arange(4000), bands)[0].reshape(4000, -1) for x in (a, b)]
    found = (keys[0] == keys[1]).any(axis=1).mean()
    assert RECALL <= bands.recall(0.8) == pytest.approx(found, abs=0.01)
    assert len(np.unique(keys[0])) == keys[0].size, "equal keys come from equal bands only"


@given(st.lists(st.integers(0, 5)))
def test_shares_key(keys):
    assert shares_key(np.array(keys, np.uint64)).tolist() == [keys.count(key) > 1 for key in keys]


@given(alike())
def test_near_duplicates_are_those_of_the_plain_reference(drawn):
    hash_WH, place_W, threshold = drawn
    pairs = slow_pairs(hash_WH, place_W, choose_bands(H, threshold), threshold)
    assert near_duplicates(hash_WH, place_W, threshold).tolist() == slow_decide(pairs)


@given(alike(), st.integers(1, 5), st.integers(1, 4))
def test_the_division_of_the_work_does_not_matter(drawn, num_buckets, num_tasks):
    hash_WH, place_W, threshold = drawn
    bands, order = choose_bands(H, threshold), np.argsort(place_W)
    known = Signatures(place_W[order], hash_WH[order])
    parts = [band_rows(hash_WH[task::num_tasks], place_W[task::num_tasks], bands) for task in range(num_tasks)]
    keys, places = (np.concatenate(column) for column in zip(*parts, strict=True))
    bucket = keys % np.uint64(num_buckets)
    pairs = [similar_pairs(keys[bucket == b], places[bucket == b], known, threshold) for b in range(num_buckets)]
    np.testing.assert_array_equal(decide(np.concatenate(pairs[::-1])), near_duplicates(hash_WH, place_W, threshold))


@given(alike())
def test_a_window_that_goes_is_like_an_earlier_one_that_stays(drawn):
    hash_WH, place_W, threshold = drawn
    dropped = set(near_duplicates(hash_WH, place_W, threshold).tolist())
    for row, place in zip(hash_WH, place_W.tolist(), strict=True):
        earlier = [p < place and p not in dropped for p in place_W.tolist()]
        likest = max(similarity(hash_WH[earlier], np.tile(row, (sum(earlier), 1))), default=0)
        assert place not in dropped or likest >= threshold


def test_a_chain_of_overlapping_windows_is_thinned_and_not_emptied():
    genome = random_windows(1, 4000)[0]
    overlapping = np.lib.stride_tricks.sliding_window_view(genome, 1000)[::50]
    dropped = near_duplicates(signatures(overlapping, 21, "dna", 256), np.arange(61) * 50, 0.8)
    stay = np.setdiff1d(np.arange(61) * 50, dropped)
    assert stay[0] == 0 and 61 / 3 - 2 <= len(stay) <= 61 / 2 + 2


def test_mutated_and_turned_copies_go_and_strangers_stay():
    windows = random_windows(300, 1000)
    windows[150:] = windows[:150]
    windows[150:225, 500] = ord("N")
    windows[225:] = [np.frombuffer(reverse_complement(row.tobytes()), np.uint8) for row in windows[225:]]
    assert near_duplicates(signatures(windows, 21, "dna", 128), np.arange(300), 0.9).tolist() == list(range(150, 300))


def test_a_bucket_is_searched_no_further_than_the_bound():
    """All windows share one band and nothing else, but for the last two, which are the same."""
    hash_WH = np.arange((MAX_LEADERS + 3) * H, dtype=np.uint16).reshape(-1, H)
    hash_WH[:, :8] = 7
    hash_WH[-1] = hash_WH[-2]
    place_W, key_M = np.arange(len(hash_WH)), np.zeros(len(hash_WH), np.uint64)
    known = Signatures(place_W, hash_WH)
    assert len(similar_pairs(key_M, place_W, known, 0.75)) == 0
    assert similar_pairs(key_M[3:], place_W[3:], known, 0.75).tolist() == [[MAX_LEADERS + 1, MAX_LEADERS + 2]]


@given(alike(), st.data())
def test_held_out_windows_that_are_like_one_of_train(drawn, data):
    hash_WH, place_W, threshold = drawn
    is_train = np.array(data.draw(st.lists(st.booleans(), min_size=len(place_W), max_size=len(place_W))))
    bands, order = choose_bands(H, threshold), np.argsort(place_W)
    train, held_out = (band_rows(hash_WH[rows], place_W[rows], bands) for rows in (is_train, ~is_train))
    found = similar_to_train(train, held_out, Signatures(place_W[order], hash_WH[order]), threshold)
    wanted = []
    for row, place in zip(hash_WH[~is_train], place_W[~is_train].tolist(), strict=True):
        cut = [slice(b * bands.hashes_per_band, (b + 1) * bands.hashes_per_band) for b in range(bands.num_bands)]
        compared = [other for other in hash_WH[is_train] if any((other[c] == row[c]).all() for c in cut)]
        if any((other == row).mean() >= threshold for other in compared):
            wanted.append(place)
    assert found.tolist() == sorted(wanted)
