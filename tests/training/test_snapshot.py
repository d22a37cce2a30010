"""Copies of a training state on the host: they share nothing with it, and page-locked memory is kept for the next one."""

from __future__ import annotations

from collections import OrderedDict
from enum import Enum
from pathlib import Path

import pytest
import torch

from hyena_glt.training.snapshot import HostMemory, Snapshot

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]


class Kind(Enum):
    """What DeepSpeed keeps beside tensors."""

    ONE = 1


def state(device: str) -> dict:
    """Nested, with a part of a larger storage, a scalar and a transposed matrix."""
    base = torch.arange(24.0, device=device)
    return {
        "groups": [OrderedDict(weight=base[2:8], step=torch.tensor(3, device=device)), {"kind": Kind.ONE, "names": ("a", "b")}],
        "matrix": base.view(4, 6).T, "numbers": [1, 2.5, None],
    }


def tensors(copied: dict) -> list[torch.Tensor]:
    return [copied["groups"][0]["weight"], copied["groups"][0]["step"], copied["matrix"]]


@pytest.mark.parametrize("device", DEVICES)
def test_a_copy_shares_nothing_and_is_no_larger_than_it_shows(device: str) -> None:
    memory, original = HostMemory(), state(device)
    copied = memory.copy(original)
    memory.wait()
    for value in (original["groups"][0]["weight"], original["matrix"]):
        value.add_(100)
    original["numbers"].append(4)
    wanted = state("cpu")
    for found, expected in zip(tensors(copied), tensors(wanted), strict=True):
        assert found.device.type == "cpu" and torch.equal(found, expected)
        assert found.untyped_storage().nbytes() == expected.nbytes
    assert copied["numbers"] == [1, 2.5, None] and copied["groups"][1] == {"kind": 1, "names": ("a", "b")}
    assert isinstance(copied["groups"][0], OrderedDict)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_next_snapshot_of_a_gpu_takes_the_same_memory() -> None:
    memory, places = HostMemory(), []
    for number in range(3):
        memory.reuse()
        copied = memory.copy({"a": torch.full((1000,), float(number), device="cuda"), "b": torch.ones(3 + number // 2, device="cuda")})
        memory.wait()
        assert copied["a"].is_pinned() and copied["a"].eq(number).all() and len(copied["b"]) == 3 + number // 2
        places.append((copied["a"].data_ptr(), copied["b"].data_ptr()))
    assert places[0] == places[1] and places[2][0] == places[0][0], "only what has another size may move"


def test_weights_that_cannot_be_written_are_an_error_of_the_system_which_a_save_tries_again(tmp_path: Path) -> None:
    snapshot = Snapshot({}, {"weight": torch.ones(2)})
    assert snapshot.write(tmp_path) == ["model.safetensors"]
    with pytest.raises(OSError, match="No such file or directory"):
        snapshot.write(tmp_path / "away")
