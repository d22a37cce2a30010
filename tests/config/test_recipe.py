"""Stages and curricula as settings: what is refused, and with which words."""

from __future__ import annotations

import pytest

from hyena_glt.config import StageConfig, load_config
from hyena_glt.errors import ConfigError


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["training.stages=[{name: a, epoch: 3}]"],
         "training.stages: unknown setting epoch in an item; did you mean epochs? (override)"),
        (["training.stages=[{name: a, zzz: 3}]"],
         "training.stages: unknown setting zzz in an item; it has name, epochs, steps, tokens, learning_rate, schedule, min_learning_rate, "
         "warmup_steps, cooldown_steps, batch_ramp, dropout, eval_interval, early_stopping_patience (override)"),
        (["training.stages=[{name: a, epochs: many}]"],
         "training.stages: epochs of an item: found many, wanted a number or null (override)"),
        (["training.stages=[{epochs: 3}]"], "training.stages: an item has no name (override)"),
        (["training.stages=3"], "training.stages: found 3, wanted a list, each item a section of settings (override)"),
        (["training.stages=[3]"], "training.stages: found [3], wanted a list, each item a section of settings (override)"),
        (["training.stages=[{name: a, epochs: 2, steps: 3}]"],
         "training.stages: a: name: a has epochs and steps; a stage has one length (override)"),
        (["training.stages=[{name: a, min_learning_rate: 1}]"],
         "training.stages: a: min_learning_rate (1.0) has no effect with a constant schedule; remove it (override)"),
        (["training.stages=[{name: a}, {name: b, epochs: 2}]"],
         "training.stages: a needs epochs, steps or tokens; only the last stage may go on to the end of the run"),
        (["training.stages=[{name: a, epochs: 1}, {name: a, epochs: 2}]"], "training.stages: a is there twice; each needs its own name"),
        (["training.stages=[{name: a, batch_ramp: [0.5, 1]}]"],
         "training.stages: a: batch_ramp needs the stage's length: give epochs, steps or tokens (override)"),
        (["training.stages=[{name: a, batch_ramp: [0.5, 2], epochs: 1}]"],
         "training.stages: a: batch_ramp: each share must lie above 0 and up to 1, got (0.5, 2.0) (override)"),
        (["curriculum.sequence_length={values: [8], at: []}"], "curriculum.sequence_length.values needs two or more, got 1"),
        (["curriculum.sequence_length={values: [8, 16], at: [1, 2]}"],
         "curriculum.sequence_length.at needs 1 numbers for 2 values, got 2"),
        (["curriculum.sequence_length={values: [8, 16, 32], at: [2, 1]}"], "curriculum.sequence_length.at must rise, got [2.0, 1.0]"),
        (["curriculum.sequence_length={values: [8, 16], at: [0.5], by: step}"],
         "curriculum.sequence_length.at takes whole numbers with by: step"),
        (["curriculum.sequence_length={values: [8, 4096], at: [1]}"],
         "curriculum.sequence_length.values must be at most 1024 (data.sequence_length or model.max_position_embeddings)"),
        (["curriculum.batch_size={values: [0.5, 1.5], at: [1]}"],
         "curriculum.batch_size.values must lie above 0 and up to 1, got [0.5, 1.5]"),
        (["curriculum.mask_probability={values: [0.5, 1], at: [1]}"],
         "curriculum.mask_probability.values must lie between 0 and 1, got [0.5, 1.0]"),
        (["curriculum.mask_probability={values: [0.5, 0.6], at: [1]}", "tasks.causal_lm={}"],
         "curriculum.mask_probability has no effect without tasks.masked_lm; remove it"),
        (["curriculum.mixture_weights={values: [[1, 2], [2, 1]], at: [1]}"],
         "curriculum.mixture_weights.values needs 1 weights in each item, one for each of several data.train_path"),
        (["curriculum.mixture_weights={values: [[1, 2], [0, 1]], at: [1]}", "data.train_path=[a, b]"],
         "curriculum.mixture_weights.values must be positive, got [[1.0, 2.0], [0.0, 1.0]]"),
        (["curriculum.difficulty={values: [0, 1], at: [1]}"], "curriculum.difficulty.values must lie above 0 and up to 1, got [0.0, 1.0]"),
        (["training.schedule=inverse_sqrt"],
         "training.warmup_steps must be positive with schedule inverse_sqrt, which falls as sqrt(warmup_steps / step)"),
        (["training.cooldown_steps=5"], "training.cooldown_steps (5) has no effect unless schedule is wsd; remove it"),
        (["training.muon_momentum=0.9"], "training.muon_momentum (0.9) has no effect unless optimizer is muon; remove it"),
        (["training.layer_rate_decay=1.5"], "training.layer_rate_decay must lie above 0 and up to 1, got 1.5"),
        (["training.stages=[{name: a, steps: 3}]", "training.warmup_steps=5"],
         "training.warmup_steps (5) has no effect beside stages, which have their own; remove it"),
        (["training.optimizer=muon", "hardware.zero_stage=3", "training.on_bad_step=skip"],
         "training.optimizer: muon under zero_stage 3 keeps what a step that is left out did to its momentum; take zero_stage 0 to 2, "
         "or another on_bad_step or precision"),
        (["training.spike_factor=1"], "training.spike_factor must be above 1, got 1.0"),
    ],
)
def test_refusals(settings, sentence):
    with pytest.raises(ConfigError) as refusal:
        load_config(overrides=settings)
    assert refusal.value.problems == (sentence,)


def test_stages_and_curricula_read_as_written():
    cfg = load_config(overrides=[
        "training.stages=[{name: first, tokens: 2e9, learning_rate: 1e-4, warmup_steps: 10}, {name: second}]",
        "curriculum.sequence_length={values: [256, 512, 1024], at: [20, 60]}",
    ])
    assert cfg.training.stages == (
        StageConfig(name="first", tokens=2_000_000_000, learning_rate=1e-4, warmup_steps=10), StageConfig(name="second"),
    )
    assert cfg.curriculum.sequence_length.by == "epoch" and list(cfg.curriculum.given()) == ["sequence_length"]
