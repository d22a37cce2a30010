"""Bits per base, means between reports, and reports that outlive a crash in every place they are written to."""

from __future__ import annotations

import json
import math
import os
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hyena_glt.config import LoggingConfig, TokenizationConfig
from hyena_glt.data.batches import Batch
from hyena_glt.errors import ClusterError, StorageError
from hyena_glt.tokenizers import build_tokenizer
from hyena_glt.training.metrics import (
    METRICS_FILE,
    Meter,
    RunLog,
    bits_per_base,
    by_domain,
    device_metrics,
    last_reports,
    loss_metrics,
    peak_flops,
    read_reports,
)
from tests.small_disk import disk

CHAR = TokenizationConfig(kind="char")
DISJOINT = TokenizationConfig(kmer_size=6)
OVERLAPPING = TokenizationConfig(kmer_size=6, kmer_stride=1)
PLAIN = LoggingConfig(use_tensorboard=False)


@pytest.mark.parametrize(
    "tokenization, causal, bits",
    [
        (CHAR, True, 2.0),
        (CHAR, False, 2.0),
        (DISJOINT, True, 2.0 / 6),
        (DISJOINT, False, 2.0 / 6),
        (OVERLAPPING, True, 2.0),
        (OVERLAPPING, False, None),
        (TokenizationConfig(kmer_size=1, kmer_stride=1), False, 2.0),
    ],
)
def test_bits_per_base(tokenization, causal, bits):
    """A loss of ln 4 nats a token is two bits a token."""
    tokenizer = build_tokenizer("dna", tokenization)
    assert bits_per_base(math.log(4), tokenizer, causal=causal) == (bits and pytest.approx(bits))
    figures = loss_metrics(math.log(4), 0.25, tokenizer, causal=causal)
    assert figures.pop("bits_per_base", None) == (bits and pytest.approx(bits))
    assert figures == {"loss": math.log(4), "perplexity": pytest.approx(4.0), "accuracy": 0.25}


def test_the_perplexity_of_a_hopeless_loss_is_a_number():
    assert math.isfinite(loss_metrics(1e6, 0.0, build_tokenizer("dna", CHAR), causal=True)["perplexity"])


def batch(scored: int, weight: float, tokens: int) -> Batch:
    nothing = torch.zeros(0)
    return Batch(nothing, nothing, nothing, None, scored, weight, (tokens,))


def test_a_meter_weighs_tokens_not_batches():
    meter = Meter()
    meter.add(torch.tensor(6.0), torch.tensor(1), batch(3, 3.0, 10))
    meter.add(torch.tensor(1.0), torch.tensor(1), batch(1, 1.0, 2))
    assert (meter.mean_loss, meter.accuracy, meter.tokens) == (1.75, 0.5, 12)
    assert Meter(*meter.sums()).sums() == meter.sums() == (7.0, 2.0, 4, 4.0, 12)


def test_a_loss_is_the_weighted_mean_and_an_accuracy_is_not():
    meter = Meter()
    meter.add(torch.tensor(1.0), torch.tensor(1), batch(4, 0.5, 10))
    assert (meter.mean_loss, meter.accuracy) == (2.0, 0.25)


def test_a_meter_without_a_scored_token_has_no_mean():
    meter = Meter()
    meter.add(torch.tensor(0.0), torch.tensor(0), batch(0, 0.0, 10))
    assert math.isnan(meter.mean_loss) and math.isnan(meter.accuracy)


def test_only_a_mixture_has_figures_by_domain():
    assert by_domain("loss", {"human": 1.5, "mouse": 2.5}) == {"loss/human": 1.5, "loss/mouse": 2.5}
    assert by_domain("bits_per_base", {"human": None, "mouse": None}) == by_domain("loss", {"human": 1.5}) == {}


def test_the_rate_leaves_out_pauses(monkeypatch):
    clock = iter([100.0, 104.0, 134.0, 140.0])
    monkeypatch.setattr("hyena_glt.training.metrics.time.monotonic", lambda: next(clock))
    meter = Meter(tokens=500, started=100.0)
    next(clock)  # the run began at 100 s
    with meter.paused():  # from 104 s to 134 s
        pass
    assert meter.tokens_per_s() == 50.0


def test_a_cpu_has_neither_a_peak_nor_device_figures():
    assert peak_flops(torch.device("cpu")) is None and device_metrics(torch.device("cpu")) == {}


def test_the_peak_is_found_by_the_name_of_the_device(monkeypatch):
    for name, flops in (("NVIDIA H200", 989e12), ("NVIDIA A100-SXM4-80GB", 312e12), ("NVIDIA Tesla V100", None)):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _, name=name: name)
        assert peak_flops(torch.device("cuda")) == flops


REPORTS = [
    {"kind": "start", "step": 0, "device": "cpu"},
    {"kind": "train", "step": 10, "loss": 1.5, "grad_norm": None},
    {"kind": "train", "step": 20, "loss": 1.25, "grad_norm": 2.0},
    {"kind": "eval", "step": 20, "loss": 1.375},
]


def write(run: Path, reports: list[dict], cfg: LoggingConfig = PLAIN) -> None:
    log = RunLog(run, cfg, settings={"seed": 3})
    for report in reports:
        log.write(report)
    log.close()


