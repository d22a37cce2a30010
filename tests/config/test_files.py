"""The guide's YAML blocks, word for word, and the shipped files."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from hyena_glt.cli import main
from hyena_glt.config import load_config, not_built

ROOT = Path(__file__).parents[2]
BLOCKS = sorted((ROOT / "tests" / "config" / "guide_blocks").glob("*.yaml"))
SHIPPED = sorted((ROOT / "pipelines" / "configs").glob("*.yaml"))


def test_the_nine_blocks_are_as_the_guide_has_them():
    """An editor that trims spaces or fixes a comment would change what users paste."""
    text = b"".join(path.read_bytes() for path in BLOCKS)
    assert len(BLOCKS) == 9
    assert hashlib.sha256(text).hexdigest() == "0f22adcbb9379e61de3f19a02caae40be5ce073274a53f2e05300e26697aa162"


@pytest.mark.parametrize("path", [*BLOCKS, *SHIPPED], ids=lambda path: path.name)
@pytest.mark.parametrize("verb", ["check", "show"])
def test_config_check_and_show_pass(path, verb, capsys):
    assert main(["config", verb, str(path)]) == 0
    assert capsys.readouterr().out


def test_what_the_guide_asks_for_arrives():
    base = load_config(BLOCKS[1])
    assert (base.training.learning_rate, base.training.max_grad_norm, base.hardware.num_workers) == (1e-4, 1.0, 8)
    assert (base.hardware.mixed_precision, base.tasks.masked_lm.mask_probability) == (True, 0.15)
    assert load_config(BLOCKS[2]).training.gradient_accumulation_steps == 8
    assert load_config(BLOCKS[4]).hardware.pin_memory is True
    assert load_config(BLOCKS[5]).training.max_grad_norm == 0.5
    assert load_config(BLOCKS[8]).compression.sparsity_threshold == 1e-6


@pytest.mark.parametrize(
    ("name", "layers", "width", "heads", "context"),
    [
        ("small_model", 12, 768, 12, 1024),
        ("base_config", 24, 1024, 16, 2048),
        ("large_model", 48, 1536, 24, 4096),
        ("xl_model", 64, 2048, 32, 8192),
    ],
)
def test_shipped_sizes(name, layers, width, heads, context):
    cfg = load_config(f"{name}.yaml")
    model = cfg.model
    assert (model.num_layers, model.hidden_size, model.num_attention_heads, model.max_position_embeddings) == (
        layers,
        width,
        heads,
        context,
    )
    assert model.intermediate_size == 4 * width
    assert cfg.data.sequence_length == context == cfg.preprocessing.max_length // cfg.tokenization.kmer_size
    assert model.vocab_size == cfg.tokenization.vocab_size == 4**cfg.tokenization.kmer_size
    assert cfg.training.batch_size * cfg.training.gradient_accumulation_steps == 128
    assert not_built(cfg, "pretrain") == []
    assert cfg.data.train_path == cfg.output.path == "data/processed" and not Path(cfg.training.output_dir).is_absolute()
