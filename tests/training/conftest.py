"""What the tests of the loop share: small real data, and a world of one process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from hyena_glt.config import load_config
from pipelines.preprocess import preprocess

GENOMES = Path(__file__).parents[2] / "pipelines" / "genomes"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Path:
    """The phage genomes as windows of 64 bases."""
    folder = tmp_path_factory.mktemp("data") / "phages"
    preprocess(load_config(None, [
        f"preprocessing.input_path={GENOMES}", f"output.path={folder}", "preprocessing.max_length=64", "tokenization.kind=char",
        "preprocessing.split.by=tail",
    ]))
    return folder


@pytest.fixture(scope="session")
def process_group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A world of one; DeepSpeed keeps hold of the first group that it sees, so all tests share it."""
    torch.set_num_threads(1)
    os.environ["LOCAL_RANK"] = "0"
    store = dist.FileStore(str(tmp_path_factory.mktemp("store") / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()
