"""Loading: every kind of path, and each way in which a checkpoint does not fit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hyena_glt.errors import CheckpointError, DataError
from hyena_glt.inference import load_model
from hyena_glt.inference.load import require_same_tokenizer
from hyena_glt.tokenizers import load_tokenizer
from hyena_glt.training.checkpoint import WEIGHTS_FILE
from tests.tiny_run import random_model


@pytest.mark.parametrize("path", ["", "checkpoints", "checkpoints/step_00000001", "checkpoints/latest", "checkpoints/best_model"])
def test_every_kind_of_path(tmp_path, path):
    made = random_model(tmp_path, causal=True)
    loaded = load_model(tmp_path / path)
    assert loaded.path == tmp_path / "checkpoints" / "step_00000001"
    assert loaded.causal and not loaded.model.training
    assert loaded.tokenizer == made.tokenizer and loaded.config == made.config
    ids = torch.arange(5, 9)[None]
    with torch.no_grad():
        assert torch.equal(loaded.model(ids), made.model(ids))


def test_masked_model_is_not_causal(tmp_path):
    assert not random_model(tmp_path, causal=False).causal


def test_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*: it is not a step folder .* nor checkpoints/latest"):
        load_model(tmp_path)


def test_another_architecture(tmp_path):
    random_model(tmp_path, causal=True)
    with pytest.raises(CheckpointError) as caught:
        load_model(tmp_path, overrides=["model.num_layers=4", "model.se_taps=5"])
    message = str(caught.value)
    assert "belongs to another architecture than the settings describe" in message
    assert " missing (backbone.blocks.3." in message
    assert "of another shape (backbone.blocks.0." in message
    with pytest.raises(CheckpointError, match=r"unexpected \(backbone\.blocks\.2\..*, \.\.\.\)"):
        load_model(tmp_path, overrides=["model.num_layers=2"])


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_weights_that_cannot_be_read(tmp_path, damage):
    weights = random_model(tmp_path, causal=True).path / WEIGHTS_FILE
    weights.write_bytes(weights.read_bytes()[:-100]) if damage == "cut" else weights.unlink()
    with pytest.raises(CheckpointError, match=rf"{WEIGHTS_FILE} cannot be read \(.*take another checkpoint"):
        load_model(tmp_path)


def test_tokenizer_of_other_data(tmp_path):
    model = random_model(tmp_path, causal=True, tokenization={"kind": "kmer", "kmer_size": 3}).tokenizer
    require_same_tokenizer(model, load_tokenizer(model.to_dict()), "data")
    with pytest.raises(DataError) as caught:
        require_same_tokenizer(model, replace(model, kmer_stride=1), "some/data")
    assert str(caught.value).startswith(
        "some/data was tokenized in another way than the model's training data: kmer_stride is 1 in the data, 3 in the checkpoint."
    )
