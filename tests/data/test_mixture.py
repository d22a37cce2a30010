"""Several datasets as one: their names and shares, and batches that depend on (data, seed, step) alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hyena_glt.config import DataConfig, TokenizationConfig
from hyena_glt.data.augment import Augmentation
from hyena_glt.data.batches import Request, Slice, TrainingBatches
from hyena_glt.data.dataset import open_rows
from hyena_glt.data.mixture import Mixture, domain_names, open_training, open_validation
from hyena_glt.data.verify import file_sha256
from hyena_glt.errors import ConfigError, DataError
from hyena_glt.objectives import CausalLM, MaskedLM
from hyena_glt.tokenizers import build_tokenizer
from tests.data.micro_steps import MicroSteps
from tests.tiny_run import random_bases, write_data

CHAR = build_tokenizer("dna", TokenizationConfig(kind="char"))
BASES = {"large": 1600, "small": 230, "wide": 900}
WIDTHS = {"large": 16, "small": 16, "wide": 24}
ROWS = {"large": 100, "small": 15, "wide": 38}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    """Three datasets of different letters and widths; `small` has weights."""
    folder = tmp_path_factory.mktemp("data")
    for seed, (name, number) in enumerate(BASES.items()):
        letters = random_bases(number, seed).encode()
        letters = letters[: number // 2].lower() + letters[number // 2 :]
        write_data(
            folder / name, CHAR, {"train": letters, "val": letters[:50]}, max_length=WIDTHS[name],
            soft_masked=0.25 if name == "small" else None,
        )
    return {name: str(folder / name) for name in BASES}


def opened(folders: dict[str, str], names: Sequence[str], **settings: object) -> Mixture:
    return open_training(DataConfig(train_path=tuple(folders[name] for name in names), **settings))


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["data/human"], ["human"]),
        (["data/human", "data/mouse"], ["human", "mouse"]),
        (["a/human/out", "b/mouse/out"], ["human", "mouse"]),
        (["a/human/out", "b/human/out"], ["a", "b"]),
        (["a/x", "a/y", "b/x"], ["a/x", "a/y", "b/x"]),
        (["data", "data/data"], ["projects", "data"]),
        (["/data", "/more/data"], ["/data", "more/data"]),
    ],
)
def test_a_domain_is_named_by_what_tells_its_folder_apart(paths, names):
    assert domain_names("data.train_path", [Path("/projects") / path for path in paths]) == names


def test_a_dataset_named_twice(folders):
    with pytest.raises(ConfigError, match=r"^data.train_path: .*small is named twice; set data.mixture_weights to draw more from it$"):
        opened(folders, ["small", "large", "small"])


def test_datasets_of_other_tokenizers_do_not_mix(folders, tmp_path):
    kmers = build_tokenizer("dna", TokenizationConfig(kmer_size=4))
    other = write_data(tmp_path / "kmers", kmers, {"train": b"ACGT" * 20}, max_length=16)
    with pytest.raises(DataError, match=r"data.train_path: .*kmers was tokenized in another way than .*small \(Kmer.*; preprocess"):
        opened(folders | {"kmers": str(other)}, ["small", "kmers"])


@given(st.lists(st.floats(0.1, 100), min_size=3, max_size=3), st.sampled_from([0.5, 1.0, 2.0, 5.0]), st.booleans())
def test_tokens_come_in_shares_of_the_weights_to_the_power_of_one_over_the_temperature(folders, weights, temperature, given_weights):
    mixture = opened(folders, ["large", "small", "wide"], mixture_temperature=temperature, **(
        {"mixture_weights": tuple(weights)} if given_weights else {}
    ))
    powers = [weight ** (1 / temperature) for weight in (weights if given_weights else BASES.values())]
    tokens = [share * BASES[name] / ROWS[name] for name, share in zip(BASES, mixture.shares, strict=True)]
    assert sum(mixture.shares) == pytest.approx(1)
    assert [number / sum(tokens) for number in tokens] == pytest.approx([power / sum(powers) for power in powers])


def test_without_weights_each_row_comes_equally_often(folders):
    mixture = opened(folders, list(BASES))
    assert mixture.shares * mixture.num_rows == pytest.approx(list(ROWS.values())) and mixture.num_rows == sum(ROWS.values())
    assert mixture.padding_share == pytest.approx(1 - sum(BASES.values()) / (mixture.num_rows * 24))


def test_rows_are_those_of_the_datasets_padded_to_the_widest(folders):
    mixture = opened(folders, list(BASES))
    rng = np.random.default_rng(0)
    domains = rng.integers(0, 3, 50)
    numbers = np.array([rng.integers(list(ROWS.values())[domain]) for domain in domains])
    found = mixture.tokens(domains, numbers)
    assert found.ids.shape == (50, mixture.width) == (50, 24)
    for ids, weights, domain, number in zip(found.ids, found.weights, domains, numbers, strict=True):
        name = list(BASES)[domain]
        own = open_rows(folders[name], "train").read(np.array([number]))[0]
        assert ids.tolist() == own.tolist() + [0] * (24 - len(own))
        places = number * 16 + np.arange((own != 0).sum())
        wanted = np.where((places < 115) & (name == "small"), 0.25, 1.0)
        assert weights[: len(places)].tolist() == wanted.tolist(), "a dataset without weights counts 1"


def test_a_row_is_moved_also_where_its_letters_stay_the_same(tmp_path):
    for name, letters in (("same", b"A" * 40), ("other", b"ACGT" * 10)):
        write_data(tmp_path / name, CHAR, {"train": letters}, max_length=16)
    mixture = opened({name: str(tmp_path / name) for name in ("same", "other")}, ["same", "other"], max_shift=8)
    domains, numbers = np.repeat([0, 1], 3), np.tile([0, 1, 2], 2)
    assert mixture.moved(domains, numbers, np.array([3, 8, 3, 3, 8, 3])).tolist() == [True, True, False] * 2
    assert mixture.moved(domains, numbers, np.array([0, 8, 0, 9, 9, 0])).tolist() == [False, True, False, True, False, False]
    plain = opened({"same": str(tmp_path / "same")}, ["same"])
    assert plain.moved(domains[:1], numbers[:1], np.array([3])).tolist() == [False]


def test_there_are_no_weights_where_no_dataset_has_them(folders):
    assert opened(folders, ["large", "wide"]).tokens(np.array([0, 1]), np.array([0, 0])).weights is None


def test_sequence_length_cuts_all_datasets(folders):
    mixture = opened(folders, list(BASES), sequence_length=10)
    assert (mixture.width, mixture.num_rows) == (10, 2 * 100 + 2 * 15 + 3 * 38)


def test_the_checksum_covers_all_datasets_in_order(folders):
    one, two, three = opened(folders, ["large"]), opened(folders, ["large", "small"]), opened(folders, ["small", "large"])
    assert one.checksum() == file_sha256(one.rows[0].folder / "manifest.json")
    assert len({one.checksum(), two.checksum(), three.checksum()}) == 3


def test_validation_rows_by_domain(folders):
    validation = open_validation(DataConfig(val_path=tuple(folders.values())))
    assert {name: rows.split for name, rows in validation.items()} == dict.fromkeys(BASES, "val")
    assert open_validation(DataConfig()) == {}


def training(mixture: Mixture, part: Slice) -> MicroSteps:
    augmentation = Augmentation(reverse_complement=0.5, max_shift=4, seed=3)
    return MicroSteps(TrainingBatches(mixture, MaskedLM(0.3, vocab_size=4), 3, 2, augmentation), part)


@pytest.mark.parametrize("shape", [(1, 3, 4), (2, 6, 1), (3, 2, 2), (12, 1, 1)])
def test_workers_and_restarts_do_not_change_a_global_batch(folders, shape):
    mixture = opened(folders, list(BASES), mixture_weights=(1, 2, 3), max_shift=4)
    whole = training(mixture, Slice(0, 1, 12, 1))
    wanted = {step: whole[step] for step in (0, 1, 40)}
    for step in (40, 1, 0):
        workers = [training(mixture, Slice(rank, *shape)) for rank in range(shape[0])]
        made = [worker[step * shape[2] + micro] for micro in range(shape[2]) for worker in workers]
        for name in ("inputs", "targets", "padding", "weights"):
            assert torch.equal(torch.cat([getattr(batch, name) for batch in made]), getattr(wanted[step], name))
        assert sum(batch.total_weight for batch in made) == wanted[step].total_weight
        tokens = np.sum([batch.domain_tokens for batch in made], axis=0)
        assert tuple(tokens) == wanted[step].domain_tokens and sum(tokens) == wanted[step].num_tokens


def test_no_row_is_lost_in_a_domains_epoch(folders):
    """Causal and unaugmented, so that a batch's inputs are its rows."""
    mixture = opened(folders, list(BASES), mixture_weights=(1, 5, 1))
    batches = MicroSteps(TrainingBatches(mixture, CausalLM(), 1, 2), Slice(0, 1, 20, 1))
    seen = [row.tobytes() for step in range(60) for row in batches[step].inputs.numpy()]
    for domain, rows in enumerate(mixture.rows):
        every = mixture.tokens(np.full(rows.num_rows, domain), np.arange(rows.num_rows)).ids.astype(np.int64)
        known = {row.tobytes() for row in every}
        assert len(known) == rows.num_rows
        mine = [row for row in seen if row in known]
        epochs = [mine[first : first + rows.num_rows] for first in range(0, len(mine) - rows.num_rows + 1, rows.num_rows)]
        assert epochs and all(set(epoch) == known for epoch in epochs)


def test_tokens_are_counted_by_domain(folders):
    mixture = opened(folders, list(BASES))
    batch = TrainingBatches(mixture, CausalLM(), 1, 2)[Request(0, 500)]
    every = [mixture.tokens(np.full(rows.num_rows, d), np.arange(rows.num_rows)).ids for d, rows in enumerate(mixture.rows)]
    lengths = [{row.astype(np.int64).tobytes(): (row != 0).sum() for row in ids} for ids in every]
    found = [sum(of_domain.get(row.tobytes(), 0) for row in batch.inputs.numpy()) for of_domain in lengths]
    assert batch.domain_tokens == tuple(found)
