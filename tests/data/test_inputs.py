"""Which files an input path means, and what their rows call them."""

from __future__ import annotations

import pytest

from hyena_glt.data.inputs import find_inputs
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


def test_a_recursive_glob(tree):
    assert list(find_inputs(f"{tree}/**/*.FNA")) == ["c.FNA"]


@pytest.mark.parametrize(
    "path, sentence",
    [
        ("missing.fa", "missing.fa': no such file or folder"),
        ("*.fastq", "*.fastq': no such file or folder"),
        ("empty", "nothing there has a FASTA name (.fa .fasta .fna .ffn .frn .faa, also with .gz or .bgz)"),
    ],
)
def test_nothing_found(tree, path, sentence):
    (tree / "empty").mkdir()
    with pytest.raises(DataError) as caught:
        find_inputs((f"{tree}/b.fa", f"{tree}/{path}"))
    assert str(caught.value).startswith("preprocessing.input_path: no input in") and sentence in str(caught.value)
