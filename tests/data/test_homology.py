"""Homology clusters as stages: against sketches of whole records, in pieces, after an interruption, and on Ray."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyena_glt.data import homology
from hyena_glt.data.homology import find_clusters, homology_clusters, plan_sketches, store_sketches
from hyena_glt.data.similarity.clusters import cluster_records
from hyena_glt.dna import reverse_complement
from hyena_glt.errors import DataError
from tests.data.compared_job import mutated, store_records
from tests.data.similarity.at_once import sketch
from tests.data.small_folder import random_letters

GENOME, OTHER = random_letters(5000), random_letters(3000, seed=1)
FILES = [
    {"genome": GENOME, "other": OTHER, "tiny": b"ACGT"},
    {"fragment": GENOME[1000:1600], "opposite": reverse_complement(OTHER[100:2000]), "alone": random_letters(900, seed=2)},
    {"distant": mutated(GENOME, 1500)},
]


def labels(folder, records: pa.Table, threshold: float = 0.5) -> list[int]:
    sketching = plan_sketches(folder, records, "dna")
    for stretch in sketching.stretches():
        store_sketches(sketching, stretch)
    return find_clusters(sketching, threshold).tolist()


def test_fragments_of_either_strand_join_their_whole(tmp_path):
    assert labels(tmp_path, store_records(tmp_path, FILES)) == [0, 1, 2, 0, 1, 5, 6]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.integers(1, 300), min_size=1, max_size=5), min_size=1, max_size=3), st.integers(40, 400), st.data())
def test_stretches_hold_what_whole_records_do(tmp_path_factory, lengths, stretch_bases, data):
    folder = tmp_path_factory.mktemp("clusters")
    files = [{f"{f}_{r}": random_letters(size, seed=r) for r, size in enumerate(sizes)} for f, sizes in enumerate(lengths)]
    records = store_records(folder, files)
    records = records.filter(pa.array([True, *(data.draw(st.booleans()) for _ in range(records.num_rows - 1))]))
    letters = [files[row["file"]][row["name"]] for row in records.to_pylist()]
    sketches = [sketch(np.frombuffer(text, np.uint8), 21, "dna", 1) for text in letters]
    numbers = np.repeat(np.arange(len(letters)), [len(found) for found in sketches])
    wanted = cluster_records(numbers, np.concatenate(sketches), len(letters), 0.5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(homology, "STRETCH_BASES", stretch_bases)
        assert labels(folder, records) == wanted.tolist()
        sketching = plan_sketches(folder, records, "dna")
        stored = [np.load(sketching.sketch_file(stretch)) for stretch in sketching.stretches()]
    pairs = zip(numbers.tolist(), np.concatenate(sketches).tolist(), strict=True)
    assert {tuple(pair) for pair in np.concatenate(stored, axis=1).T.tolist()} == set(pairs)


def test_too_many_short_records_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(homology, "MAX_HASHES", 200)
    short = store_records(tmp_path, [{str(number): random_letters(100, seed=number) for number in range(50)}])
    with pytest.raises(DataError) as caught:
        plan_sketches(tmp_path, short, "dna")
    assert str(caught.value) == (
        "preprocessing.split.by: cluster samples one k-mer in 25 of these 50 records, so that at most 200 are compared, and 100 % of the "
        "letters lie in records too short for that; cluster them with another program and split by file or named, or give fewer records"
    )


@pytest.mark.slow
def test_on_ray(tmp_path, ray_session, monkeypatch):
    monkeypatch.setattr(homology, "STRETCH_BASES", 1000)
    records, seen = store_records(tmp_path, FILES), []
    names = homology_clusters(tmp_path, records, "dna", 0.5, seen.append)
    assert names == ["genome:5000", "other:3000", "tiny:4", "genome:5000", "other:3000", "alone:900", "distant:5000"]
    assert sum(seen) == sum(records["length"].to_pylist())
    assert homology_clusters(tmp_path, records, "dna", 0.5, seen.append) == names
