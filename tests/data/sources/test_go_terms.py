"""GO terms of proteins out of GAF, and the records that they belong to."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from hyena_glt.data.sources.go_terms import accession, match_proteins, read_go_terms
from hyena_glt.errors import DataError

REAL = Path(__file__).parents[1] / "annotations" / "goa_yeast.gaf.gz"


def line(accession: str, term: str, aspect: str = "P", evidence: str = "IDA", qualifier: str = "") -> str:
    columns = [
        "UniProtKB",
        accession,
        "NAME",
        qualifier,
        term,
        "PMID:1",
        evidence,
        "",
        aspect,
        "",
        "",
        "protein",
        "taxon:1",
        "20200101",
        "X",
    ]
    return "\t".join(columns) + "\t\t\n"


@pytest.fixture
def write(tmp_path):
    def write(*lines: str, version: str = "2.2") -> Path:
        (tmp_path / "a.gaf").write_text(f"!gaf-version: {version}\n! made by hand\n" + "".join(lines))
        return tmp_path / "a.gaf"

    return write


def refusal(path: Path, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        read_go_terms(path, **options)
    return str(caught.value)


def test_terms_are_distinct_and_sorted(write):
    path = write(line("P2", "GO:0000002"), line("P1", "GO:0000009"), line("P1", "GO:0000001", "F"), line("P1", "GO:0000009", "P", "IEA"))
    assert read_go_terms(path) == {"P1": ("GO:0000001", "GO:0000009"), "P2": ("GO:0000002",)}


def test_what_is_left_out(write):
    path = write(
        line("P1", "GO:0000001", "P", "IDA", "NOT|involved_in"),
        line("P1", "GO:0000002", "F", "IEA"),
        line("P1", "GO:0000003", "C", "IDA", "located_in"),
        line("P2", "GO:0000004", "P", "ND"),
    )
    assert read_go_terms(path) == {"P1": ("GO:0000002", "GO:0000003"), "P2": ("GO:0000004",)}
    assert read_go_terms(path, exclude_evidence=("IEA", "ND")) == {"P1": ("GO:0000003",)}
    assert read_go_terms(path, aspects=("F", "P")) == {"P1": ("GO:0000002",), "P2": ("GO:0000004",)}


def test_a_real_file():
    with gzip.open(REAL, "rt") as file:
        rows = [row.rstrip("\n").split("\t") for row in file if not row.startswith("!")]
    reviewed = read_go_terms(REAL, aspects=("F",), exclude_evidence=("IEA", "ND"))
    wanted = {(row[1], row[4]) for row in rows if row[8] == "F" and row[6] not in ("IEA", "ND") and "NOT" not in row[3].split("|")}
    assert {(name, term) for name, terms in reviewed.items() for term in terms} == wanted and len(wanted) == 20
    assert len(read_go_terms(REAL)) == 139


@pytest.mark.parametrize(
    "bad, sentence",
    [
        ("glued together\n", "1 tab-separated columns, wanted 15 or more"),
        ("UniProtKB\tP1\tNAME\t\tGO:0000001\n", "5 tab-separated columns, wanted 15 or more"),
        (line("P1", "GO:12"), "GO_ID is 'GO:12'"),
        (line("", "GO:0000001"), "DB_Object_ID is ''"),
        (line("P1", "GO:0000001", "Q"), "Aspect is 'Q'"),
        (line("P1", "GO:0000001", "P", "guess"), "Evidence is 'guess'"),
    ],
)
def test_a_malformed_line_is_named(write, bad, sentence):
    path = write(line("P1", "GO:0000001"), "\n", bad)
    assert refusal(path) == f"{path}, line 5: {sentence}; correct the line or leave it out"


def test_lines_of_blanks_and_tabs_say_nothing(write):
    assert read_go_terms(write("\t\n", line("P1", "GO:0000001"), " \t \t\n", "\t" * 20 + "\n")) == {"P1": ("GO:0000001",)}


def test_refusals(write, tmp_path):
    assert refusal(write(version="9")).startswith(f"{tmp_path}/a.gaf, line 1: Unknown GAF version !gaf-version: 9")
    path = write(line("P1", "GO:0000001", "P", "IEA"))
    unknown = "preprocessing.go_terms.exclude_evidence: 'IEAA' is no evidence code; there are IEA, "
    assert refusal(path, exclude_evidence=("IEAA",)).startswith(unknown)
    assert refusal(path, aspects=("P", "C"), exclude_evidence=("IEA",)) == (
        f"{path}: no protein has a GO term of aspect P, C without evidence IEA; ask for more, or take another file"
    )


@pytest.mark.parametrize(
    "record, wanted",
    [("sp|P12345|AATM_RABIT", "P12345"), ("tr|A0A0B4|X", "A0A0B4"), ("P12345", "P12345"), ("sp|P12345-2|AATM_RABIT", "P12345")],
)
def test_accession(record, wanted):
    assert accession(record) == wanted


def test_records_with_terms():
    terms = {"P12345": ("GO:0000001",), "Q99999": ("GO:0000002",)}
    records = ["sp|P12345|AATM_RABIT", "sp|P12345-2|AATM_RABIT", "P00000"]
    assert match_proteins(terms, records) == dict.fromkeys(records[:2], ("GO:0000001",))
    with pytest.raises(
        DataError, match=r"no protein with GO terms \(P12345, Q99999\) is a record \(chr1\); records must be named by UniProt"
    ):
        match_proteins(terms, ["chr1"])
