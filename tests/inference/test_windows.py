"""Windows tile every sequence, and each token is predicted where it sees most."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyena_glt.inference.windows import Context, Window, batched, count_windows, cut_windows, pad_rows
from hyena_glt.tokenizers.base import CLS, SEP


@pytest.mark.parametrize(
    ("num_tokens", "causal", "expected"),
    [
        (0, True, []),
        (10, True, [Window(0, 10, 0, 10)]),
        (16, True, [Window(0, 10, 0, 10), Window(6, 16, 10, 16)]),
        (16, False, [Window(0, 10, 0, 8), Window(6, 16, 8, 16)]),
        # The last window is moved left to keep its size, so its neighbour shares more than the overlap with it.
        (18, True, [Window(0, 10, 0, 10), Window(6, 16, 10, 16), Window(8, 18, 16, 18)]),
        (18, False, [Window(0, 10, 0, 8), Window(6, 16, 8, 12), Window(8, 18, 12, 18)]),
    ],
)
def test_windows_of_ten_sharing_four(num_tokens, causal, expected):
    assert cut_windows(num_tokens, size=10, overlap=4, causal=causal) == expected


@given(st.integers(1, 300), st.integers(2, 40), st.data(), st.booleans())
def test_kept_stretches_tile_and_see_enough(num_tokens, size, data, causal):
    overlap = data.draw(st.integers(1, size - 1))
    windows = cut_windows(num_tokens, size=size, overlap=overlap, causal=causal)
    assert [t for w in windows for t in range(w.keep_start, w.keep_end)] == list(range(num_tokens))
    for window in windows:
        assert window.end - window.start == min(size, num_tokens)
        left = window.keep_start - window.start
        right = window.end - window.keep_end
        assert window.start == 0 or left >= (overlap if causal else overlap // 2)
        assert causal or window.end == num_tokens or right >= overlap // 2
    first, last = sorted(data.draw(st.tuples(*[st.integers(0, len(windows))] * 2)))
    assert cut_windows(num_tokens, size=size, overlap=overlap, causal=causal, first=first, last=last) == windows[first:last]
    assert count_windows(np.array([0, num_tokens, 1]), size=size, overlap=overlap).tolist() == [0, len(windows), 1]


@pytest.mark.parametrize("overlap", [0, 10])
def test_overlap_out_of_range(overlap):
    with pytest.raises(ValueError, match=rf"overlap must lie between 1 and 9 \(a window holds 10 tokens\), got {overlap}"):
        cut_windows(11, size=10, overlap=overlap, causal=True)


def test_specials_frame_each_window():
    context = Context(size=4, overlap=2, causal=True, add_special_tokens=True)
    ids = np.arange(5, 11, dtype=np.uint8)
    assert [context.lay_out(ids, w).tolist() for w in context.windows(6)] == [[CLS, 5, 6, 7, 8, SEP], [CLS, 7, 8, 9, 10, SEP]]


def test_padding_and_batches():
    assert pad_rows([np.array([7, 8]), np.array([9])]).tolist() == [[7, 8], [9, 0]]
    assert list(batched(iter("abcde"), 2)) == [["a", "b"], ["c", "d"], ["e"]]
