"""The page on preprocessed data: its sections, its pictures, its words."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyena_glt.data.dataset import open_rows
from hyena_glt.data.leakage_report import percent
from hyena_glt.data.manifest import read_manifest
from hyena_glt.evaluation.data_figures import COLOURS, MAX_BINS, bins, grouped_bars, histogram, spectrum
from hyena_glt.evaluation.data_leakage import measure_leakage
from hyena_glt.evaluation.data_report import MOST_LISTED, render
from hyena_glt.evaluation.data_statistics import describe
from hyena_glt.evaluation.data_summary import DataSummary, plain, sentences, verdict
from hyena_glt.tokenizers.letters import LetterTokenizer
from tests.data.made_folder import make_folder
from tests.data.small_folder import random_letters, write_folder
from tests.tiny_run import write_data


def summarise(folder: Path, max_rows: int = 1000) -> DataSummary:
    manifest = read_manifest(folder)
    splits = {name: open_rows(str(folder), name) for name in manifest.splits}
    held_out = {name: rows for name, rows in splits.items() if name != "train"}
    statistics = {name: describe(rows, max_rows, lambda rows: None) for name, rows in splits.items()}
    leakage = measure_leakage(splits["train"], held_out, max_rows, lambda rows: None) if held_out else {}
    return DataSummary(folder, manifest, statistics, leakage)


@pytest.fixture(scope="module")
def dna(tmp_path_factory) -> DataSummary:
    """A fifth of val stands in train."""
    train, new = random_letters(6000, seed=1), random_letters(2400, seed=2)
    records = {"a <b>": train, "val": new + train[600:1200]}
    return summarise(write_folder(tmp_path_factory.mktemp("data") / "out", records, max_length=150))


def pictures(page: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(svg) for svg in re.findall(r"<svg .*?</svg>", page, re.DOTALL)]


def texts(picture: ElementTree.Element) -> set[str]:
    return {node.text for node in picture.iter() if node.tag.endswith("text")}


def test_page_of_dna(dna):
    page = render(dna)
    assert re.findall(r"<h2>(.*?)</h2>", page) == ["Splits", "Windows", "Composition", "Leakage", "What was dropped", "Inputs"]
    lengths, gc, composition = pictures(page)
    assert {"train", "val", "bases in a window", "windows of the split"} <= texts(lengths)
    assert "GC of a window (%)" in texts(gc) and "canonical 4-mer" in texts(composition)
    assert "No window holds an ambiguous token ([UNK])." in page
    assert "val:2,401-2,550" in page and "Nothing was dropped." in page
    assert "$" not in page and 'src="' not in page  # nothing is left to fill in or to fetch


def test_verdict_and_sentences(dna):
    assert verdict(dna) == (
        f"Every file and row is as it was written. Train also holds {percent(dna.leakage['val'].shares.kmer_share)} of the 31-mers of val. "
        "preprocessing.split.by=cluster keeps similar records in one split."
    )
    train, val, leakage = sentences(dna)
    assert train.startswith("train: 40 windows of 150 bases on average, GC ") and train.endswith("0 repeated windows, on either strand")
    assert "val: 20 windows" in val and leakage.endswith("20.0 % near-duplicates (MinHash, 0.8), 4 of 20 windows the same")


def test_plain_numbers(dna):
    numbers = plain(dna)
    assert numbers["splits"]["val"]["rows"] == 20 and numbers["splits"]["train"]["divergence_from_train_bits"] == 0.0
    assert numbers["leakage"]["val"]["exact_rows"] == 4
    assert numbers["leakage"]["val"]["kmer_share"] == pytest.approx(0.2, abs=0.05)


def test_page_says_what_was_sampled(tmp_path):
    summary = summarise(write_folder(tmp_path / "out", {"a": random_letters(900)}, max_length=30), max_rows=12)
    page = render(summary)
    assert "Of train, 12 of 30 windows, spread evenly, were looked at" in page
    assert "Nothing is held out beside train" in page and "<h2>Leakage" not in page
    assert "train: 30 windows (12 of them, spread evenly, were looked at)" in sentences(summary)[0]


def test_page_of_proteins(tmp_path):
    letters = random_letters(4000, letters=b"ACDEFGHIKLMNPQRSTVWY") + b"XX"
    page = render(summarise(write_data(tmp_path, LetterTokenizer("protein"), {"train": letters, "test": letters[:500]}, max_length=100)))
    lengths, ambiguity, composition = pictures(page)
    assert "residues in a window" in texts(lengths) and "[UNK] tokens in a window" in texts(ambiguity)
    assert {"A", "Y", "amino acid"} <= texts(composition) and not {"O", "U"} & texts(composition)
    assert "shorter than min length" in page and ">GC<" not in page


def test_page_with_weights_and_labels(tmp_path):
    summary = summarise(make_folder(tmp_path / "a", {"train": ((30, 20),)}, weights=True, labels=True))
    page = render(summary)
    assert "Mean weight of a token: train 0." in page
    assert "GO:7" in page and "without a label" in page and "short windows" in page
    summary.statistics["train"].labels.update({f"GO:x{number}": 1000 for number in range(MOST_LISTED)})
    assert f"The {MOST_LISTED} most frequent of {MOST_LISTED + 9} labels." in render(summary)


def test_histogram():
    counts = np.zeros(1000, np.int64)
    counts[[0, 999]] = 3, 1
    picture = histogram({"train": counts, "test": counts[::-1]}, x_label="x", y_label="y")
    assert {"train", "test", "x", "y"} <= texts(ElementTree.fromstring(picture)) and COLOURS["test"] in picture


@given(st.integers(1, 5000))
def test_bins_hold_every_number_and_equally_many(size):
    widths = np.diff(bins(size))
    assert widths.sum() == size and len(widths) <= MAX_BINS
    assert len(set(widths[:-1].tolist())) <= 1 and 0 < widths[-1] <= widths[0]


def test_bars_and_spectrum_name_their_words():
    bars = grouped_bars(["none", "some"], {"train": [0.9, 0.1], "val": [1.0, 0.0]}, x_label="x", y_label="y", log=True)
    assert {"none", "some", "100 %", "train"} <= texts(ElementTree.fromstring(bars))
    dots = spectrum({"val": {"AAAA": 0.2, "ACGT": 0.8}}, x_label="x", y_label="y")
    assert "ACGT" in texts(ElementTree.fromstring(dots)) and "val" not in texts(ElementTree.fromstring(dots))


@pytest.mark.parametrize(("share", "text"), [(0.0, "0.0 %"), (0.1234, "12.3 %"), (0.00012, "0.012 %"), (1.0, "100.0 %")])
def test_percent(share, text):
    assert percent(share) == text
