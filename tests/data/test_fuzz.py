"""The readers under a few hundred damaged inputs; `make long` tries 22,000."""

from __future__ import annotations

import gzip
import random
from collections.abc import Sequence

import pytest

from tests.benchmarks.fuzz_inputs import bgzip, fuzz, read, reference_letters, seeds_of_fuzz

SOURCES = seeds_of_fuzz()


def test_every_damage_ends_in_success_or_a_sentence_that_says_where():
    counts, problems = fuzz(400)
    assert problems == {}
    assert sum(counts.values()) == 400 and {end.split(": ")[0] for end in counts} == set(SOURCES)
    assert 50 < sum(number for end, number in counts.items() if end.endswith("read")) < 350


class Plain(random.Random):
    """Draws the first choice, with which every undamaged file can be read."""

    def choice(self, options: Sequence) -> object:
        return options[0]


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bgzip])
@pytest.mark.parametrize("name", SOURCES)
def test_what_is_damaged_was_whole(tmp_path, name, pack):
    path = tmp_path / (name if pack is bytes else f"{name}.gz")
    path.write_bytes(pack(SOURCES[name]))
    read(path, Plain(), reference_letters())
