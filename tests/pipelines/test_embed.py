"""Embedding on workers: each vector is the library's own, in the order of the input, with its place; what was stopped goes on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from hyena_glt.data.dataset import open_rows
from hyena_glt.errors import ConfigError, DataError
from hyena_glt.inference import LoadedModel
from hyena_glt.inference import embed as embed_here
from pipelines import embed as module
from pipelines.embed import embed
from tests.interrupted_run import Command
from tests.tiny_run import random_bases, random_model, write_lambda_data

RECORDS = {"one": random_bases(500), "short": random_bases(40, 1), "none": "AC", "long": random_bases(1300, 2)}
"""The model reads 128 tokens at once."""
KINDS: dict[str, dict[str, object]] = {
    "char": {"kind": "char"}, "disjoint": {"kind": "kmer", "kmer_size": 3},
    "overlapping": {"kind": "kmer", "kmer_size": 3, "kmer_stride": 1}, "specials": {"kind": "char", "add_special_tokens": True},
}

pytestmark = pytest.mark.usefixtures("ray_session")


def write_fasta(path: Path, records: dict[str, str]) -> Path:
    path.write_text("".join(f">{name} a record\n{letters}\n" for name, letters in records.items()))
    return path


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return random_model(tmp_path_factory.mktemp("model"), causal=True)


@pytest.fixture
def fasta(tmp_path: Path) -> Path:
    return write_fasta(tmp_path / "some.fa", RECORDS)


def vectors(output: Path) -> tuple[list[tuple[str, str, int, int]], np.ndarray]:
    """(source, record, start, length) of each vector, and all of them [N, D]."""
    table = pq.read_table(output / "embeddings")
    places = list(zip(*(table[name].to_pylist() for name in ("source", "record", "start", "length")), strict=True))
    return places, np.array(table["embedding"].to_pylist(), np.float32)


@pytest.mark.parametrize("kind", ["char", "overlapping"])
def test_sequences_have_the_vectors_that_the_library_gives_them(fasta: Path, tmp_path: Path, kind: str) -> None:
    loaded = random_model(tmp_path / "model", causal=kind == "char", tokenization=KINDS[kind])
    result = embed(str(loaded.path), sequences=str(fasta), output_dir=str(tmp_path / "out"))
    places, found = vectors(tmp_path / "out")
    step, span = loaded.tokenizer.bases_per_token, loaded.tokenizer.span
    wanted = {name: letters for name, letters in RECORDS.items() if len(letters) >= span}
    lengths = [(len(letters) - span) // step * step + span for letters in wanted.values()]
    assert places == [("some.fa", name, 0, length) for name, length in zip(wanted, lengths, strict=True)]
    np.testing.assert_allclose(found, embed_here(loaded, list(wanted.values())), rtol=1e-4, atol=1e-5)
    assert result["path"] == str(tmp_path / "out/embeddings")
    assert (result["vectors"], result["width"], result["left_out"]) == (len(wanted), 32, len(RECORDS) - len(wanted))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["embeddings", "run.json", "summary.json"]


@pytest.mark.parametrize(("kind", "most_tokens"), [("disjoint", 1), ("overlapping", 200), ("specials", 300)])
def test_tokens_and_windows_are_those_of_the_whole_sequence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, most_tokens: int
) -> None:
    """However the sequences are shared out to tasks."""
    loaded = random_model(tmp_path / "model", causal=kind == "disjoint", tokenization=KINDS[kind])
    monkeypatch.setattr(module, "TASK_TOKENS", {"window": most_tokens, "token": most_tokens})
    (tmp_path / "fasta").mkdir()
    halves = list(RECORDS.items())[:2], list(RECORDS.items())[2:]
    for number, records in enumerate(halves):
        write_fasta(tmp_path / f"fasta/{number}.fa", dict(records))
    step, span = loaded.tokenizer.bases_per_token, loaded.tokenizer.span
    whole = [(f"{number}.fa", *record) for number, records in enumerate(halves) for record in records if len(record[1]) >= span]
    embed(str(loaded.path), sequences=str(tmp_path / "fasta"), output_dir=str(tmp_path / "tokens"), per="token")
    places, found = vectors(tmp_path / "tokens")
    assert places == [
        (source, name, base, span) for source, name, letters in whole for base in range(0, len(letters) - span + 1, step)
    ]
    of_tokens = np.concatenate(embed_here(loaded, [letters for *_, letters in whole], pool=None))
    np.testing.assert_allclose(found, of_tokens, rtol=1e-4, atol=1e-5)

    embed(str(loaded.path), sequences=str(tmp_path / "fasta"), output_dir=str(tmp_path / "windows"), per="window")
    windows, means = vectors(tmp_path / "windows")
    tokens = [(length - span) // step + 1 for *_, length in windows]
    assert sum(tokens) == len(of_tokens) and len(windows) > len(RECORDS)
    first = {place[:3]: number for number, place in enumerate(places)}
    for place, number, mean in zip(windows, tokens, means, strict=True):
        row = first[place[:3]]
        np.testing.assert_allclose(mean, of_tokens[row : row + number].mean(0), rtol=1e-4, atol=1e-5)


def test_rows_of_preprocessed_data(loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_lambda_data(tmp_path / "data", {"kind": "char"}, max_length=200)
    monkeypatch.setattr(module, "TASK_TOKENS", {"sequence": 1000})
    for path, split in ((data, "test"), (data / "val", "val")):
        embed(str(loaded.path), sequences=str(path), output_dir=str(tmp_path / split))
        places, found = vectors(tmp_path / split)
        rows = open_rows(str(data), split)
        letters = [rows.tokenizer.decode(ids[ids != 0]) for ids in rows.read(np.arange(rows.num_rows))]
        assert places == [("lambda.fa", "lambda", 200 * number, len(some)) for number, some in enumerate(letters)]
        np.testing.assert_allclose(found, embed_here(loaded, letters), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_what_was_killed_goes_on_and_is_the_same(loaded: LoadedModel, tmp_path: Path) -> None:
    letters = random_bases(200_000, 3)
    fasta = write_fasta(tmp_path / "many.fa", {f"r{n}": letters[n * 1000 : (n + 1) * 1000] for n in range(200)})
    output = tmp_path / "out"
    words = ["embed", str(loaded.path), "--input", str(fasta), "--output_dir", str(output), "--per", "token"]
    Command(words, tmp_path).kill_when(lambda: any((output / "embeddings").glob("[0-9]*.parquet")))
    kept = {path: path.stat().st_ino for path in (output / "embeddings").glob("[0-9]*.parquet")}
    assert kept and not (output / "summary.json").exists()
    result = embed(str(loaded.path), sequences=str(fasta), output_dir=str(output), per="token")
    assert all(path.stat().st_ino == inode for path, inode in kept.items()), "what was written was written again"
    whole = embed(str(loaded.path), sequences=str(fasta), output_dir=str(tmp_path / "whole"), per="token")
    assert result["vectors"] == whole["vectors"] == 200_000
    assert vectors(output)[0] == vectors(tmp_path / "whole")[0]
    np.testing.assert_allclose(vectors(output)[1], vectors(tmp_path / "whole")[1], rtol=1e-4, atol=1e-5)


def test_a_finished_folder_gives_its_result_and_no_other(loaded: LoadedModel, fasta: Path, tmp_path: Path) -> None:
    words = {"sequences": str(fasta), "output_dir": str(tmp_path / "out")}
    first = embed(str(loaded.path), **words)
    (tmp_path / "out/embeddings/0000000.parquet").unlink()  # it is not looked for again
    assert embed(str(loaded.path), **words) | {"seconds": 0} == first | {"seconds": 0}
    with pytest.raises(ConfigError, match=rf"^--output_dir: {tmp_path}/out was made of other inputs \(per, tasks differ\); name a new"):
        embed(str(loaded.path), **words, per="token")
    write_fasta(fasta, RECORDS | {"more": "ACGT"})
    with pytest.raises(ConfigError, match=r"other inputs \(input some.fa differ\)"):
        embed(str(loaded.path), **words)
    assert json.loads((tmp_path / "out/run.json").read_text())["per"] == "sequence"


def test_what_is_refused(loaded: LoadedModel, fasta: Path, tmp_path: Path) -> None:
    """And a folder in which nothing was made takes what was corrected."""
    words = {"sequences": str(fasta), "output_dir": str(tmp_path / "out")}
    refused = {
        "--per must be one of sequence, window, token, got base": {"per": "base"},
        "training.batch_size: has no effect on embed; remove it. These have: cluster.address, cluster.num_cpus, hardware.num_gpus":
            {"overrides": ("training.batch_size=2",)},
        "--output_dir: s3://a/b is in an object store; name a folder, on a cluster one that every node sees": {"output_dir": "s3://a/b"},
        "--input: no input in 'nothing.fa': no such file or folder": {"sequences": "nothing.fa"},
    }
    for sentence, changed in refused.items():
        with pytest.raises((ConfigError, DataError)) as caught:
            embed(str(loaded.path), **{**words, **changed})
        assert str(caught.value) == sentence
    other = write_lambda_data(tmp_path / "data", {"kind": "kmer", "kmer_size": 3})
    with pytest.raises(DataError, match="data was tokenized in another way than the model's training data: .*kind is 'kmer' in the data"):
        embed(str(loaded.path), **{**words, "sequences": str(other)})
    empty = {"no header\n": "some.fa: is not FASTA: line 1 is ", ">a\n\n>b\n": "--input: no sequence is as long as a token of the model"}
    for content, sentence in empty.items():
        fasta.write_text(content)
        with pytest.raises(DataError, match=sentence):
            embed(str(loaded.path), **words)
    write_fasta(fasta, RECORDS)
    assert embed(str(loaded.path), **words)["vectors"] == len(RECORDS)


def test_the_settings_of_the_training_do_not_count(fasta: Path, tmp_path: Path) -> None:
    """Such as the cluster on which the model was trained."""
    loaded = random_model(tmp_path / "model", causal=True)
    config = Path(loaded.path) / "config.yaml"
    text = config.read_text()
    config.write_text(text.replace("address: null", "address: 10.0.0.1:6379"))
    assert config.read_text() != text
    assert embed(str(loaded.path), sequences=str(fasta), output_dir=str(tmp_path / "out"))["vectors"] == len(RECORDS)
