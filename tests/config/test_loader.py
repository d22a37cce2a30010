"""Layers, other spellings, and every message that bad settings provoke."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyena_glt.config import CausalLMConfig, Config, MaskedLMConfig, NextSentencePredictionConfig, load_config, overridden
from hyena_glt.config.settings import ALIASES, SETTINGS, section_type
from hyena_glt.errors import ConfigError

MIXERS = "wanted a list, each item hyena, se, mr, li or attention"


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """An empty working directory, so that messages name files without a folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def problems(text: str = "", *overrides: str) -> list[str]:
    """What the loader says about a file `a.yaml` in the working directory."""
    Path("a.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as refusal:
        load_config("a.yaml", overrides)
    return list(refusal.value.problems)


def load(text: str, *overrides: str) -> Config:
    Path("a.yaml").write_text(text, encoding="utf-8")
    return load_config("a.yaml", overrides)


# Layers


def test_nothing_given_is_the_defaults():
    assert load_config() == Config()


def test_overrides_win_over_the_file_and_the_file_over_includes(here):
    Path("low.yaml").write_text("training: {seed: 1, batch_size: 1, warmup_steps: 1}")
    cfg = load("include: low.yaml\ntraining: {batch_size: 2, warmup_steps: 2}", "training.warmup_steps=3")
    assert (cfg.training.seed, cfg.training.batch_size, cfg.training.warmup_steps) == (1, 2, 3)


def test_the_later_include_wins_and_paths_are_relative_to_the_including_file(here):
    (here / "sub").mkdir()
    Path("sub/one.yaml").write_text("include: two.yaml\ntraining: {seed: 1}")
    Path("sub/two.yaml").write_text("training: {seed: 2, batch_size: 2}")
    Path("three.yaml").write_text("training: {batch_size: 3}")
    cfg = load("include: [sub/one.yaml, three.yaml]")
    assert (cfg.training.seed, cfg.training.batch_size) == (1, 3)


def test_shipped_files_are_found_by_name_but_a_file_of_that_name_here_wins(here):
    assert load("include: small_model.yaml").model.name == "hyena-glt-small"
    assert load_config("small_model.yaml").model.name == "hyena-glt-small"
    Path("small_model.yaml").write_text("model: {name: mine}")
    assert load_config("small_model.yaml").model.name == "mine"


def test_a_file_that_includes_itself(here):
    Path("b.yaml").write_text("include: a.yaml")
    assert problems("include: b.yaml") == ["a.yaml: includes itself, by way of a.yaml -> b.yaml"]


@pytest.mark.parametrize("text", ["", "# nothing\n", "training:\n", "training: null\ntasks: {}\n"])
def test_empty_files_and_sections_are_the_defaults(here, text):
    assert load(text) == Config()


# Values


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("training.learning_rate=3e-4", 3e-4),
        ("training.learning_rate=1", 1.0),
        ("training.max_tokens=18e6", 18_000_000),
        ("training.max_tokens=1_000", 1000),
        ("training.max_grad_norm=null", None),
        ("training.max_grad_norm=", None),
        ("training.output_dir=runs/lr=3 # 1", "runs/lr=3 # 1"),
        ("training.output_dir='null'", "null"),
        ("hardware.compile_model=True", True),
        ("hardware.zero_stage=3", 3),
        ("hardware.precision=bf16", "bf16"),
        ("cluster.train_workers=2", 2),
        ("cluster.train_workers=[1, 4]", (1, 4)),
        ("preprocessing.input_path=*.fa", "*.fa"),
        ("preprocessing.input_path=[a.fa, 'b c.fa']", ("a.fa", "b c.fa")),
        ("model.mixers=[li]", ("li",)),
        ("logging.wandb_project=1e5", "1e5"),
    ],
)
def test_values_are_read_by_declared_type(override, value):
    found = load_config(overrides=[override])
    for name in override.partition("=")[0].split("."):
        found = getattr(found, name)
    assert found == value
    assert type(found) is type(value)


