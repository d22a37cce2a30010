"""`debug-data`: what it shows is what training reads, and the marks are the objective's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hyena_glt.cli import main
from hyena_glt.config import Config, TokenizationConfig, load_config
from hyena_glt.dna import reverse_complement
from hyena_glt.errors import ConfigError
from hyena_glt.objectives import IGNORE
from hyena_glt.tokenizers.base import MASK
from hyena_glt.tokenizers.kmer import KmerTokenizer
from hyena_glt.tokenizers.letters import LetterTokenizer
from pipelines.debug_data import debug_data, loader_sentence, marks, shorten, wait_ms
from tests.data.small_folder import CHAR, random_letters, write_folder

LETTERS = {"a": random_letters(1200, seed=1), "b": random_letters(1200, seed=2)}
WIDTH = 60


def make(tmp_path: Path, *, name: str = "out", tokenization: TokenizationConfig = CHAR, records: dict[str, bytes] = LETTERS) -> Path:
    return write_folder(tmp_path / name, records, max_length=WIDTH, rows_per_group=7, rows_per_shard=20, tokenization=tokenization)


def config(folder: Path | str, *settings: str, batch_size: int = 4) -> Config:
    return load_config(None, [f"data.train_path={folder}", f"training.batch_size={batch_size}", *settings])


def shown_rows(cfg: Config, batches: int = 2) -> list[dict]:
    return [row for batch in debug_data(cfg, batches=batches, seconds=0.0)["batches"] for row in batch["rows"]]


@pytest.mark.parametrize(
    "tokenization",
    [CHAR, TokenizationConfig(kind="kmer", kmer_size=3), TokenizationConfig(kind="kmer", kmer_size=3, kmer_stride=1)],
    ids=["char", "disjoint", "overlapping"],
)
def test_rows_are_the_records_letters(tmp_path, tokenization):
    for row in shown_rows(config(make(tmp_path, tokenization=tokenization))):
        assert row["letters"].encode() == LETTERS[row["record"]][row["start"] : row["start"] + WIDTH]
        assert len(row["marks"]) == WIDTH and set(row["marks"]) <= set("Mrk ")


def test_rows_cut_and_augmented(tmp_path):
    cfg = config(make(tmp_path), "data.sequence_length=30", "data.reverse_complement=0.5", "data.max_shift=9")
    rows = shown_rows(cfg, batches=8)
    for row in rows:
        stored = LETTERS[row["record"]][row["start"] : row["start"] + 30]
        assert row["letters"].encode() == (reverse_complement(stored) if row["reversed"] else stored)
    assert {row["reversed"] for row in rows} == {True, False} and {row["shift"] > 0 for row in rows} == {True, False}


def test_shifted_rows_of_one_letter_are_said_to_be_shifted(tmp_path):
    cfg = config(make(tmp_path, records={"a": b"A" * 1200}), "data.max_shift=9")
    rows = shown_rows(cfg, batches=8)
    assert all(row["shift"] == row["start"] % WIDTH for row in rows) and sum(row["shift"] > 0 for row in rows) > 20


def test_mixture(tmp_path):
    one, two = make(tmp_path, name="one"), make(tmp_path, name="two", records={"c": random_letters(2400, seed=3)})
    result = debug_data(config(f"[{one},{two}]", batch_size=8), seconds=0.0)
    assert result["datasets"] == ["one", "two"]
    for batch in result["batches"]:
        assert sum(batch["tokens"].values()) == 8 * WIDTH
        assert {row["dataset"] for row in batch["rows"]} == {name for name, tokens in batch["tokens"].items() if tokens}
        assert all((row["record"] == "c") == (row["dataset"] == "two") for row in batch["rows"])


def test_shares_and_what_is_printed(tmp_path, capsys):
    records = {"a": b"ACGTN" * 12 + b"ACGTA" * 6}
    folder = make(tmp_path, records=records, tokenization=TokenizationConfig(kind="char", add_special_tokens=True))
    result = debug_data(config(folder, "tasks.masked_lm.mask_probability=0.99", batch_size=10), batches=1, seconds=0.0)
    (batch,) = result["batches"]
    assert len(batch["rows"]) == 8 and batch["num_rows"] == 10
    # Ten draws of two rows: 60 letters of which 12 are N, and 30; [CLS] and [SEP] around both, padding to 62.
    assert batch["padding_share"] == pytest.approx(5 * 30 / 620)
    assert batch["unknown_share"] == pytest.approx(5 * 12 / (5 * 62 + 5 * 32))
    assert 0.7 < batch["scored_share"] < 0.9
    err = capsys.readouterr().err
    assert "batch 0: 10 rows of 62 tokens, padding 24.2%" in err and "and 2 more rows" in err
    assert "[CLS] and [SEP], around each row, are left out" in err and "loader alone, no processes of its own" in err
    lines = err.splitlines()
    letters = next(number for number, line in enumerate(lines) if line.strip().startswith("ACGTN"))
    assert {mark for letter, mark in zip(lines[letters], lines[letters + 1], strict=False) if letter == "N"} == {" "}


def test_causal_rows_have_no_marks(tmp_path, capsys):
    rows = shown_rows(config(make(tmp_path), "tasks.masked_lm=null", "tasks.causal_lm.weight=1"))
    assert all("marks" not in row for row in rows)
    assert "each token is predicted from those before it" in capsys.readouterr().err


def test_marks_stand_under_their_letters():
    ids = np.array([5, 6, 7, 8, 5])
    inputs, targets = np.array([MASK, 8, 7, 8, 5]), np.array([5, 6, IGNORE, 8, IGNORE])
    assert marks(LetterTokenizer("dna"), ids, inputs, targets) == "Mr k "
    assert marks(KmerTokenizer("dna", 2, 2), ids, inputs, targets) == "MMrr  kk  "


def test_marks_of_overlapping_kmers_stand_under_the_hidden_base():
    ids = np.arange(10, 16)
    inputs, targets = ids.copy(), np.full(6, IGNORE)
    inputs[2:5], targets[2] = MASK, ids[2]  # base 4 lies under the 3-mers 2, 3 and 4
    assert marks(KmerTokenizer("dna", 3, 1), ids, inputs, targets) == "    M   "


def test_long_rows_are_shortened():
    assert shorten("A" * 100) == "A" * 100
    assert shorten("A" * 80 + "C" * 1234 + "G" * 20) == f"{'A' * 80} ...1,234... {'G' * 20}"


def test_letters_and_marks_of_a_long_row_stay_aligned(tmp_path):
    letters = random_letters(900)
    folder = write_folder(tmp_path / "out", {"a": letters}, max_length=300)
    (row, *_) = shown_rows(config(folder, "tasks.masked_lm.mask_probability=0.999"), batches=1)
    whole = letters[row["start"] : row["start"] + 300].decode()
    assert row["letters"] == shorten(whole) and len(row["marks"]) == len(row["letters"])
    assert " " not in row["marks"][:80] + row["marks"][-20:] and not row["marks"][80:-20].strip()


def test_loader_time(tmp_path):
    loader = debug_data(config(make(tmp_path), "training.gradient_accumulation_steps=3"), batches=1, step_ms=5.0, seconds=0.05)["loader"]
    assert loader["tokens_per_step"] == pytest.approx(3 * 4 * WIDTH) and loader["num_workers"] == 0
    assert loader["ms_per_step"] == pytest.approx(1000 * loader["tokens_per_step"] / loader["tokens_per_s"])
    assert loader["wait_ms"] == loader["ms_per_step"]
    assert loader["wait_share"] == pytest.approx(loader["wait_ms"] / (loader["wait_ms"] + 5))


def test_waiting():
    assert (wait_ms(3.0, 10.0, 2), wait_ms(12.0, 10.0, 2), wait_ms(3.0, 10.0, 0)) == (0.0, 2.0, 3.0)


def test_loader_sentence():
    loader = {"num_workers": 2, "tokens_per_s": 2e6, "tokens_per_step": 4e4, "ms_per_step": 20.0}
    said = "loader alone, 2 processes: 2,000,000 tokens/s; a step of 40,000 tokens on one worker takes it 20.00 ms; "
    assert loader_sentence(loader).strip() == said + "give --step_ms, the time of a training step, for the wait that this means"
    waited = loader | {"step_ms": 16.0, "wait_ms": 4.0, "wait_share": 0.2}
    assert loader_sentence(waited).strip() == said + "with steps of 16 ms each waits 4.00 ms, 20.0% of the time"


def test_no_data_are_named():
    with pytest.raises(ConfigError, match="^data.train_path: needed to show training data"):
        debug_data(load_config())


def test_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(debug_data.__kwdefaults__, "seconds", 0.0)
    folder = make(tmp_path)
    assert main(["debug-data", f"data.train_path={folder}", "training.batch_size=2", "--batches", "1", "--step_ms", "7.5"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (len(result["batches"]), result["width"], result["loader"]["step_ms"]) == (1, WIDTH, 7.5)
    assert main(["debug-data", "--step_ms", "-1"]) == 2
    assert capsys.readouterr().err == "error: --step_ms must be a number of milliseconds above 0, got -1\n"
