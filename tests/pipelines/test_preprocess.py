"""Preprocessing on Ray: real genomes against the definition, bad input, and folders of finished and other runs."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import ray
from ray.util import placement_group, remove_placement_group

from hyena_glt.config import Config, OutputConfig, PreprocessingConfig, SplitConfig, TokenizationConfig, dump_config
from hyena_glt.data import dedup
from hyena_glt.data.manifest import read_manifest
from hyena_glt.errors import ClusterError, ConfigError, DataError, HyenaError
from hyena_glt.tokenizers import load_tokenizer
from pipelines._ray import start_ray
from pipelines.preprocess import preprocess
from pipelines.validate import validate_data
from tests.data.reference import Row, expected_rows, stored_ids
from tests.data.test_fasta import bgzip

GENOMES = Path(__file__).parents[2] / "pipelines" / "genomes"
LAMBDA, PHIX = ((GENOMES / name).read_bytes() for name in ("lambda.fa", "phix174.fa"))
PROTEINS = b">sp|P1|A first\nMKTAYIAKQR\nQISFVKSHFSRQ\n>sp|P2|B\nMKTAXXZUO*\n>sp|P3|C\nM\n>sp|P4|D\nMKTAYIAKQRQISFVKSHFSRQ\n>empty\n"
NO_SPLIT = SplitConfig(val=0, test=0)

pytestmark = pytest.mark.usefixtures("ray_session")


def settings(inputs: Path, output: Path, **changes: object) -> Config:
    """Char tokens, tails of 5 and 10 %, windows of 128; `changes` go to the section that has them."""
    pre = {"input_path": str(inputs), "max_length": 128, "split": SplitConfig(by="tail", val=0.05, test=0.1)}
    tok, out = {"kind": "char"}, {"path": str(output), "chunk_size": 100}
    for key, value in changes.items():
        next(section for section, fields in ((out, OutputConfig), (tok, TokenizationConfig), (pre, PreprocessingConfig))
             if hasattr(fields, key))[key] = value
    return Config(preprocessing=PreprocessingConfig(**pre), tokenization=TokenizationConfig(**tok), output=OutputConfig(**out))


def stored_rows(folder: Path) -> dict[str, list[Row]]:
    """The rows that the manifest names, in its order."""
    rows: dict[str, list[Row]] = {"train": [], "val": [], "test": []}
    manifest = read_manifest(folder)
    tokenizer = load_tokenizer(manifest.tokenizer)
    for split, part in manifest.splits.items():
        for shard in part.shards:
            for row in pq.read_table(folder / shard.path).to_pylist():
                ids = tuple(token for token in stored_ids(row["input_ids"], tokenizer) if token)
                rows[split].append((row["source"], row["record"], row["start"], row["length"], ids))
    return rows


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Inputs in three containers."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in/lambda.fa.gz").write_bytes(gzip.compress(LAMBDA))
    (tmp_path / "in/phix.fa").write_bytes(PHIX)
    (tmp_path / "in/phix_again.fna.bgz").write_bytes(bgzip(PHIX.replace(b"\n", b"\r\n")))
    return tmp_path


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"stride": 100, "overlap": 28, "remove_duplicates": False},
        {"kind": "kmer", "kmer_size": 6, "split": NO_SPLIT, "compress": False},
        {"kind": "kmer", "kmer_size": 3, "kmer_stride": 1, "split": SplitConfig(by="named", val_records=("NC_001422.1",))},
    ],
    ids=["char", "overlap", "6-mers", "overlapping 3-mers"],
)
def test_real_genomes_give_the_rows_of_the_definition(folder, changes):
    sources = {"lambda.fa.gz": LAMBDA, "phix.fa": PHIX, "phix_again.fna.bgz": PHIX}
    cfg = settings(folder / "in", folder / "out", **changes)
    result = preprocess(cfg)
    wanted = expected_rows(sources, cfg)
    assert stored_rows(folder / "out") == wanted
    for split, rows in wanted.items():
        sums = {"rows": len(rows), "tokens": sum(len(row[4]) for row in rows), "bases": sum(row[3] for row in rows)}
        assert result["splits"].get(split, {"rows": 0, "tokens": 0, "bases": 0}) == sums
    if cfg.preprocessing.remove_duplicates:
        assert result["dropped"]["duplicate_records"] == {"records": 1, "bases": 5386}
    assert json.loads(json.dumps(result)) == result and result["bases_per_s"] > 0
    assert validate_data(folder / "out")["damage"] == []
    assert not (folder / "out/.preprocess").exists()


def test_proteins(tmp_path):
    (tmp_path / "p.faa").write_bytes(PROTEINS)
    cfg = settings(tmp_path / "p.faa", tmp_path / "out", kind=None, sequence_type="protein", max_length=16, split=NO_SPLIT)
    result = preprocess(cfg)
    wanted = expected_rows({"p.faa": PROTEINS}, replace(cfg, tokenization=TokenizationConfig(kind="amino_acid")))
    assert stored_rows(tmp_path / "out") == wanted
    assert result["dropped"] == {
        "empty_records": {"records": 1, "bases": 0},
        "duplicate_records": {"records": 1, "bases": 22},
        "ambiguous_windows": {"windows": 1, "bases": 10},
    }


def test_repeats_are_found_across_buckets_by_the_shuffle(folder, monkeypatch):
    repeated = b"".join(b">r%d\n%s\n" % (i, PHIX.split(b"\n", 1)[1][: 1000 + i]) for i in range(4))
    (folder / "in/repeats.fa").write_bytes(repeated)
    sources = {"lambda.fa.gz": LAMBDA, "phix.fa": PHIX, "phix_again.fna.bgz": PHIX, "repeats.fa": repeated}
    monkeypatch.setattr(dedup, "WINDOWS_PER_BUCKET", 100)
    cfg = settings(folder / "in", folder / "out", max_length=64, split=NO_SPLIT)
    assert preprocess(cfg)["dropped"]["duplicate_windows"]["windows"] > 40
    assert stored_rows(folder / "out") == expected_rows(sources, cfg)


def test_a_finished_run_gives_its_result_again_without_ray(folder):
    cfg = settings(folder / "in", folder / "out")
    first = preprocess(cfg)
    before = files_of(folder / "out")
    unreachable = replace(cfg, cluster=replace(cfg.cluster, address="192.0.2.1:1"))
    again = preprocess(replace(unreachable, preprocessing=replace(cfg.preprocessing, input_path=f"{folder}/in/*")))
    assert first["seconds"] > 0 and again == {**first, "seconds": None, "bases_per_s": None}
    assert files_of(folder / "out") == before


def test_an_output_folder_of_another_run_is_refused_naming_the_keys(folder):
    preprocess(settings(folder / "in/phix.fa", folder / "out"))
    before = files_of(folder / "out")
    (folder / "in/phix.fa").write_bytes(PHIX + b">more\nACGT\n")
    with pytest.raises(ConfigError) as caught:
        preprocess(settings(folder / "in/phix.fa", folder / "out", max_length=64, remove_duplicates=False))
    head, *differences = caught.value.problems
    assert head.startswith(f"output.path: {folder}/out is the output folder of another run; name another folder")
    assert differences[0].startswith("input phix.fa: checksum ")
    assert differences[1:] == ["preprocessing.max_length: 128 there, 64 here", "preprocessing.remove_duplicates: true there, false here"]
    assert files_of(folder / "out") == before


def test_a_folder_that_holds_something_else_is_refused(folder):
    with pytest.raises(ConfigError, match="in holds lambda.fa.gz, phix.fa, phix_again.fna.bgz, which no preprocessing run wrote"):
        preprocess(settings(folder / "in", folder / "in"))


BAD_INPUT = {
    "not FASTA": (b"LOCUS       NC_1\n", {}, "is not FASTA: line 1 is b'LOCUS       NC_1' (this looks like GenBank)"),
    "empty file": (b"", {}, "x.fa: is empty; remove it"),
    "truncated gzip": (gzip.compress(LAMBDA)[:5000], {}, "x.fa: gzip file is cut short (5,000 bytes); copy it again"),
    "truncated bgzip": (bgzip(LAMBDA)[:-28], {}, "x.fa: bgzip file is cut short"),
    "duplicate names": (b">a\nACGT\n>a\nACGA\n", {}, "line 3: a record on line 1 is named 'a' too"),
    "glued records": (b">a\nACGT>b\nACGT\n", {}, "record 'a', line 2: '>' stands inside a line"),
    "all ambiguous": (
        b">a\n" + b"N" * 300 + b"\n>b\nNNNNNNN\n>empty\n", {"min_length": 20, "split": NO_SPLIT},
        "no window is left after the filters (dropped: 3 ambiguous windows, 1 empty records, 1 short windows)",
    ),
    "no bases": (b">a\n>b\n", {}, "no window is left after the filters (dropped: 2 empty records)"),
    "empty split by record": (
        LAMBDA, {"split": SplitConfig(val=0.1, test=0)}, "the val split would be empty; the seeded hash put no record there: split by tail",
    ),
    "empty split by tail": (
        b">a\nACGTACGTAC\n", {"split": SplitConfig(by="tail", val=0, test=0.01)},
        "the test split would be empty; the records are too short for it: raise its fraction, lower max_length, or split by record; "
        "or set preprocessing.split.test to 0",
    ),
    "empty split by name": (
        b">a\nACGT\n>b\nNNNN\n", {"split": SplitConfig(by="named", val_records=("b",))},
        "the val split would be empty (dropped: 1 ambiguous windows); "
        "name other records in preprocessing.split.val_records and test_records",
    ),
    "unknown record": (
        b">chr1\nACGT\n", {"split": SplitConfig(by="named", val_records=("chr_1",))}, "no record is named 'chr_1'; did you mean chr1?",
    ),
}


@pytest.mark.parametrize("content, changes, sentence", BAD_INPUT.values(), ids=BAD_INPUT)
def test_bad_input_is_one_sentence_and_leaves_the_folder_free(tmp_path, content, changes, sentence):
    (tmp_path / "x.fa").write_bytes(content)
    with pytest.raises(HyenaError) as caught:
        preprocess(settings(tmp_path / "x.fa", tmp_path / "out", **changes))
    assert type(caught.value) in (DataError, ConfigError)
    assert sentence in str(caught.value) and ("split.val to 0" in str(caught.value)) == ("split by tail" in sentence)
    assert "Traceback" not in str(caught.value) and "\n" not in str(caught.value)
    (tmp_path / "x.fa").write_bytes(PHIX)
    assert preprocess(settings(tmp_path / "x.fa", tmp_path / "out"))["splits"]["train"]["rows"] > 0


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"kind": "kmer", "kmer_size": 6, "max_length": 5}, "preprocessing.max_length: windows of 5 bases are shorter than one token of 6"),
        ({"input_path": ()}, "preprocessing.input_path: name FASTA files"),
        ({"path": None}, "output.path: name the folder to write"),
    ],
)
def test_settings_that_cannot_work(folder, changes, sentence):
    with pytest.raises(ConfigError) as caught:
        preprocess(settings(folder / "in", folder / "out", **changes))
    assert sentence in str(caught.value)
    assert not (folder / "out").exists()


def test_a_dry_run_shows_the_settings_counts_and_writes_nothing(folder, capsys):
    cfg = settings(folder / "in", folder / "out")
    result = preprocess(cfg, dry_run=True)
    assert dump_config(cfg) in capsys.readouterr().err
    assert not (folder / "out").exists()
    assert (result["inputs"], result["records"], result["bases"], result["width"]) == (3, 3, 48502 + 2 * 5386, 128)
    assert result["splits"]["test"] == {"windows": 38 + 5, "shards": 1} and result["splits"]["train"]["shards"] == 4
    assert result["dropped"]["split_gap"] == {"bases": 4 * 128}


def test_a_cluster_without_a_free_cpu_is_not_waited_for_for_ever(tmp_path):
    cfg = settings(GENOMES / "phix174.fa", tmp_path / "out")
    cfg = replace(cfg, cluster=replace(cfg.cluster, address="auto", start_timeout_s=0))
    others = placement_group([{"CPU": 2.0}])
    ray.get(others.ready())
    for dry_run in (True, False):
        with pytest.raises(ClusterError, match=r"^a worker of 1 CPU found no room within 0 s .*: the cluster has 2 CPUs, .*\. See by"):
            preprocess(cfg, dry_run=dry_run)
    remove_placement_group(others)
    preprocess(replace(cfg, cluster=replace(cfg.cluster, start_timeout_s=60)))


def test_an_address_where_no_ray_answers():
    script = "from pipelines._ray import start_ray\nwith start_ray('127.0.0.1:1', None): pass"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "ClusterError: cluster.address: no Ray answers at 127.0.0.1:1 ([Errno 111] Connection refused); start it" in ended.stderr


def test_a_running_ray_is_left_running():
    with start_ray(None, 1):
        assert ray.cluster_resources()["CPU"] == 2
    assert ray.is_initialized()
