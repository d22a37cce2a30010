"""Regions out of GFF3, GTF and BED: what each line means, how labels are found, what is refused and in which words."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pysam
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyena_glt.data.sources.intervals import Intervals
from hyena_glt.data.sources.regions import chromosome_name, match_names, read_regions
from hyena_glt.errors import DataError

ANNOTATIONS = Path(__file__).parents[1] / "annotations"
GFF, GTF = ANNOTATIONS / "SmikIFO1815_1.gff.gz", ANNOTATIONS / "SmikIFO1815_1.gtf.gz"

GFF3_TEXT = """##gff-version 3
##sequence-region chr1 1 100
chr1\tx\tgene\t11\t20\t.\t+\t.\tID=g1;Name=alpha%3B1;gene_biotype=protein_coding

# a comment
chr1\tx\texon\t1\t5\t.\t-\t.\tID=e1;Parent=g1
chr%202\tx\tgene\t90\t120\t.\t-\t0\tID=g2;gene_biotype=tRNA;
###
chr1\tx\tregion\t1\t100\t.\t?\t.\t.
##FASTA
>chr1
ACGT
"""
GTF_TEXT = """chr1\tx\tgene\t11\t20\t.\t+\t.\tgene_id "g1"; gene_name "alpha; 1"; tag "first"; tag "second"; level 2;
chr1\tx\tCDS\t13\t15\t.\t+\t0\tgene_id "g1"; transcript_id ""
"""
BED_TEXT = """browser position chr1:1-100
track name=genes
chr1\t10\t20\talpha\t0\t+
chr1 0 5 beta 7 -
chr2\t89\t120
"""


@pytest.fixture
def write(tmp_path):
    def write(name: str, text: str) -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def rows(intervals: Intervals) -> list[tuple[int, int, int, str]]:
    columns = (intervals.start_K.tolist(), intervals.end_K.tolist(), intervals.strand_K.tolist(), intervals.label_K)
    return list(zip(*columns, strict=True))


def found(path: Path, **options: object) -> dict[str, list[tuple[int, int, int, str]]]:
    return {name: rows(intervals) for name, intervals in read_regions(path, **options).items()}


def refusal(path: Path, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        read_regions(path, **options)
    return str(caught.value)


def test_gff3_of_every_type(write):
    assert found(write("a.gff3", GFF3_TEXT)) == {
        "chr1": [(0, 5, -1, "exon"), (0, 100, 0, "region"), (10, 20, 1, "gene")],
        "chr 2": [(89, 120, -1, "gene")],
    }


def test_gff3_labels_by_name_and_attribute(write):
    path = write("a.gff", GFF3_TEXT)
    assert found(path, types=("gene",), label_by="name") == {"chr1": [(10, 20, 1, "alpha;1")], "chr 2": [(89, 120, -1, "g2")]}
    assert found(path, types=("gene", "exon"), label_by="gene_biotype") == {
        "chr1": [(0, 5, -1, ""), (10, 20, 1, "protein_coding")],
        "chr 2": [(89, 120, -1, "tRNA")],
    }


def test_gtf_labels(write):
    path = write("a.gtf", GTF_TEXT)
    assert found(path) == {"chr1": [(10, 20, 1, "gene"), (12, 15, 1, "CDS")]}
    assert found(path, label_by="name") == {"chr1": [(10, 20, 1, "alpha; 1"), (12, 15, 1, "g1")]}
    assert found(path, label_by="tag") == {"chr1": [(10, 20, 1, "first"), (12, 15, 1, "")]}
    assert found(path, label_by="level", types=("gene",)) == {"chr1": [(10, 20, 1, "2")]}


def test_bed(write):
    assert found(write("a.bed", BED_TEXT)) == {"chr1": [(0, 5, -1, "beta"), (10, 20, 1, "alpha")], "chr2": [(89, 120, 0, "")]}


def test_the_start_is_the_base_at_the_5_prime_end(write):
    path = write("a.gff3", GFF3_TEXT)
    assert found(path, types=("gene",), anchor="start") == {"chr1": [(10, 11, 1, "gene")], "chr 2": [(119, 120, -1, "gene")]}
    assert found(path, types=("gene",), anchor="start", upstream=15, downstream=2) == {
        "chr1": [(0, 13, 1, "gene")],
        "chr 2": [(117, 135, -1, "gene")],
    }


def test_whole_regions_are_extended_along_their_strand(write):
    path = write("a.gff3", GFF3_TEXT)
    assert found(path, types=("gene",), upstream=3, downstream=1) == {"chr1": [(7, 21, 1, "gene")], "chr 2": [(88, 123, -1, "gene")]}
    assert found(path, types=("region",), upstream=2, downstream=2) == {"chr1": [(0, 102, 0, "region")]}


def test_line_ends_and_compression_change_nothing(write, tmp_path):
    wanted = found(write("a.gff3", GFF3_TEXT))
    assert found(write("b.gff3", GFF3_TEXT.replace("\n", "\r\n"))) == wanted
    (tmp_path / "c.gff3.gz").write_bytes(gzip.compress(GFF3_TEXT.encode()))
    assert found(tmp_path / "c.gff3.gz") == wanted
    pysam.tabix_compress(str(tmp_path / "a.gff3"), str(tmp_path / "d.GFF3.bgz"))
    assert found(tmp_path / "d.GFF3.bgz") == wanted


def test_real_gff3_and_gtf_agree():
    gff, gtf = (read_regions(path, types=("gene",), label_by="locus_tag") for path in (GFF, GTF))
    assert list(gff) == list(gtf) == ["NC_079256.1"]
    assert len(gff["NC_079256.1"]) == 94
    assert rows(gff["NC_079256.1"])[0] == (3102, 4191, -1, "SMKI_01G0010")
    assert {row[:3] for row in rows(gff["NC_079256.1"])} >= {row[:3] for row in rows(gtf["NC_079256.1"])}


def test_real_labels():
    biotypes = read_regions(GFF, types=("gene",), label_by="gene_biotype")["NC_079256.1"].label_K
    assert {name: biotypes.count(name) for name in set(biotypes)} == {"protein_coding": 92, "tRNA": 2}


def test_real_positions_are_those_of_pysam():
    with gzip.open(GFF) as file:
        wanted = sorted((row.start, row.end) for row in pysam.tabix_iterator(file, pysam.asGFF3()) if row.feature == "exon")
    exons = read_regions(GFF, types=("exon",))["NC_079256.1"]
    assert list(zip(exons.start_K.tolist(), exons.end_K.tolist(), strict=True)) == wanted


GOOD_LINE = "chr1\tx\tgene\t11\t20\t.\t+\t.\tID=g1"


@pytest.mark.parametrize(
    "name, line, sentence",
    [
        ("a.gff3", "chr1\tx\tgene\t11\t20\t.\t+\t.", "8 tab-separated columns, wanted 9"),
        ("a.gff3", "chr1 x gene 11 20 . + . ID=g1", "1 tab-separated columns, wanted 9"),
        ("a.gff3", "chr1\tx\tgene\televen\t20\t.\t+\t.\tID=g1", "the start is 'eleven', wanted a whole number"),
        ("a.gff3", "chr1\tx\tgene\t-3\t20\t.\t+\t.\tID=g1", "the start is '-3', wanted a whole number"),
        ("a.gff3", "chr1\tx\tgene\t1\t2٣\t.\t+\t.\tID=g1", "the end is '2٣', wanted a whole number"),
        ("a.gff3", f"chr1\tx\tgene\t1\t{10**18}\t.\t+\t.\tID=g1", f"the end is '{10**18}', wanted a whole number"),
        ("a.gff3", "chr1\tx\tgene\t0\t20\t.\t+\t.\tID=g1", "holds no base: 0-based start -1, end 20"),
        ("a.gff3", "chr1\tx\tgene\t21\t20\t.\t+\t.\tID=g1", "holds no base: 0-based start 20, end 20"),
        ("a.gff3", "chr1\tx\tgene\t11\t20\t.\tplus\t.\tID=g1", "the strand is 'plus', wanted + - . or ?"),
        ("a.gff3", "\tx\tgene\t11\t20\t.\t+\t.\tID=g1", "the sequence has no name"),
        ("a.gff3", 'chr1\tx\tgene\t11\t20\t.\t+\t.\tgene_id "g1";', "the attribute 'gene_id \"g1\"' is not KEY=VALUE (this looks like GTF"),
        ("a.gff3", "chr1\tx\tgene\t11\t20\t.\t+\t.\tID=g1;broken", "the attribute 'broken' is not KEY=VALUE"),
        ("a.gtf", "chr1\tx\tgene\t11\t20\t.\t+\t.\tID=g1", "the attribute 'ID=g1' is not KEY \"VALUE\";"),
        ("a.gtf", 'chr1\tx\tgene\t11\t20\t.\t+\t.\ta "1"; b "2; c 3', 'the attribute \'b "2; c 3\' is not KEY "VALUE";'),
    ],
)
def test_a_malformed_line_is_named(write, name, line, sentence):
    path = write(name, "# one\n" + line + "\n")
    message = refusal(path, label_by="name")
    assert message.startswith(f"{path}, line 2: {sentence}") and message.endswith("; correct the line or leave it out")


@pytest.mark.parametrize(
    "line, sentence",
    [
        ("chr1\t5", "2 columns, wanted at least 3"),
        ("chr1\t5\tx", "the end is 'x', wanted a whole number"),
        ("chr1\t5\t5", "holds no base: 0-based start 5, end 5"),
        ("chr1\t5\t9\tn\t0\t1", "the strand is '1', wanted + - . or ?"),
    ],
)
def test_a_malformed_bed_line_is_named(write, line, sentence):
    path = write("a.bed", f"chr1\t1\t2\n{line}\n")
    assert refusal(path) == f"{path}, line 2: {sentence}; correct the line or leave it out"


@pytest.mark.parametrize("options", [{"anchor": "start"}, {"upstream": 5}])
def test_an_unknown_strand_has_no_5_prime_end(write, options):
    path = write("a.gff3", GFF3_TEXT)
    assert refusal(path, **options).startswith(f"{path}, line 9: the strand is unknown, so which end is 5' is too")


def test_absent_types_and_labels(write):
    path = write("a.gff3", GFF3_TEXT)
    assert refusal(path, types=("genes",)) == f"{path}: types: no feature is of type 'genes'; there are gene, exon, region"
    assert refusal(path, label_by="biotype") == f"{path}: label_by: no region has 'biotype'; there are gene_biotype, Parent, ID, Name"
    assert refusal(write("a.bed", "chr1\t1\t2\n"), label_by="name").endswith("no region has 'name'; there is nothing to read it from")


def test_what_bed_cannot_give(write):
    path = write("a.bed", BED_TEXT)
    assert refusal(path, types=("gene",)) == f"{path}: types (gene) has no effect on BED, which has no feature types; remove it"
    assert refusal(path, label_by="type") == (f"{path}: label_by (type) has no effect on BED, which has names only; use `label_by: name`")


def test_files_that_cannot_be_used(write, tmp_path):
    assert refusal(write("a.txt", "")).endswith("is none of .gff3 .gff .gtf .bed (also with .gz or .bgz) by its name; rename or convert it")
    assert refusal(write("a.gff3", "##gff-version 3\n")).endswith("holds no feature; put annotation into it or leave it out")
    assert refusal(tmp_path / "missing.gff3").endswith("cannot be read (No such file or directory); correct the path")
    (tmp_path / "latin.gff3").write_bytes(f"{GOOD_LINE}\n{GOOD_LINE}\xe9".encode("latin-1"))
    assert "latin.gff3, line 2: b'\\xe9' is not UTF-8; convert the file" in refusal(tmp_path / "latin.gff3")


def test_damaged_compressed_files(tmp_path):
    whole = gzip.compress((GOOD_LINE + "\n").encode() * 200)
    (tmp_path / "cut.gff3.gz").write_bytes(whole[:-10])
    assert f"cut.gff3.gz: compressed file is cut short ({len(whole) - 10} bytes)" in refusal(tmp_path / "cut.gff3.gz")
    (tmp_path / "bad.gff3.gz").write_bytes(whole[:30] + b"\xff\xff\xff" + whole[33:])
    assert "bad.gff3.gz: compressed file is damaged (" in refusal(tmp_path / "bad.gff3.gz")
    (tmp_path / "plain").write_text(GOOD_LINE + "\n")
    pysam.tabix_compress(str(tmp_path / "plain"), str(tmp_path / "end.gff3.gz"))
    (tmp_path / "end.gff3.gz").write_bytes((tmp_path / "end.gff3.gz").read_bytes()[:-28])
    assert "end.gff3.gz: compressed file is cut short" in refusal(tmp_path / "end.gff3.gz")


features = st.lists(st.tuples(st.integers(0, 50), st.integers(1, 20), st.sampled_from("+-")), min_size=1, max_size=20)


@given(features, st.sampled_from(["whole", "start"]), st.integers(0, 30), st.integers(0, 30))
def test_regions_against_a_plain_reference(tmp_path_factory, lines, anchor, upstream, downstream):
    path = tmp_path_factory.mktemp("bed") / "a.bed"
    path.write_text("".join(f"c\t{start}\t{start + length}\tn\t0\t{strand}\n" for start, length, strand in lines))
    wanted = []
    for start, length, strand in lines:
        bases = range(start, start + length) if strand == "+" else range(start + length - 1, start - 1, -1)
        step, taken = bases.step, bases[:1] if anchor == "start" else bases
        reach = {*taken, *(taken[0] - step * i for i in range(upstream + 1)), *(taken[-1] + step * i for i in range(downstream + 1))}
        wanted.append((max(min(reach), 0), max(reach) + 1, step))
    intervals = read_regions(path, anchor=anchor, upstream=upstream, downstream=downstream)["c"]
    assert intervals.start_K.dtype == intervals.end_K.dtype == np.int64
    assert [row[:3] for row in sorted(rows(intervals))] == sorted(wanted)
    assert [row[:2] for row in rows(intervals)] == sorted(row[:2] for row in wanted)


@pytest.mark.parametrize(
    "name, wanted", [("chr20", "20"), ("Chr20", "20"), ("20", "20"), ("chrX", "X"), ("chrM", "MT"), ("MT", "MT"), ("chr", "CHR")]
)
def test_chromosome_name(name, wanted):
    assert chromosome_name(name) == wanted


def test_names_are_matched_exactly_first():
    pairs, alone = match_names(["chr20", "chrX", "MT", "scaffold7", "NC_1.2"], ["20", "chrX", "X", "chrM", "NC_1.2"])
    assert pairs == {"chr20": "20", "chrX": "chrX", "MT": "chrM", "NC_1.2": "NC_1.2"}
    assert alone == ("scaffold7",)


def test_a_name_with_two_partners_has_none():
    assert match_names(["1", "chrM", "MT"], ["1", "chrM"]) == ({"1": "1", "chrM": "chrM"}, ("MT",))
    assert match_names(["1", "chrM"], ["1", "M", "MT"]) == ({"1": "1"}, ("chrM",))


def test_no_name_matches():
    with pytest.raises(DataError) as caught:
        match_names(["chr1", "chr2"], ["NC_000001.11"])
    assert str(caught.value).startswith("no sequence of the annotation (chr1, chr2) is a record (NC_000001.11); take the annotation")
