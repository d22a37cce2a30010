"""The order of training rows: every row once an epoch, domains by their shares, and any place asked for alone."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyena_glt.data.order import BLOCK_ROWS, Interleave, Shuffle, Stream

sizes = st.lists(st.integers(1, 6), min_size=1, max_size=8).map(np.array)


def shuffle(group_sizes: np.ndarray, seed: int, window_groups: int) -> Shuffle:
    return Shuffle(group_sizes, seed=seed, window_groups=window_groups)


@given(sizes, st.integers(0, 3), st.integers(1, 10))
def test_every_row_comes_once_an_epoch(group_sizes, seed, window_groups):
    number = int(group_sizes.sum())
    order = shuffle(group_sizes, seed, window_groups).rows(np.arange(3 * number)).reshape(3, number)
    assert (np.sort(order) == np.arange(number)).all()


@given(sizes, st.integers(0, 3), st.integers(1, 10))
def test_only_one_window_of_row_groups_is_open_at_a_time(group_sizes, seed, window_groups):
    groups = np.repeat(np.arange(len(group_sizes)), group_sizes)
    order = groups[shuffle(group_sizes, seed, window_groups).rows(np.arange(len(groups)))].tolist()
    while order:
        opened = []
        while order and (order[0] in opened or len(opened) < window_groups):
            opened = [*opened, *({order[0]} - set(opened))]
            order.pop(0)
        assert not set(opened) & set(order), "a window is read to its end before the next begins"


@given(sizes, st.data())
def test_a_place_in_the_stream_can_be_asked_for_in_any_order(group_sizes, data):
    number = int(group_sizes.sum())
    order = shuffle(group_sizes, 1, 2).rows(np.arange(3 * number))
    asked = data.draw(st.lists(st.integers(0, 3 * number - 1), max_size=20))
    assert shuffle(group_sizes, 1, 2).rows(np.array(asked, np.int64)).tolist() == order[asked].tolist()


def test_epochs_and_seeds_differ_and_rows_are_shuffled():
    group_sizes = np.full(10, 10)
    epochs = shuffle(group_sizes, 0, 4).rows(np.arange(300)).reshape(3, 100).tolist()
    other = shuffle(group_sizes, 1, 4).rows(np.arange(100)).tolist()
    orders = [*epochs, other, list(range(100))]
    assert len({tuple(order) for order in orders}) == 5
    for order in orders[:-1]:
        in_place = sum(row == place for place, row in enumerate(order))
        neighbours = sum(after == before + 1 for before, after in pairwise(order))
        assert in_place < 15 and neighbours < 15
        assert len({row // 10 for row in order[:40]}) == 4 and len({row // 10 for row in order[:20]}) > 2


@pytest.mark.parametrize(
    "group_sizes", [np.ones(40, np.int64), np.array([40])], ids=["the order of the row groups", "the order of the rows in a window"]
)
def test_each_of_the_two_orders_is_drawn_anew_for_each_epoch_and_seed(group_sizes):
    orders = [shuffle(group_sizes, seed, 1).rows(np.arange(80)).reshape(2, 40).tolist() for seed in (0, 1)]
    assert len({tuple(order) for of_seed in orders for order in of_seed}) == 4


weights = st.lists(st.integers(1, 1000), min_size=1, max_size=6)


def shares_of(numbers: list[int]) -> np.ndarray:
    return np.array(numbers) / sum(numbers)


@given(weights, st.integers(0, 3), st.integers(0, 5 * BLOCK_ROWS))
def test_domains_come_by_their_shares_each_in_its_own_order(numbers, seed, position):
    shares = shares_of(numbers)
    domains, places = Interleave(shares, seed=seed).at(np.arange(5 * BLOCK_ROWS))
    for domain in range(len(shares)):
        mine = places[domains == domain]
        assert mine.tolist() == list(range(len(mine))), "a domain's own stream is read from its start, without gap or repeat"
    drawn = Interleave(shares, seed=seed).drawn(position)
    assert drawn.tolist() == np.bincount(domains[:position], minlength=len(shares)).tolist()


@given(weights, st.integers(0, 10**9))
def test_no_domain_leaves_its_share_however_long_the_run(numbers, position):
    drawn = Interleave(shares_of(numbers), seed=0).drawn(position)
    assert drawn.sum() == position
    for number, count in zip(numbers, drawn.tolist(), strict=True):
        assert abs(Fraction(number, sum(numbers)) * position - count) < BLOCK_ROWS + len(numbers), "the block that is not yet whole"


@given(weights, st.lists(st.integers(0, 4 * BLOCK_ROWS), max_size=20))
def test_a_place_among_domains_can_be_asked_for_in_any_order(numbers, asked):
    shares = shares_of(numbers)
    wanted = Interleave(shares, seed=2).at(np.arange(4 * BLOCK_ROWS + 1))
    found = Interleave(shares, seed=2).at(np.array(asked, np.int64))
    assert [part.tolist() for part in found] == [part[asked].tolist() for part in wanted]


def test_domains_mix_inside_a_block_by_the_seed():
    orders = [Interleave(np.array([0.5, 0.5]), seed=seed).at(np.arange(2 * BLOCK_ROWS))[0].reshape(2, -1).tolist() for seed in (0, 1)]
    assert len({tuple(order) for of_seed in orders for order in of_seed}) == 4
    runs = sum(after != before for before, after in pairwise(orders[0][0]))
    assert 0.4 * BLOCK_ROWS < runs < 0.6 * BLOCK_ROWS


@given(sizes, sizes, st.integers(0, 3))
def test_a_domain_is_read_as_if_it_were_alone(first, second, seed):
    stream = Stream([first, second], np.array([0.25, 0.75]), seed=seed, window_groups=2)
    domains, rows = stream.rows(np.arange(200))
    alone = Stream([first], np.array([1.0]), seed=seed, window_groups=2).rows(np.arange(200))[1]
    assert alone.tolist() == shuffle(first, seed, 2).rows(np.arange(200)).tolist()
    mine = rows[domains == 0]
    assert 40 < len(mine) < 60 and mine.tolist() == alone[: len(mine)].tolist()
    whole = rows[domains == 1][: second.sum()]
    assert sorted(whole.tolist()) == list(range(len(whole))), "every row of each domain once in its own epoch"


def test_domains_of_the_same_size_have_orders_of_their_own():
    group_sizes = np.full(10, 10)
    domains, rows = Stream([group_sizes] * 2, np.array([0.5, 0.5]), seed=0, window_groups=4).rows(np.arange(256))
    one, two = (rows[domains == domain][:100].tolist() for domain in (0, 1))
    assert sorted(one) == sorted(two) and sum(a == b for a, b in zip(one, two, strict=True)) < 10


@given(sizes, st.integers(0, 3), st.integers(1, 4), st.data())
def test_rows_that_are_not_admitted_never_come_and_the_others_once_an_epoch(group_sizes, seed, window_groups, data):
    number = int(group_sizes.sum())
    admitted = np.array(data.draw(st.lists(st.booleans(), min_size=number, max_size=number).filter(any)))
    order = Shuffle(group_sizes, seed=seed, window_groups=window_groups, admitted=admitted)
    assert order.num_rows == admitted.sum()
    epochs = order.rows(np.arange(2 * order.num_rows)).reshape(2, -1)
    assert (np.sort(epochs) == np.flatnonzero(admitted)).all()


def test_a_stream_that_goes_on_takes_each_domains_next_rows():
    group_sizes, shares = [np.full(4, 5), np.full(3, 7)], np.array([0.25, 0.75])
    taken = [6, 11]
    later = Stream(group_sizes, shares, seed=2, window_groups=2, domain_rows=taken)
    domains, rows = later.rows(np.arange(40))
    for domain, sizes_of in enumerate(group_sizes):
        own = Shuffle(sizes_of, seed=2, window_groups=2, domain=domain)
        count = int((domains == domain).sum())
        assert rows[domains == domain].tolist() == own.rows(np.arange(taken[domain], taken[domain] + count)).tolist()