def test_reports_read_back(tmp_path):
    write(tmp_path, REPORTS[:2])
    write(tmp_path, REPORTS[2:])
    path = tmp_path / "metrics.jsonl"
    assert read_reports(path) == REPORTS == [json.loads(line) for line in path.read_text().splitlines()]
    assert last_reports(path) == {"start": REPORTS[0], "train": REPORTS[2], "eval": REPORTS[3]}
    assert [item.name for item in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_no_reports_yet(tmp_path):
    assert read_reports(tmp_path / "metrics.jsonl") == [] and last_reports(tmp_path / "metrics.jsonl") == {}


def test_every_report_is_on_disk_when_it_was_written(tmp_path):
    log = RunLog(tmp_path, PLAIN, settings={})
    log.write(REPORTS[0])
    assert read_reports(tmp_path / "metrics.jsonl") == REPORTS[:1]
    log.close()


@pytest.mark.parametrize("cut", [1, 2, 20, 40])
def test_a_line_that_a_crash_cut_short_is_left_out_and_spoils_no_later_one(tmp_path, cut):
    write(tmp_path, REPORTS[:3])
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    assert read_reports(path) == REPORTS[:2]
    write(tmp_path, REPORTS[3:])
    assert read_reports(path) == [*REPORTS[:2], REPORTS[3]]


def test_a_file_with_nothing_but_a_cut_line(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"kind": "sta')
    write(tmp_path, REPORTS)
    assert read_reports(tmp_path / "metrics.jsonl") == REPORTS


def test_tensorboard_shows_the_numbers_of_both_starts_of_a_run(tmp_path):
    cfg = LoggingConfig(use_tensorboard=True)
    write(tmp_path, REPORTS[:2], cfg)
    time.sleep(1.1)  # the files are named by the second
    write(tmp_path, REPORTS[2:], cfg)
    files = list((tmp_path / "logs").iterdir())
    assert files and all(".tfevents." in file.name for file in files)
    found = {}
    for file in files:
        events = EventAccumulator(str(file)).Reload()
        for tag in events.Tags()["scalars"]:
            found.setdefault(tag, {}).update({event.step: event.value for event in events.Scalars(tag)})
    assert found == {"train/loss": {10: 1.5, 20: 1.25}, "train/grad_norm": {20: 2.0}, "eval/loss": {20: 1.375}}


@pytest.mark.slow
def test_wandb_goes_on_with_the_same_run(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "no_account"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    run, cfg = tmp_path / "run", LoggingConfig(use_tensorboard=False, use_wandb=True, wandb_project="phages")
    run.mkdir()
    write(run, REPORTS[:2], cfg)
    number = (run / "wandb_id").read_text()
    write(run, REPORTS[3:], cfg)
    assert (run / "wandb_id").read_text() == number
    files = sorted((run / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2 and {file.name for file in files} == {f"run-{number}.wandb"}
    wanted = [{b"phages", b"seed", b"train/loss"}, {b"phages", b"seed", b"eval/loss"}]
    for _ in range(1000):  # W&B's own process writes the last bytes soon after the run was finished
        found = [{word for word in wanted[0] | wanted[1] if word in file.read_bytes()} for file in files]
        if found == wanted:
            break
        time.sleep(0.01)
    assert found == wanted


def fill(place: Path) -> None:
    """Leave no room."""
    with suppress(OSError), (place / "filler").open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass


def test_what_could_not_be_written_stays_unwritten_after_a_takeover(tmp_path: Path) -> None:
    """A storage that comes back to a worker which was cut off has another writer by then."""
    owners = ["me"]

    def require_owner() -> None:
        if owners != ["me"]:
            raise ClusterError("taken over")

    with disk(tmp_path / "disk") as resize:
        resize(64)
        log = RunLog(tmp_path / "disk", PLAIN, settings={}, require_owner=require_owner)
        fill(tmp_path / "disk")
        for step in range(400):
            log.write({"kind": "train", "step": step, "loss": 1.0})
        written = (tmp_path / "disk" / METRICS_FILE).read_bytes()
        resize(1 << 10)
        owners[:] = ["another"]
        with pytest.raises(ClusterError):
            log.close()
        assert (tmp_path / "disk" / METRICS_FILE).read_bytes() == written


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # TensorBoard's thread, which is not missed
def test_what_a_full_disk_refuses_is_written_when_there_is_room(tmp_path: Path) -> None:
    with disk(tmp_path / "disk") as resize:
        resize(64)
        log = RunLog(tmp_path / "disk", LoggingConfig(), settings={})
        log.write({"kind": "train", "step": 0, "loss": 2.0})
        fill(tmp_path / "disk")
        for step in range(1, 400):
            log.write({"kind": "train", "step": step, "loss": 1.0})
        assert len(read_reports(tmp_path / "disk" / METRICS_FILE)) < 400
        resize(1 << 10)
        log.write({"kind": "end", "step": 400})
        log.close()
        assert [report["step"] for report in read_reports(tmp_path / "disk" / METRICS_FILE)] == list(range(401))


def test_a_disk_that_stays_full_is_a_sentence_at_the_end(tmp_path: Path) -> None:
    with disk(tmp_path / "disk") as resize:
        resize(64)
        log = RunLog(tmp_path / "disk", LoggingConfig(use_tensorboard=False), settings={})
        fill(tmp_path / "disk")
        for step in range(400):
            log.write({"kind": "train", "step": step, "loss": 1.0})
        with pytest.raises(StorageError, match=r"metrics\.jsonl: could not be read or written \(No space left on device\)"):
            log.close()
