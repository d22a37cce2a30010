"""`report` on a real run: one page, nothing beside it, every part there."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from hyena_glt.config import dump_config, load_config
from hyena_glt.errors import CheckpointError
from pipelines.evaluate import evaluate
from pipelines.report import report
from tests.tiny_run import tiny_config, train_tiny, write_lambda_data

VOID = {"meta", "link", "br"}


class Balanced(HTMLParser):
    """Fails on tags that do not nest."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        """An SVG element without content opens nothing."""

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    data = write_lambda_data(folder / "data", {"kind": "char"})
    cfg = tiny_config(folder / "run", data, causal=True)
    cfg = replace(cfg, model=replace(cfg.model, name="<script>alert('tiny')</script>"))
    return train_tiny(cfg, folder / "run", steps=20)


def page_of(run, tmp_path):
    result = report(str(run / "checkpoints"), output_dir=str(tmp_path / "out"))
    assert result["report"] == str(tmp_path / "out" / "report.html")
    return result, (tmp_path / "out" / "report.html").read_text()


def test_every_dataset_of_a_mixture_is_described(run, tmp_path):
    other = write_lambda_data(tmp_path / "other", {"kind": "char"}, max_length=64)
    cfg = load_config(run / "config.yaml")
    mixed = tmp_path / "run"
    shutil.copytree(run, mixed)
    (mixed / "config.yaml").write_text(dump_config(replace(cfg, data=replace(cfg.data, train_path=(cfg.data.train_path, str(other))))))
    page = page_of(mixed, tmp_path)[1]
    assert len(re.findall("<td>lambda.fa</td>", page)) == 2


def test_before_and_after_the_evaluation(run, tmp_path):
    result, page = page_of(run, tmp_path)
    assert result["verdict"].startswith("Not evaluated on held-out data yet; the last validation loss was")
    assert f"hyena-glt evaluate --model_path {run}" in page
    evaluate(str(run))
    result, page = page_of(run, tmp_path)
    assert "bits per base on held-out windows" in result["verdict"] and result["verdict"] in page
    for text in ("Markov order 8", "Advice", "tokens a CPU-hour", "Loss over tokens", "Learning rate", "Gradient norm", "Tokens a second",
                 "CPU-hours", "lambda.fa", "shorter than min_length", "max_position_embeddings: 128", "hyena-glt pretrain tiny.yaml",
                 "versions.torch", 'href="../../'):
        assert text in page, text
    assert page.count("<svg ") == 6


def test_page_is_well_formed_escaped_and_whole(run, tmp_path):
    _, page = page_of(run, tmp_path)
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    assert "<script" not in page and "&lt;script&gt;" in page
    assert not re.search(r"<(?:link|img|iframe|script)\b|@import|url\((?!#)", page), "a resource beside the page"
    assert not re.search(r"(?:src|href)=\"https?:", page)


def test_run_whose_data_is_gone(run, tmp_path):
    cfg = tiny_config(run, tmp_path / "gone", causal=True)
    copy = tmp_path / "run"
    copy.mkdir()
    (copy / "config.yaml").write_text(dump_config(cfg))
    (copy / "metrics.jsonl").write_bytes((run / "metrics.jsonl").read_bytes())
    page = (tmp_path / "out" / "report.html") if report(str(copy), output_dir=str(tmp_path / "out")) else None
    assert "The training data cannot be described: " in page.read_text()
    assert "The run folder has no environment.json." in page.read_text()


def test_no_run(tmp_path):
    with pytest.raises(CheckpointError, match="no run at .*name the folder that `hyena-glt pretrain` wrote"):
        report(str(tmp_path), output_dir=str(tmp_path / "out"))
