"""The commands on an object store, an S3 server on loopback: FASTA there, preprocessed data there, training and scores from it."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import ray

from hyena_glt.config import load_config
from hyena_glt.data.storage import Location, Url, list_files, write_bytes
from pipelines.evaluate import evaluate
from pipelines.preprocess import preprocess
from pipelines.validate import validate_data
from tests import stores
from tests.interrupted_run import ROOT, Command, contents

s3, bucket = stores.s3, stores.s3_bucket  # fixtures
GENOMES = ROOT / "pipelines/genomes"
MODEL = [
    "model.hidden_size=16", "model.num_layers=2", "model.mixers=[se,li]", "model.max_position_embeddings=64", "tasks.causal_lm.weight=1",
    "training.max_steps=3", "training.batch_size=4", "training.eval_max_rows=8", "logging.log_interval=1", "hardware.precision=fp32",
]

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_session")]


@pytest.fixture
def genomes(bucket: Url) -> Url:
    """FASTA in the store: plain, and gzip."""
    write_bytes(bucket / "in/phix.fa", (GENOMES / "phix174.fa").read_bytes())
    write_bytes(bucket / "in/lambda.fa.gz", gzip.compress((GENOMES / "lambda.fa").read_bytes()))
    return bucket / "in"


def run(folder: Path, *words: str) -> dict:
    """The result of a command."""
    return Command(words, folder, ray.get_runtime_context().gcs_address).result()


def preprocess_words(genomes: Url, output: Location, *more: str) -> list[str]:
    given = [
        f"preprocessing.input_path={genomes}", f"output.path={output}", "preprocessing.max_length=64", "preprocessing.split.by=tail",
        "tokenization.kind=char", "output.chunk_size=300", *more,
    ]
    return ["preprocess", *{setting.split("=")[0]: setting for setting in given}.values()]


def test_from_fasta_to_scores(genomes: Url, bucket: Url, tmp_path: Path) -> None:
    output = bucket / "data"
    words = preprocess_words(genomes, output)
    first = run(tmp_path, *words)
    assert first["path"] == str(output) and first["splits"]["train"]["rows"] > 700
    assert not any((tmp_path / ".hyena-glt").iterdir())
    found = contents(output)
    assert run(tmp_path, *words) == {**first, "seconds": None, "bases_per_s": None}
    ended = Command(preprocess_words(genomes, output, "preprocessing.max_length=32"), tmp_path)
    assert ended.process.wait() == 2 and "preprocessing.max_length: 64 there, 32 here" in (tmp_path / "stderr").read_text()
    assert contents(output) == found
    valid = validate_data(str(output))
    assert valid["damage"] == [] and valid["files"] == len(list_files(output)) - 3  # all but manifest, index and tokenizer

    trained = run(tmp_path, "pretrain", *MODEL, f"data.train_path={output}", f"training.output_dir={tmp_path}/run")
    assert trained["status"] == "finished" and trained["steps"] == 3 and trained["val_loss"] > 0
    scores = evaluate(f"{tmp_path}/run", eval_data=f"{output}/test", metrics=("loss",))
    assert scores["rows"] == first["splits"]["test"]["rows"] and scores["metrics"]["loss"] > 0


def test_variants_and_intervals_from_the_store(bucket: Url, tmp_path: Path) -> None:
    """`population.yaml` with BED files for the stretches: the bytes of a run on local files. The driver alone reads from the store."""
    population = ROOT / "tests/data/population"
    files = {"chr20.vcf.gz": (population / "chr20_2.34M.vcf.gz").read_bytes()}
    files |= {"val.bed": b"chr20_2.34M\t24000\t27000\n", "test.bed": b"chr20_2.34M\t27000\t30000\n"}
    (tmp_path / "in").mkdir()
    for folder, output in ((tmp_path / "in", tmp_path / "here"), (bucket / "in", tmp_path / "there")):
        for name, content in files.items():
            write_bytes(folder / name, content)
        preprocess(load_config("population.yaml", [
            f"preprocessing.input_path={population}/chr20_2.34M.fa.gz", f"preprocessing.variants.path={folder}/chr20.vcf.gz",
            f"preprocessing.split.val_intervals={folder}/val.bed", f"preprocessing.split.test_intervals={folder}/test.bed",
            f"output.path={output}",
        ]))
    here, there = contents(tmp_path / "here"), contents(tmp_path / "there")
    assert here.pop("manifest.json") != there.pop("manifest.json") and here == there and len(here) > 3


@pytest.mark.long
def test_the_bytes_are_those_of_a_local_run(genomes: Url, bucket: Url, tmp_path: Path) -> None:
    """The manifests alone differ, in the path."""
    for output in (bucket / "data", tmp_path / "data"):
        run(tmp_path, *preprocess_words(genomes, output))
    there, here = contents(bucket / "data"), contents(tmp_path / "data")
    assert there.pop("manifest.json") != here.pop("manifest.json") and there == here


@pytest.mark.long
def test_hdf5_of_the_guide(genomes: Url, bucket: Url, tmp_path: Path) -> None:
    """`data.train_path: .../train.h5`, with val.h5 beside it."""
    run(tmp_path, *preprocess_words(genomes, bucket / "data", "output.format=hdf5"))
    assert sorted(contents(bucket / "data")) == ["manifest.json", "shards.parquet", "test.h5", "tokenizer.json", "train.h5", "val.h5"]
    data = [f"data.train_path={bucket}/data/train.h5", f"data.val_path={bucket}/data/val.h5"]
    trained = run(tmp_path, "pretrain", *MODEL, *data, f"training.output_dir={tmp_path}/run")
    assert trained["steps"] == 3 and trained["val_loss"] > 0
