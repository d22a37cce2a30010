"""Leakage as stages: planted copies, any division into tasks and buckets, what is said and refused, and Ray."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hyena_glt.data import comparison
from hyena_glt.data.job import Job, Task
from hyena_glt.data.leakage import (
    Work,
    measure_leakage,
    plan_work,
    store_found,
    store_matches,
    store_sketch,
    store_train_sketch,
    summarise_all,
)
from hyena_glt.data.leakage_report import leakage_lines, located, refuse_leakage
from hyena_glt.data.similarity.fracminhash import merge
from hyena_glt.data.similarity.leakage import Leakage
from hyena_glt.dna import reverse_complement
from hyena_glt.errors import DataError
from tests.data.compared_job import make_job, mutated
from tests.data.similarity.at_once import sketch
from tests.data.small_folder import random_letters

WIDTH = 200
TRAIN = random_letters(40 * WIDTH)


def records() -> list[dict[str, bytes]]:
    """Of 10 held-out windows 2 are copies in phase, 3 of the opposite strand out of phase, and 5 are new."""
    opposite = reverse_complement(TRAIN[20 * WIDTH + 77 : 23 * WIDTH + 77])
    held_out = mutated(TRAIN[WIDTH : 2 * WIDTH], 1) + TRAIN[8 * WIDTH : 9 * WIDTH] + opposite + random_letters(5 * WIDTH, seed=1)
    return [{"a": TRAIN}, {"val": held_out}]


def run(work: Work) -> dict[str, Leakage]:
    for task in work.train:
        store_sketch(work, task)
    store_train_sketch(work)
    for task in work.held_out:
        store_matches(work, task, np.load(work.train_file))
    for bucket in range(work.search.num_buckets):
        store_found(work, bucket)
    return summarise_all(work)


def planned(folder: Path, windows_per_task: int = 20) -> tuple[Job, list[Task]]:
    return make_job(folder, records(), max_length=WIDTH, windows_per_task=windows_per_task)


def test_copies_are_found_on_both_strands_and_out_of_phase(tmp_path):
    job, tasks = planned(tmp_path)
    found = run(plan_work(job, tasks)._replace(scale=1))["val"]
    assert (found.windows, found.unsampled_windows, found.sampled_kmers) == (10, 0, 10 * 170)
    assert found.found_kmers == 4 * 170 + 140  # 30 k-mers hold the changed base
    assert (found.half_found_share, found.mostly_found_share, found.near_duplicate_share) == (0.5, 0.4, 0.2)
    assert [place // WIDTH for place, share in found.worst if share == 1] == [41, 42, 43, 44]


@pytest.mark.parametrize("windows_per_task, rows_per_bucket", [(1, 100), (3, 10)])
def test_any_division_into_tasks_and_buckets_gives_the_same(tmp_path, monkeypatch, windows_per_task, rows_per_bucket):
    whole = run(plan_work(*planned(tmp_path / "whole", 1000)))
    monkeypatch.setattr(comparison, "ROWS_PER_BUCKET", rows_per_bucket)
    work = plan_work(*planned(tmp_path / "cut", windows_per_task))
    assert run(work) == whole
    assert work.search.num_buckets > 3 and len(work.train) > 10


def test_the_sketch_of_train_is_that_of_its_windows_that_stay(tmp_path):
    job, tasks = make_job(tmp_path, [{"a": TRAIN, "val": b"A" * 50}], max_length=WIDTH)
    work = plan_work(replace(job, repeated_places=np.array([10 * WIDTH])), tasks)._replace(scale=3)
    run(work)
    parts = (np.frombuffer(part, np.uint8) for part in (TRAIN[: 10 * WIDTH + 30], TRAIN[11 * WIDTH :]))
    np.testing.assert_array_equal(np.load(work.train_file), merge(sketch(part, 31, "dna", 3) for part in parts))


def test_repeats_that_were_dropped_do_not_count(tmp_path):
    job, tasks = planned(tmp_path)
    job = replace(job, repeated_places=np.arange(40, 45) * WIDTH)
    found = run(plan_work(job, tasks))["val"]
    assert (found.windows, found.found_kmers, found.near_duplicate_share) == (5, 0, 0)


def test_what_is_said_stored_and_refused(tmp_path):
    job, tasks = planned(tmp_path)
    found = {"val": replace(run(plan_work(job, tasks)._replace(scale=1))["val"], worst=((43 * WIDTH, 1.0), (40 * WIDTH, 0.82)))}
    assert leakage_lines(found, job) == [
        "val in train: 48.2 % of its 31-mers, 50.0 % of its windows by half or more, 20.0 % near-duplicates (MinHash, 0.8)",
        "  1.fa val:601-800 (100.0 %)",
        "  1.fa val:1-200 (82.0 %)",
    ]
    assert located(found, job)["val"]["worst"][0] == {"source": "1.fa", "record": "val", "start": 600, "end": 800, "share": 1.0}
    assert json.loads(json.dumps(located(found, job))) == located(found, job)
    refuse_leakage(found, 0.5, job)
    with pytest.raises(DataError) as caught:
        refuse_leakage(found, 0.1, job)
    assert str(caught.value) == (
        "train holds 48.2 % of the 31-mers of val, more than preprocessing.split.max_leakage (0.1) allows; most of 1.fa val:601-800 "
        "(100.0 %), 1.fa val:1-200 (82.0 %); set preprocessing.split.by to cluster, remove the related records, or allow more"
    )


@pytest.mark.slow
def test_on_ray(tmp_path, ray_session, monkeypatch):
    monkeypatch.setattr(comparison, "ROWS_PER_BUCKET", 500)
    wanted = run(plan_work(*planned(tmp_path / "here")))
    job, tasks = planned(tmp_path / "ray")
    seen: list[Task] = []
    assert measure_leakage(job, tasks, seen.append) == wanted
    assert sorted(seen) == sorted(tasks)
    assert measure_leakage(job, tasks, seen.append) == wanted and len(seen) == len(tasks)
    assert measure_leakage(job, [task for task in tasks if task.split == "train"], seen.append) == {}