def test_record_names_stay_text(here):
    cfg = load("preprocessing: {split: {by: named, val_records: [NO, 20], test_records: [1e5, 0x1, 2020-01-01]}}")
    assert cfg.preprocessing.split.val_records == ("NO", "20")
    assert cfg.preprocessing.split.test_records == ("1e5", "0x1", "2020-01-01")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("training: {batch_size: many}", "training.batch_size: found many, wanted a whole number"),
        ("training: {batch_size: 1.5}", "training.batch_size: found 1.5, wanted a whole number"),
        ("training: {batch_size: 15e-1}", "training.batch_size: found 15e-1, wanted a whole number"),
        ("training: {batch_size: '8'}", 'training.batch_size: found "8" in quotes, wanted a whole number'),
        ("training: {batch_size: true}", "training.batch_size: found true, wanted a whole number"),
        ("training: {batch_size: [8]}", "training.batch_size: found [8], wanted a whole number"),
        ("training: {batch_size: {a: 1}}", "training.batch_size: found a section, wanted a whole number"),
        ("training: {batch_size: }", "training.batch_size: found nothing, wanted a whole number"),
        ("training: {learning_rate: .nan}", "training.learning_rate: found .nan, wanted a number"),
        ("training: {learning_rate: inf}", "training.learning_rate: found inf, wanted a number"),
        ("training: {num_epochs: ten}", "training.num_epochs: found ten, wanted a number or null"),
        ("hardware: {compile_model: yes}", "hardware.compile_model: found yes, wanted true or false"),
        ("hardware: {compile_model: 'true'}", 'hardware.compile_model: found "true" in quotes, wanted true or false'),
        ("hardware: {zero_stage: 4}", "hardware.zero_stage: found 4, wanted 0, 1, 2 or 3"),
        ("hardware: {precision: bf61}", "hardware.precision: found bf61, wanted auto, bf16, fp16 or fp32; did you mean bf16?"),
        ("logging: {wandb_project: null}", "logging.wandb_project: found null, wanted text"),
        (
            "cluster: {train_workers: [1, 2, 3]}",
            "cluster.train_workers: found [1, 2, 3], wanted a whole number or a list of 2, each item a whole number or null",
        ),
        ("model: {mixers: li}", f"model.mixers: found li, {MIXERS}"),
        ("model: {mixers: [se, atention]}", f"model.mixers: found [se, atention], {MIXERS}; did you mean attention?"),
        ("model: {mixers: [[se], li]}", f"model.mixers: found [..., li], {MIXERS}"),
        (
            "model: {name: !!python/name:os.system x}",
            "model.name: found the YAML tag tag:yaml.org,2002:python/name:os.system, and settings have none",
        ),
        ("model: big", "model: found big, wanted a section of settings"),
        ("model: [1]", "model: found [1], wanted a section of settings"),
    ],
)
def test_wrong_values(here, text, problem):
    assert problems(text) == [f"{problem} (a.yaml, line 1)"]


# Names


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("training: {batchsize: 8}", "training.batchsize: unknown setting; did you mean training.batch_size?"),
        ("training: {num_layers: 8}", "training.num_layers: unknown setting; did you mean model.num_layers?"),
        ("data: {gradient_clip_norm: 1}", "data.gradient_clip_norm: unknown setting; did you mean training.gradient_clip_norm?"),
        ("trainning: {batch_size: 8}", "trainning: unknown setting; did you mean training?"),
        ("output: {zzz: 8}", "output.zzz: unknown setting; output has path, format, scratch_path, chunk_size, compress"),
        ("model: {name: {a: 1}}", "model.name: found a section, wanted text"),
        (
            "tasks: {masked_lm: {probability: 1}}",
            "tasks.masked_lm.probability: unknown setting; did you mean tasks.masked_lm.mask_probability?",
        ),
        (
            "<<: {a: 1}",
            "<<: unknown setting; the tree has preprocessing, tokenization, output, model, training, data, hardware, logging, tasks, "
            "curriculum, compression, cluster, tune",
        ),
        ("training: {seed: 1, seed: 1}", "training.seed: given twice in one mapping; keep one"),
        ("training: {}\ntraining: {}", "training: given twice in one mapping; keep one"),
        ("include: {a: b}", "include: found a section, wanted text or a list, each item text"),
    ],
)
def test_wrong_names(here, text, problem):
    assert problems(text) == [f"{problem} (a.yaml, line {text.count(chr(10)) + 1})"]


