"""Near-duplicates as stages: planted copies, any division into tasks and buckets, an interrupted run, and Ray."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hyena_glt.config import NearDuplicatesConfig
from hyena_glt.data import comparison
from hyena_glt.data.comparison import are_among, staying_blocks
from hyena_glt.data.job import Job, Task
from hyena_glt.data.near_duplicates import Work, decide_all, near_duplicate_windows, plan_work, store_pairs, store_signatures
from hyena_glt.data.similarity.minhash import signatures
from hyena_glt.dna import reverse_complement
from tests.data.compared_job import make_job, mutated
from tests.data.similarity.at_once import near_duplicates
from tests.data.small_folder import random_letters

WIDTH = 200
CONFIG = NearDuplicatesConfig(threshold=0.6)


def records() -> list[dict[str, bytes]]:
    """40 windows, then copies of some: same, opposite strand, 1 base changed, 60 bases changed, a short end."""
    first = random_letters(40 * WIDTH)
    windows = [first[start : start + WIDTH] for start in range(0, len(first), WIDTH)]
    copies = [windows[3], reverse_complement(windows[5]), mutated(windows[7], 1), mutated(windows[9], 60), windows[11][:190]]
    return [{"a": first, "val_copies": b"".join(copies)}, {"b": random_letters(7 * WIDTH, seed=1) + b"N" * WIDTH * 2}]


def run(work: Work) -> np.ndarray:
    for task in work.tasks:
        store_signatures(work, task)
    for bucket in range(work.search.num_buckets):
        store_pairs(work, bucket)
    return decide_all(work.search)


def at_once(job: Job, tasks: list[Task], cfg: NearDuplicatesConfig) -> np.ndarray:
    """All windows in memory, without tasks and buckets."""
    blocks = [block for task in tasks for block in staying_blocks(job, task)]
    letters, places = (np.concatenate([getattr(block, key) for block in blocks]) for key in ("letters_WL", "place_W"))
    return near_duplicates(signatures(letters, cfg.kmer_size or 21, "dna", cfg.num_hashes), places, cfg.threshold)


def test_planted_copies_go_on_both_strands_and_unrelated_windows_stay(tmp_path):
    job, tasks = make_job(tmp_path, records(), max_length=WIDTH)
    assert (run(plan_work(job, tasks, CONFIG)) // WIDTH).tolist() == [40, 41, 42, 44]


@pytest.mark.parametrize("windows_per_task, rows_per_bucket", [(1, 100), (7, 33), (1000, 20)])
def test_any_division_into_tasks_and_buckets_gives_the_same(tmp_path, monkeypatch, windows_per_task, rows_per_bucket):
    monkeypatch.setattr(comparison, "ROWS_PER_BUCKET", rows_per_bucket)
    family = random_letters(WIDTH)  # related in all degrees, so that pairs form chains
    related = b"".join(mutated(family, changes, seed=changes) for changes in range(12) for _ in range(2))
    job, tasks = make_job(tmp_path, [*records(), {"val_related": related}], max_length=WIDTH, windows_per_task=windows_per_task)
    work, wanted = plan_work(job, tasks, CONFIG), at_once(job, tasks, CONFIG)
    assert work.search.num_buckets > 3 and len(wanted) > 12
    np.testing.assert_array_equal(run(work), wanted)


def test_filtered_and_repeated_windows_take_no_part(tmp_path):
    job, tasks = make_job(tmp_path, records(), max_length=WIDTH, min_length=WIDTH)
    job = replace(job, repeated_places=np.array([5 * WIDTH, 40 * WIDTH]))
    assert (run(plan_work(job, tasks, CONFIG)) // WIDTH).tolist() == [42]  # the copy of 5 is now the only one, and 44 is too short


def test_what_is_stored_is_not_made_again(tmp_path):
    job, tasks = make_job(tmp_path, records(), max_length=WIDTH)
    work = plan_work(job, tasks, CONFIG)
    for task in tasks[:2]:
        store_signatures(work, task)
    before = {path: path.stat().st_mtime_ns for path in work.search.folder.rglob("*.npy")}
    unbroken = run(work)
    assert {path: path.stat().st_mtime_ns for path in before} == before and len(before) == 6
    assert not [path for path in work.search.folder.rglob("*") if path.name.startswith(".")]
    next(work.search.folder.glob("pairs/*")).unlink()
    np.testing.assert_array_equal(run(work), unbroken)


@pytest.mark.slow
def test_on_ray(tmp_path, ray_session, monkeypatch):
    monkeypatch.setattr(comparison, "ROWS_PER_BUCKET", 200)
    job, tasks = make_job(tmp_path, records(), max_length=WIDTH)
    seen: list[Task] = []
    found = near_duplicate_windows(job, tasks, CONFIG, seen.append)
    np.testing.assert_array_equal(found, at_once(job, tasks, CONFIG))
    assert sorted(seen) == sorted(tasks)
    np.testing.assert_array_equal(near_duplicate_windows(job, tasks, CONFIG, seen.append), found)
    assert len(seen) == len(tasks)


def test_membership():
    assert are_among(np.array([1, 5, 9]), np.array([5, 7])).tolist() == [False, True, False]
    assert are_among(np.array([1, 5], np.uint64), np.empty(0, np.uint64)).tolist() == [False, False]
