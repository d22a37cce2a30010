"""The tree written out loads back equal."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hyena_glt.config import Config, MaskedLMConfig, changed_settings, config_from_dict, config_to_dict, dump_config, load_config
from hyena_glt.config.settings import options
from hyena_glt.errors import ConfigError

ROOT = Path(__file__).parents[2]
YAML_FILES = [*sorted((ROOT / "pipelines" / "configs").glob("*.yaml")), *sorted((ROOT / "tests/config/guide_blocks").glob("*.yaml"))]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ["null", "~", "yes", "1e5", "é\x85\u2028", "3", "*", "a: b", "# x", "'"]
)


@pytest.mark.parametrize("path", YAML_FILES, ids=lambda path: path.name)
def test_shipped_files_and_guide_blocks_come_back(path, tmp_path):
    cfg = load_config(path)
    (tmp_path / "saved.yaml").write_text(dump_config(cfg), encoding="utf-8")
    assert load_config(tmp_path / "saved.yaml") == cfg
    assert config_from_dict(json.loads(json.dumps(config_to_dict(cfg)))) == cfg


def values_of(declared: Any) -> st.SearchStrategy:
    """Any value of a declared type, where no check of the section stands in the way."""
    if get_origin(declared) is tuple:
        return st.lists(values_of(get_args(declared)[0]), min_size=1, max_size=3).map(tuple)
    if get_origin(declared) is Literal:
        return st.sampled_from(get_args(declared))
    if declared is type(None):
        return st.none()
    return {str: TEXT, bool: st.booleans(), int: st.integers(1, 2**60), float: st.floats(1e-300, 0.99)}[declared]


@st.composite
def trees(draw) -> Config:
    """Trees whose every setting is drawn, save those that others bind."""
    cfg = Config()
    bound = {
        "by",
        "val_records",
        "test_records",
        "val",
        "test",
        "min_length",
        "max_length",
        "kmer_size",
        "kmer_stride",
        "stride",
        "overlap",
    }
    bound |= {
        "hidden_size",
        "num_attention_heads",
        "position_encoding",
        "hyena_order",
        "learning_rate",
        "min_learning_rate",
        "sequence_length",
    }
    bound |= {"hyena_filter_order", "hyena_filter_shift", "se_taps", "mr_taps", "li_poles", "filter_n_bases", "num_gpus"}
    bound |= {"precision", "mixed_precision", "offload_optimizer", "offload_parameters", "train_workers", "max_position_embeddings"}
    bound |= {"soft_masked", "soft_masked_weight", "near_duplicates", "variants", "select_regions", "label_regions"}
    bound |= {"weight_regions", "go_terms", "scratch_path", "storage_path", "train_path", "mixture_weights", "mixture_temperature"}
    bound |= {"stages", "cooldown_steps", "muon_learning_rate", "muon_momentum", "spike_factor", "on_bad_step"}
    for name in ("preprocessing", "tokenization", "output", "model", "training", "data", "hardware", "logging", "cluster"):
        section = getattr(cfg, name)
        declared = get_type_hints(type(section))
        free = {field.name: declared[field.name] for field in fields(section) if field.name not in bound | {"split"}}
        drawn = {key: draw(st.one_of(*map(values_of, options(kind)))) for key, kind in free.items()}
        cfg = replace(cfg, **{name: replace(section, **drawn)})
    return cfg


def test_sections_that_are_off_by_default_come_back():
    regions = {"path": ["a.gff3", "b.bed"], "types": ["exon"], "anchor": "start", "upstream": 100}
    given = {
        "near_duplicates": {"threshold": 0.8}, "variants": {"path": "a.vcf.gz", "regions": ["20:1-1000"]}, "select_regions": regions,
        "label_regions": regions | {"label_by": "gene_biotype"}, "weight_regions": regions | {"weight": 0.5},
    }
    cfg = config_from_dict({"preprocessing": given})
    assert cfg.preprocessing.label_regions.label_by == "gene_biotype"
    recipe = {
        "training": {"stages": [
            {"name": "first", "epochs": 2, "learning_rate": 1e-3, "batch_ramp": [0.5, 1]},
            {"name": "é: last", "schedule": "wsd", "dropout": 0.1},
        ]},
        "curriculum": {"mask_probability": {"values": [0.1, 0.2], "at": [3], "by": "plateau"}},
    }
    cfg = config_from_dict(recipe)
    assert [stage.name for stage in cfg.training.stages] == ["first", "é: last"] and cfg.training.stages[0].batch_ramp == (0.5, 1.0)
    assert config_from_dict(yaml.safe_load(dump_config(cfg))) == cfg == config_from_dict(config_to_dict(cfg))
    assert config_from_dict(config_to_dict(cfg)) == cfg


@given(trees())
@settings(max_examples=60, deadline=None)
def test_any_tree_comes_back(cfg):
    assert config_from_dict(config_to_dict(cfg)) == cfg
    assert changed_settings(config_from_dict(config_to_dict(cfg)), cfg) == []


@given(trees())
@settings(max_examples=30, deadline=None)
def test_any_tree_comes_back_from_its_yaml(tmp_path_factory, cfg):
    path = tmp_path_factory.mktemp("saved") / "config.yaml"
    path.write_text(dump_config(cfg), encoding="utf-8", newline="")
    assert load_config(path) == cfg


def test_the_yaml_reads_well():
    text = dump_config(load_config(overrides=["model.mixers=[se,li]"]))
    assert "  mixers: [se, li]\n" in text
    assert "tasks:\n  masked_lm:\n    weight: 1.0\n    mask_probability: 0.15\n  causal_lm: null\n" in text
    assert text.index("preprocessing:") < text.index("model:") < text.index("tune:")


def test_part_of_a_tree_has_defaults_for_the_rest():
    assert config_from_dict({"training": {"seed": 3}}) == load_config(overrides=["training.seed=3"])
    with pytest.raises(ConfigError, match=r"^training.sead: unknown setting; did you mean training.seed\? \(settings\)$"):
        config_from_dict({"training": {"sead": 3}})


def test_changed_settings():
    a = load_config(overrides=["training.seed=1", "preprocessing.split.val=0.1"])
    b = load_config(overrides=["compression.method=fp16", "tasks.masked_lm.mask_probability=0.2"])
    assert changed_settings(a, a) == []
    assert changed_settings(a, b) == ["preprocessing.split.val", "training.seed", "tasks.masked_lm.mask_probability", "compression"]


def test_naming_the_default_objective_changes_nothing():
    assert load_config(overrides=["tasks.masked_lm.weight=1"]) == Config()
    assert Config().tasks.masked_lm == MaskedLMConfig()
