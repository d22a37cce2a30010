"""Which files an input path means, and what their rows call them."""

from __future__ import annotations

import pytest

from hyena_glt.config import GoTermsConfig, PreprocessingConfig, RegionsConfig, SplitConfig
from hyena_glt.data import inputs
from hyena_glt.data.inputs import find_annotations, find_inputs, named_annotations
from hyena_glt.data.storage import Url
from hyena_glt.errors import DataError


@pytest.fixture
def tree(tmp_path):
    for name in ("b.fa", "a.fasta.gz", "deep/er/c.FNA", "deep/d.faa.bgz", "notes.txt", "deep/x.gff3"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(">a\nA\n")
    return tmp_path


def test_a_folder_is_searched_through(tree):
    assert list(find_inputs(str(tree))) == ["a.fasta.gz", "b.fa", "deep/d.faa.bgz", "deep/er/c.FNA"]


def test_files_globs_and_folders_together_give_each_file_once(tree):
    found = find_inputs((f"{tree}/b.fa", f"{tree}/*.fa", f"{tree}/deep"))
    assert list(found) == ["b.fa", "deep/d.faa.bgz", "deep/er/c.FNA"]
    assert found["b.fa"] == tree / "b.fa"


def test_a_file_named_by_itself_may_be_called_anything(tree):
    assert list(find_inputs(f"{tree}/notes.txt")) == ["notes.txt"]


def test_a_glob_leaves_indexes_out(tree):
    for index in ("b.fa.fai", "a.fasta.gz.gzi"):
        (tree / index).write_text("")
    assert list(find_inputs(f"{tree}/*.fa*")) == ["a.fasta.gz", "b.fa"]


def test_a_recursive_glob(tree):
    assert list(find_inputs(f"{tree}/**/*.FNA")) == ["c.FNA"]


@pytest.mark.parametrize(
    "path, sentence",
    [
        ("missing.fa", "missing.fa': no such file or folder"),
        ("*.fastq", "*.fastq': no such file or folder"),
        ("empty", "nothing there has the name of a FASTA or structure file "
         "(.fa .fasta .fna .ffn .frn .faa .pdb .ent .cif .mmcif, also with .gz or .bgz)"),
    ],
)
def test_nothing_found(tree, path, sentence):
    (tree / "empty").mkdir()
    with pytest.raises(DataError) as caught:
        find_inputs((f"{tree}/b.fa", f"{tree}/{path}"))
    assert str(caught.value).startswith("preprocessing.input_path: no input in") and sentence in str(caught.value)


def test_each_annotation_has_a_name_of_its_own_and_listed_bed_files_are_annotations(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.bed").write_text("chr1\t0\t5\n")
    cfg = PreprocessingConfig(
        select_regions=RegionsConfig(path=(f"{tmp_path}/a/x.bed", f"{tmp_path}/b/x.bed")),
        split=SplitConfig(by="interval", val_intervals=f"{tmp_path}/b/x.bed", test_intervals=("chr1:7-9",)),
    )
    found = find_annotations(cfg)
    assert found == {
        "select_regions": [tmp_path / "a/x.bed", tmp_path / "b/x.bed"], "val_intervals": [tmp_path / "b/x.bed"],
    }
    assert list(named_annotations(found)) == ["select_regions 1: x.bed", "select_regions 2: x.bed", "val_intervals: x.bed"]
    with pytest.raises(DataError, match=r"preprocessing.go_terms.path: no file 'gone\*.gaf'; check the path"):
        find_annotations(PreprocessingConfig(sequence_type="protein", go_terms=GoTermsConfig(path="gone*.gaf")))


def test_inputs_of_an_object_store_are_called_as_local_ones(monkeypatch, tmp_path):
    urls = [Url("s3", "bucket/in/a/x.fa"), Url("s3", "bucket/in/b/y.fa")]
    monkeypatch.setattr(inputs, "find_objects", lambda url: urls)
    assert find_inputs("s3://bucket/in") == {"a/x.fa": urls[0], "b/y.fa": urls[1]}
    (tmp_path / "z.fa").write_text(">z\nACGT\n")
    assert find_inputs(["s3://bucket/in", f"{tmp_path}/z.fa"]) == {"a/x.fa": urls[0], "b/y.fa": urls[1], "z.fa": tmp_path / "z.fa"}
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x.fa").write_text(">x\nACGT\n")
    with pytest.raises(DataError, match="two inputs would both be called 'a/x.fa'; rename one of them"):
        find_inputs(["s3://bucket/in", str(tmp_path)])