def test_all_problems_at_once(here):
    text = "training:\n  batch_size: many\n  warmup_step: 1\nlogging: {log_interval: 0, eval_interval: 0}\n"
    text += "preprocessing:\n  min_length: 0\n  split: {by: tial}\n"
    assert problems(text, "model.num_layers=x", "hardware.zero=1") == [
        "training.batch_size: found many, wanted a whole number (a.yaml, line 2)",
        "training.warmup_step: unknown setting; did you mean training.warmup_steps? (a.yaml, line 3)",
        "preprocessing.split.by: found tial, wanted record, named, tail, chromosome, file, interval or cluster; "
        "did you mean tail? (a.yaml, line 7)",
        "model.num_layers: found x, wanted a whole number (override)",
        "hardware.zero: unknown setting; did you mean hardware.zero_stage? (override)",
        "preprocessing.min_length (0) must lie between 1 and max_length (1024)",
        "logging.log_interval must be at least 1, got 0",
        "logging.eval_interval must be at least 1, got 0",
    ]


def test_a_damaged_section_is_not_judged_by_its_defaults(here):
    """With `max_length` misspelt, `min_length` would seem too large."""
    assert problems("preprocessing: {max_lenght: 4096, min_length: 2000}") == [
        "preprocessing.max_lenght: unknown setting; did you mean preprocessing.max_length? (a.yaml, line 1)"
    ]


# Files


def test_no_such_file(here):
    with pytest.raises(ConfigError, match=r"^smal_model.yaml: no such file; did you mean small_model.yaml\?$"):
        load_config("smal_model.yaml")
    with pytest.raises(ConfigError, match=r"^my/run: no such file; shipped by name: annotation.yaml, base_config.yaml, "):
        load_config("my/run")


def test_not_yaml(here):
    assert problems("training:\n  seed: [1") == [
        "a.yaml: not YAML: line 2, column 11: expected ',' or ']', but got '<stream end>'",
    ]
    assert problems("a: 1\n---\nb: 2") == ["a.yaml: not YAML: line 2, column 1: but found another document"]
    assert problems("- 1") == ["a.yaml: wanted sections of settings at the top level"]


def test_files_that_cannot_be_read(here):
    Path("b.yaml").write_bytes(b"model: {name: \xff}")
    Path("dir").mkdir()
    first, second = problems("include: [b.yaml, dir]")
    assert first.startswith("b.yaml: cannot be read as a YAML file: 'utf-8' codec can't decode byte 0xff")
    assert second.startswith("dir: cannot be read as a YAML file: [Errno 21]")


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("training.seed", "training.seed: no value; an override is section.key=value (override)"),
        (
            "model.mixers=[se",
            "model.mixers: found [se, which is not YAML: line 1, column 4: expected ',' or ']', but got '<stream end>' (override)",
        ),
        ("include=a.yaml", "include: `include` stands at the top of a YAML file, not among overrides (override)"),
        ("training=3", "training: found 3, wanted a section of settings (override)"),
    ],
)
def test_bad_overrides(override, problem):
    with pytest.raises(ConfigError) as refusal:
        load_config(overrides=[override])
    assert refusal.value.problems == (problem,)


# Other spellings


@pytest.mark.parametrize(("alias", "canonical"), ALIASES.items())
def test_each_alias_sets_its_setting(alias, canonical):
    value = "0.25" if SETTINGS[canonical] in (float, float | None) else "true" if SETTINGS[canonical] in (bool, bool | None) else "2"
    assert canonical in SETTINGS and section_type(SETTINGS[canonical]) is None
    assert alias not in SETTINGS
    assert load_config(overrides=[f"{alias}={value}"]) == load_config(overrides=[f"{canonical}={value}"]) != Config()


def test_two_values_in_one_layer(here):
    assert problems("training:\n  max_grad_norm: 1.0\n  gradient_clip_norm: 0.5\n") == [
        "training.max_grad_norm: two values for one setting, 1.0 (training.max_grad_norm) and 0.5 (training.gradient_clip_norm); "
        "keep one (a.yaml, line 3)"
    ]
    assert problems("", "training.seed=1", "training.seed=2") == [
        "training.seed: two values for one setting, 1 (training.seed) and 2 (training.seed); keep one (override)"
    ]


def test_one_value_twice_is_fine_and_across_layers_the_later_wins(here):
    text = "training: {gradient_accumulation_steps: 4}\nhardware: {gradient_accumulation_steps: 4}"
    assert load(text).training.gradient_accumulation_steps == 4
    assert load(text, "hardware.gradient_accumulation_steps=8").training.gradient_accumulation_steps == 8


# Objectives and optional sections


def test_masked_lm_is_the_default_objective():
    assert load_config().tasks.masked_lm == MaskedLMConfig()


