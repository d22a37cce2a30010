"""Each value that a section refuses where it is declared, and what it says."""

from __future__ import annotations

from dataclasses import fields, is_dataclass

import pytest

from hyena_glt.config import Config, load_config
from hyena_glt.config.settings import SETTINGS, section_type
from hyena_glt.errors import ConfigError


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        ("preprocessing.min_length=2000", "preprocessing.min_length (2000) must lie between 1 and max_length (1024)"),
        ("preprocessing.max_ambiguous_fraction=2", "preprocessing.max_ambiguous_fraction must lie between 0 and 1, got 2.0"),
        ("preprocessing.split.val=1", "preprocessing.split.val must be at least 0 and below 1, got 1.0"),
        (
            "preprocessing.split.val=0.5 preprocessing.split.test=0.5",
            "preprocessing.split.val (0.5) and test (0.5) leave nothing to train on",
        ),
        ("preprocessing.split.by=named", "preprocessing.split.by: named needs val_records or test_records"),
        ("preprocessing.split.val_records=[x]", "preprocessing.split.by: val_records and test_records go with `by: named`, got record"),
        (
            "preprocessing.split.by=named preprocessing.split.val_records=[x,y] preprocessing.split.test_records=[y]",
            "preprocessing.split.val_records and test_records both hold y",
        ),
        (
            "preprocessing.split.by=tail preprocessing.split.seed=3",
            "preprocessing.split.seed (3) has no effect with `by: tail`, which draws no records; remove it",
        ),
        (
            "preprocessing.split.by=named preprocessing.split.val_records=[x] preprocessing.split.seed=3",
            "preprocessing.split.seed (3) has no effect with `by: named`, which draws no records; remove it",
        ),
        (
            "preprocessing.split.by=named preprocessing.split.val_records=[x] preprocessing.split.val=0.2",
            "preprocessing.split.val (0.2) has no effect with `by: named`, which lists records; remove it",
        ),
        (
            "preprocessing.filter_n_bases=false preprocessing.max_ambiguous_fraction=0.1",
            "preprocessing.max_ambiguous_fraction (0.1) has no effect with `filter_n_bases: false`, which keeps all; remove it",
        ),
        ("tokenization.kmer_size=8", "tokenization.kmer_size must lie between 1 and 7, got 8"),
        ("tokenization.kmer_stride=2", "tokenization.kmer_stride must be kmer_size (6, disjoint) or 1 (overlapping), got 2"),
        ("tokenization.vocab_size=0", "tokenization.vocab_size must be at least 1, got 0"),
        ("tokenization.stride=0", "tokenization.stride must be at least 1, got 0"),
        ("tokenization.overlap=-1", "tokenization.overlap must be at least 0, got -1"),
        ("output.chunk_size=0", "output.chunk_size must be at least 1, got 0"),
        ("model.num_layers=0", "model.num_layers must be at least 1, got 0"),
        ("model.hyena_order=1", "model.hyena_order must be at least 2, got 1"),
        ("model.mixers=[]", "model.mixers needs at least one kind"),
        ("model.hidden_size=100", "model.hidden_size (100) must be a multiple of num_attention_heads (12), because mixers has attention"),
        (
            "model.mixers=[li] model.position_encoding=rotary",
            "model.position_encoding: rotary positions act in attention layers, and mixers gives none to these num_layers",
        ),
        ("model.hyena_order=3", "model.hyena_order (3) has no effect because mixers gives no `hyena` to these num_layers; remove it"),
        (
            "model.hyena_filter_order=32",
            "model.hyena_filter_order (32) has no effect because mixers gives no `hyena` to these num_layers; remove it",
        ),
        (
            "model.hyena_filter_shift=0.05",
            "model.hyena_filter_shift (0.05) has no effect because mixers gives no `hyena` to these num_layers; remove it",
        ),
        (
            "model.mixers=[li] model.se_taps=9",
            "model.se_taps (9) has no effect because mixers gives no `se` to these num_layers; remove it",
        ),
        (
            "model.num_layers=1 model.mr_taps=9",
            "model.mr_taps (9) has no effect because mixers gives no `mr` to these num_layers; remove it",
        ),
        (
            "model.mixers=[se] model.li_poles=9",
            "model.li_poles (9) has no effect because mixers gives no `li` to these num_layers; remove it",
        ),
        ("model.dropout=1", "model.dropout must be at least 0 and below 1, got 1.0"),
        ("model.layer_norm_eps=0", "model.layer_norm_eps must be positive, got 0.0"),
        ("training.batch_size=0", "training.batch_size must be at least 1, got 0"),
        ("training.num_epochs=0", "training.num_epochs must be positive, got 0.0"),
        ("training.learning_rate=0", "training.learning_rate must be positive, got 0.0"),
        ("training.min_learning_rate=1", "training.min_learning_rate must lie between 0 and learning_rate (0.0006), got 1.0"),
        ("training.warmup_steps=-1", "training.warmup_steps must be at least 0, got -1"),
        ("training.adam_beta1=1", "training.adam_beta1 must be at least 0 and below 1, got 1.0"),
        ("data.sequence_length=1", "data.sequence_length must be at least 2, got 1"),
        ("data.shuffle_row_groups=0", "data.shuffle_row_groups must be at least 1, got 0"),
        ("hardware.num_gpus=-1", "hardware.num_gpus must be at least 0, got -1"),
        ("hardware.mixed_precision=true hardware.precision=fp32", "hardware.mixed_precision (True) contradicts precision (fp32)"),
        ("hardware.offload_parameters=true", "hardware.offload_parameters needs zero_stage 3, got 1"),
        ("hardware.offload_optimizer=true hardware.zero_stage=0", "hardware.offload_optimizer needs zero_stage 1 or more, got 0"),
        ("logging.save_epochs=0", "logging.save_epochs must be at least 1, got 0"),
        ("tasks.masked_lm.mask_probability=1", "tasks.masked_lm.mask_probability must lie between 0 and 1, got 1.0"),
        ("tasks.causal_lm.weight=-1", "tasks.causal_lm.weight must be at least 0, got -1.0"),
        ("tasks.next_sentence_prediction.weight=-1", "tasks.next_sentence_prediction.weight must be at least 0, got -1.0"),
        ("tasks.sequence_order_prediction.weight=-1", "tasks.sequence_order_prediction.weight must be at least 0, got -1.0"),
        ("tasks.masked_lm.weight=0", "tasks: every weight is 0, so nothing is trained"),
        ("compression.compression_ratio=0.5", "compression.compression_ratio (0.5) has no effect without a method; remove it"),
        ("compression.sparsity_threshold=0.5", "compression.sparsity_threshold (0.5) has no effect without a method; remove it"),
        (
            "hardware.num_gpus=4 cluster.train_workers=2",
            "hardware.num_gpus (4) has no effect beside cluster.train_workers (2), "
            "which is the number of workers with a GPU each too; keep one",
        ),
        ("cluster.train_workers=0", "cluster.train_workers must be a number from 1 or [min, max], got 0"),
        ("cluster.train_workers=[4,2]", "cluster.train_workers must be a number from 1 or [min, max], got (4, 2)"),
        ("cluster.cpus_per_worker=0", "cluster.cpus_per_worker must be at least 1, got 0"),
        ("cluster.max_failures=-1", "cluster.max_failures must be at least 0, got -1"),
        (
            "tokenization.overlap=24",
            "tokenization.stride (1024) must be at most 1000, "
            "so that windows of preprocessing.max_length (1024) share tokenization.overlap (24)",
        ),
        (
            "preprocessing.split.by=interval",
            "preprocessing.split.by: interval needs val_intervals or test_intervals",
        ),
        (
            "preprocessing.split.val_intervals=[chr1:1-100]",
            "preprocessing.split.by: val_intervals and test_intervals go with `by: interval`, got record",
        ),
        (
            "preprocessing.split.cluster_threshold=0.3",
            "preprocessing.split.cluster_threshold (0.3) has no effect with `by: record`; remove it",
        ),
        ("preprocessing.split.max_leakage=2", "preprocessing.split.max_leakage must lie between 0 and 1, got 2.0"),
        ("preprocessing.near_duplicates.threshold=0", "preprocessing.near_duplicates.threshold must be above 0 and at most 1, got 0.0"),
        (
            "preprocessing.near_duplicates.num_hashes=4",
            "preprocessing.near_duplicates.num_hashes must be one of 16, 32, 64, 128, 256, 512, 1024, got 4",
        ),
        ("preprocessing.variants.samples=[HG00096]", "preprocessing.variants.path: name the VCF files"),
        ("preprocessing.weight_regions.weight=-1", "preprocessing.weight_regions.path: name GFF3, GTF or BED files"),
        (
            "preprocessing.soft_masked_weight=0.5",
            "preprocessing.soft_masked_weight (0.5) has no effect with `soft_masked: keep`; remove it",
        ),
        (
            "preprocessing.soft_masked=weight preprocessing.soft_masked_weight=1001",
            "preprocessing.soft_masked_weight must lie between 0 and 1000, got 1001.0",
        ),
        (
            "preprocessing.sequence_type=protein tokenization.kind=amino_acid preprocessing.near_duplicates.kmer_size=13",
            "preprocessing.near_duplicates: kmer_size must be at most 12 for protein",
        ),
        (
            "preprocessing.sequence_type=protein tokenization.kind=amino_acid preprocessing.variants.path=a.vcf",
            "preprocessing.variants: a protein has no reference genome to apply them to; remove the section",
        ),
        (
            "preprocessing.go_terms.path=a.gaf",
            "preprocessing.go_terms: they are of proteins, and sequence_type is dna; remove them",
        ),
        (
            "preprocessing.variants.path=a.vcf preprocessing.split.by=file",
            "preprocessing.split: `by: file` would put haplotypes of one stretch into different splits; "
            "take interval, chromosome or record",
        ),
        (
            "preprocessing.variants.path=a.vcf preprocessing.variants.regions=[chr1:1-9] preprocessing.split.by=tail",
            "preprocessing.split: the tail of a region lies in the midst of the reference; take interval, "
            "or set variants.keep_reference to false",
        ),
        (
            "preprocessing.weight_regions.path=a.bed preprocessing.weight_regions.weight=1e9",
            "preprocessing.weight_regions.weight must lie between 0 and 1000, got 1000000000.0",
        ),
        (
            "preprocessing.soft_masked=weight preprocessing.soft_masked_weight=900 preprocessing.weight_regions.path=a.bed",
            "preprocessing.weight_regions: weight times soft_masked_weight must be at most 1000",
        ),
        ("data.mixture_weights=[1,2]", "data.mixture_weights needs one number for each of the 1 train_path, got 2"),
        ("data.reverse_complement=1.5", "data.reverse_complement must lie between 0 and 1, got 1.5"),
        ("data.sequence_length=2048", "data.sequence_length (2048) must be at most model.max_position_embeddings (1024)"),
    ],
)
def test_refused_values(overrides, problem):
    with pytest.raises(ConfigError) as refusal:
        load_config(overrides=overrides.split())
    assert problem in refusal.value.problems
    assert all(line.startswith(problem.split(" ")[0].rpartition(".")[0]) for line in refusal.value.problems)


def test_every_section_is_frozen_slotted_and_keyword_only():
    sections = [Config, *filter(None, map(section_type, SETTINGS.values()))]
    for section in sections:
        assert is_dataclass(section) and section.__dataclass_params__.frozen and "__slots__" in vars(section), section
        assert all(field.kw_only for field in fields(section)), section
        assert section.__doc__ and not section.__doc__.startswith(f"{section.__name__}("), section


def test_attention_that_no_layer_reaches_does_not_bind_the_width():
    assert load_config(overrides=["model.num_layers=6", "model.hidden_size=100"]).model.hidden_size == 100


@pytest.mark.parametrize("overrides", [
    "hardware.num_gpus=0 cluster.train_workers=2", "hardware.num_gpus=2 cluster.train_workers=2",
    "hardware.num_gpus=4 cluster.train_workers=[1,2]", "model.num_layers=2 model.mr_taps=9", "model.mixers=[hyena] model.hyena_order=3",
    "compression.method=pruning compression.sparsity_threshold=0.1", "preprocessing.filter_n_bases=false", "preprocessing.split.seed=3",
])
def test_settings_that_have_an_effect_together(overrides):
    load_config(overrides=overrides.split())
