"""What parses but cannot run yet: each stops the pipeline that would need it, with a sentence, and no other."""

from __future__ import annotations

from typing import get_args

import pytest

from hyena_glt.config import CausalLMConfig, MaskedLMConfig, Stage, active_tasks, load_config, not_built, only_task, require_built
from hyena_glt.errors import ConfigError


@pytest.mark.parametrize(
    ("override", "stage", "sentence"),
    [
        (
            "tasks.next_sentence_prediction.weight=1",
            "pretrain",
            "tasks.next_sentence_prediction is not built yet; remove it or set its weight to 0",
        ),
        (
            "tasks.sequence_order_prediction.weight=1",
            "pretrain",
            "tasks.sequence_order_prediction is not built yet; remove it or set its weight to 0",
        ),
        (
            "tasks={masked_lm: {}, causal_lm: {}}",
            "pretrain",
            "tasks: training masked_lm and causal_lm together is not built yet; keep one and set the other to null",
        ),
        ("compression.method=int8", "pretrain", "compression.method: int8 is not built yet; remove it"),
        (
            "tune.output_dir=s3://b/sweep",
            "sweep",
            "tune.output_dir: object stores and other remote places (s3://b/sweep) are not built yet; give a local path",
        ),
    ],
)
def test_stops_the_pipeline_that_needs_it(override, stage, sentence):
    cfg = load_config(overrides=[override])
    assert {name: not_built(cfg, name) for name in get_args(Stage)} == {
        name: [sentence] if name == stage else [] for name in get_args(Stage)
    }
    with pytest.raises(ConfigError) as refusal:
        require_built(cfg, stage)
    assert refusal.value.problems == (sentence,)


@pytest.mark.parametrize("override", ["tasks={masked_lm: {}, next_sentence_prediction: {weight: 0}}", "compression.method=null", "tune={}", "training.output_dir=s3://b/run"])
def test_what_asks_for_nothing_is_fine(override):
    cfg = load_config(overrides=[override])
    for stage in get_args(Stage):
        require_built(cfg, stage)


def test_active_tasks():
    assert active_tasks(load_config().tasks) == {"masked_lm": MaskedLMConfig()}
    assert active_tasks(load_config(overrides=["tasks.causal_lm={}"]).tasks) == {"causal_lm": CausalLMConfig()}
    both = load_config(overrides=["tasks.causal_lm.weight=2", "tasks.masked_lm.weight=0"])
    assert active_tasks(both.tasks) == {"causal_lm": CausalLMConfig(weight=2.0)}


def test_the_only_task():
    assert only_task(load_config().tasks) == MaskedLMConfig()
    assert only_task(load_config(overrides=["tasks={masked_lm: {weight: 0}, causal_lm: {}}"]).tasks) == CausalLMConfig()
    with pytest.raises(ConfigError, match="^tasks: training masked_lm and causal_lm together is not built yet"):
        only_task(load_config(overrides=["tasks={masked_lm: {}, causal_lm: {}}"]).tasks)
    with pytest.raises(ConfigError, match=r"^tasks\.next_sentence_prediction is not built yet"):
        only_task(load_config(overrides=["tasks.next_sentence_prediction={}"]).tasks)