@pytest.mark.parametrize("text", ["tasks: {causal_lm: {}}", "tasks:\n  causal_lm:\n", "tasks: {causal_lm: {weight: 1}, masked_lm: null}"])
def test_naming_an_objective_turns_it_on_alone(here, text):
    tasks = load(text).tasks
    assert tasks.causal_lm == CausalLMConfig() and tasks.masked_lm is None


def test_null_turns_a_section_off_and_a_later_setting_turns_it_on_with_defaults(here):
    text = "tasks: {masked_lm: {mask_probability: 0.3}, causal_lm: {}}\ncompression: {method: fp16}"
    off = load(text, "tasks.masked_lm=null", "compression=null")
    assert off.tasks.masked_lm is None and off.compression is None
    Path("b.yaml").write_text(text)
    Path("c.yaml").write_text("include: b.yaml\ntasks: {masked_lm: null}")
    assert load_config("c.yaml", ["tasks.masked_lm.weight=0.5"]).tasks.masked_lm == MaskedLMConfig(weight=0.5)


def test_null_and_a_setting_of_the_section_in_one_layer():
    with pytest.raises(ConfigError) as refusal:
        load_config(overrides=["tasks.masked_lm=null", "data.mask_probability=0.2"])
    assert (
        str(refusal.value)
        == "tasks.masked_lm.mask_probability: set by data.mask_probability, and tasks.masked_lm is null; keep one (override)"
    )


def test_mask_probability_alone_is_masked_lm(here):
    assert load("data: {mask_probability: 0.2}").tasks.masked_lm == MaskedLMConfig(mask_probability=0.2)


def test_an_included_mask_probability_does_not_come_back_beside_a_later_objective(here):
    """base_config.yaml, as the guide has it, gives mask_probability; choosing causal_lm on top must not train both."""
    tasks = load("include: base_config.yaml", "tasks.causal_lm.weight=1").tasks
    assert tasks.causal_lm == CausalLMConfig() and tasks.masked_lm is None


def test_mask_probability_beside_another_objective_that_is_already_named(here):
    refused = "data.mask_probability: has no effect, because tasks names only causal_lm; remove it, or name tasks.masked_lm too"
    assert problems("tasks: {causal_lm: {}}\ndata: {mask_probability: 0.2}") == [refused]
    assert problems("tasks: {causal_lm: {}}", "data.mask_probability=0.2") == [refused]
    assert problems("tasks: {causal_lm: {}, masked_lm: null}", "data.mask_probability=0.2") == [refused]


def test_mask_probability_where_masked_lm_is_named_too(here):
    tasks = load("tasks: {masked_lm: {}, next_sentence_prediction: {}}", "data.mask_probability=0.2").tasks
    assert tasks.masked_lm == MaskedLMConfig(mask_probability=0.2)
    assert tasks.next_sentence_prediction == NextSentencePredictionConfig()


def test_an_objective_with_weight_0_does_not_count_as_named(here):
    tasks = load("tasks: {causal_lm: {weight: 0}}", "data.mask_probability=0.2").tasks
    assert tasks.masked_lm == MaskedLMConfig(mask_probability=0.2)


def test_what_overrides_set_is_named_by_canonical_paths():
    overrides = ["data={num_workers: 2, sequence_length: 64}", "training.gradient_clip_norm=2", "compression=null", "cluster={}"]
    assert overridden(overrides) == ["hardware.num_workers", "data.sequence_length", "training.max_grad_norm", "compression"]


# Passwords


PASSWORD = (
    "a URL with a password, which logs and saved settings would show; put it into the environment of the cluster's nodes (or a Kubernetes "
    "secret), where storage and W&B look for their keys"
)


@pytest.mark.parametrize("url", ["s3://AKIA1:sec/ret+x@bucket/data", "https://me:word@host/x", "s3://:word@bucket"])
def test_a_password_is_refused_and_not_shown(here, url):
    said = problems(f"data: {{train_path: [data/a, '{url}']}}", f"training.output_dir={url}", f"training.batch_size={url}")
    assert said == [
        f"data.train_path: {PASSWORD} (a.yaml, line 1)", f"training.output_dir: {PASSWORD} (override)",
        f"training.batch_size: {PASSWORD} (override)",
    ]


@pytest.mark.parametrize("path", ["s3://bucket/a:b", "http://host:9000/a@b", "data/a:b@c", "s3://bucket/run@2"])
def test_what_only_looks_like_a_password_is_kept(here, path):
    assert load("", f"output.path={path}").output.path == path
