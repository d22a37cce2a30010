"""From rows to ranks: the hard ones are known by what makes them hard."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hyena_glt.config import DataConfig, TokenizationConfig
from hyena_glt.data.batches import Request, Serving, TrainingBatches
from hyena_glt.data.difficulty import difficulties, rank, read_ranks, write_ranks
from hyena_glt.data.mixture import Mixture, open_training
from hyena_glt.objectives import CausalLM
from hyena_glt.tokenizers import build_tokenizer
from tests.tiny_run import write_data

WIDTH = 20


@pytest.fixture(scope="module")
def mixture(tmp_path_factory) -> Mixture:
    """Row n has n ambiguous bases, and 19 - n in lower case that weigh 0.1; n from 0 to 9."""
    rows = [b"N" * n + b"A" * (WIDTH - n - (9 - n)) + b"c" * (9 - n) for n in (3, 1, 9, 0, 5, 2, 8, 4, 7, 6)]
    tokenizer = build_tokenizer("dna", TokenizationConfig(kind="char"))
    folder = write_data(
        tmp_path_factory.mktemp("data") / "out", tokenizer, {"train": b"".join(rows)}, max_length=WIDTH, soft_masked=0.1
    )
    return open_training(DataConfig(train_path=str(folder)))


@pytest.mark.parametrize("measure, wanted", [
    ("ambiguity", [3, 1, 9, 0, 5, 2, 8, 4, 7, 6]), ("repeats", [6, 8, 0, 9, 4, 7, 1, 5, 2, 3]),
])
def test_difficulty_is_a_share_of_the_tokens(mixture: Mixture, measure: str, wanted: list[int]) -> None:
    assert (difficulties(mixture.rows[0], measure) * WIDTH).round().tolist() == wanted


def test_ranks_are_shares_of_easier_rows_and_ties_go_to_the_earlier() -> None:
    assert rank(np.array([0.5, 0.1, 0.5, 0.0])).tolist() == [0.5, 0.25, 0.75, 0.0]
    assert rank(np.zeros(4)).tolist() == [0.0, 0.25, 0.5, 0.75]


def test_a_serving_draws_the_easiest_share(mixture: Mixture, tmp_path: Path) -> None:
    write_ranks(tmp_path / "ranks.npz", mixture, "ambiguity")
    (ranks,) = read_ranks(tmp_path / "ranks.npz")
    batches = TrainingBatches(mixture, CausalLM(), 1, 2, None, tmp_path / "ranks.npz")
    for share, hardest in ((0.3, 2), (0.5, 4), (1.0, 9)):
        _, numbers = batches.places(Request(0, 20, Serving(difficulty=share)))
        drawn = difficulties(mixture.rows[0], "ambiguity")[numbers] * WIDTH
        assert drawn.round().max() == hardest and len(set(numbers)) == round(10 * share)
    assert ranks.dtype == np.float32 and sorted(ranks.tolist()) == pytest.approx([n / 10 for n in range(10)])
