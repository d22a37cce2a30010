"""Haplotypes out of VCF: equal to string surgery, letter by letter, and every bad file its own sentence."""

from __future__ import annotations

import gzip
import os
import pickle
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import pysam
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyena_glt.data.sources import haplotypes
from hyena_glt.data.sources.haplotypes import Edits, Lift, Region, apply_edits, parse_region
from hyena_glt.data.sources.population import Counts, Haplotypes, read_haplotypes
from hyena_glt.data.sources.variants import contigs, has_index, sample_names
from hyena_glt.errors import ConfigError, DataError

REFERENCE = "ACGTACGTACGGGTTTACGTNNRYACGTAC"
HEADER = ("##fileformat=VCFv4.2", "##contig=<ID=1,length=30>", '##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">')
COLUMNS = "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO"
FIRST = len(HEADER) + 2
"""The line of the first record."""


def letters(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8)


def vcf(*records: str, samples: str = "a b", contig: str = "1") -> bytes:
    """A file; a record is `POS REF ALT GENOTYPE...`, with `FORMAT=...` in front of the genotypes where it is not GT."""
    lines = [*HEADER, "\t".join([COLUMNS, "FORMAT", *samples.split()]) if samples else COLUMNS]
    for record in records:
        pos, ref, alt, *calls = record.split(" ")
        format = calls.pop(0).removeprefix("FORMAT=") if calls and calls[0].startswith("FORMAT=") else "GT"
        lines.append("\t".join([contig, pos, ".", ref, alt, ".", ".", ".", *([format, *calls] if calls else [])]))
    return "".join(f"{line}\n" for line in lines).encode()


def write(folder: Path, content: bytes, pack: str = "plain") -> Path:
    plain, packed = folder / "x.vcf", folder / "x.vcf.gz"
    plain.write_bytes(gzip.compress(content) if pack == "gzip" else content)
    if not pack.startswith("bgzip"):
        return plain
    pysam.tabix_compress(str(plain), str(packed), force=True)
    if pack == "bgzip+index":
        pysam.tabix_index(str(packed), preset="vcf", force=True)
    return packed


def read(path: Path, start: int = 0, end: int = len(REFERENCE), samples: str = "a b", reference: str = REFERENCE) -> Haplotypes:
    return read_haplotypes(path, Region("1", start, end), samples.split(), letters(reference))


def spelt(found: Haplotypes, region: Region, reference: str = REFERENCE) -> dict[str, str]:
    """`sample.haplotype` -> its letters."""
    pieces = {key: apply_edits(letters(reference), region, found.edits_of(*key)) for key in found.carried}
    return {f"{sample}.{number}": b"".join(map(bytes, parts)).decode() for (sample, number), parts in pieces.items()}


def haplotypes_of(folder: Path, *records: str, start: int = 0, end: int = len(REFERENCE)) -> tuple[dict[str, str], Counts]:
    found = read(write(folder, vcf(*records)), start, end)
    return spelt(found, Region("1", start, end)), found.counts


def refused(path: Path, samples: str = "a b", contig: str = "1") -> str:
    """What is said about a file, whether or not it has an index."""
    with pytest.raises(DataError) as caught:
        read_haplotypes(path, Region(contig, 0, len(REFERENCE)), samples.split(), letters(REFERENCE))
    assert str(path) in str(caught.value)
    return str(caught.value)


# Regions


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("20", Region("20")),
        (" chrUn_1 ", Region("chrUn_1")),
        ("20:1,000,001-4,000,000", Region("20", 1_000_000, 4_000_000)),
        ("20:5-5", Region("20", 4, 5)),
        ("20:5", Region("20", 4)),
        ("20:5-", Region("20", 4)),
        ("{HLA-A*01:01}", Region("HLA-A*01:01")),
        ("{HLA-A*01:01}:2-9", Region("HLA-A*01:01", 1, 9)),
    ],
)
def test_parse_region(text, wanted):
    assert parse_region(text) == wanted


@pytest.mark.parametrize("text", ["", " ", ":1-2", "20:", "20:a-b", "20:-5", "20:1-2-3", "20 1", "a:b:1-2", "20:1.5-2"])
def test_a_region_that_cannot_be_read(text):
    with pytest.raises(ConfigError) as caught:
        parse_region(text)
    advice = "write a contig, or its first and last base too: 20, 20:1,000,001-4,000,000"
    assert str(caught.value) == f"region {text!r} cannot be read; {advice}"


@pytest.mark.parametrize("text", ["20:5-4", "20:0-5", "20:0", "20:0-0"])
def test_a_region_without_bases(text):
    with pytest.raises(ConfigError) as caught:
        parse_region(text)
    assert str(caught.value) == f"region {text!r} is empty; bases are numbered from 1, and the last is not before the first"


def test_a_region_within_the_reference():
    lengths = {"20": 100}
    assert Region("20").within(lengths, Path("x.vcf")) == Region("20", 0, 100)
    assert Region("20", 4).within(lengths, Path("x.vcf")) == Region("20", 4, 100)
    assert Region("20", 4, 100).within(lengths, Path("x.vcf")) == Region("20", 4, 100)


@pytest.mark.parametrize(
    "contig, names, near", [("20", ["chr2", "chr20"], "chr20"), ("chrM", ["1", "MT"], "MT"), ("c7", ["contig_7", "c_7"], "c_7, contig_7")]
)
def test_a_contig_that_the_reference_does_not_have(contig, names, near):
    with pytest.raises(DataError) as caught:
        Region(contig).within(dict.fromkeys(names, 9), Path("x.vcf"))
    assert str(caught.value) == (
        f"x.vcf: contig {contig!r} is not in the reference, which has {near}; rename the contigs of one (bcftools annotate --rename-chrs), "
        "or use the reference that the variants were called on"
    )


@pytest.mark.parametrize("region", [Region("20", 4, 101), Region("20", 100), Region("20", 200)])
def test_a_region_outside_the_contig(region):
    with pytest.raises(DataError, match=r"^x.vcf: region 20:\d+-\d+ is not inside contig '20' of 100 bases$"):
        region.within({"20": 100}, Path("x.vcf"))


# Haplotypes against string surgery


def slow_trim(start: int, ref: str, alt: str) -> tuple[int, int, str]:
    while ref and alt and ref[0] == alt[0]:
        start, ref, alt = start + 1, ref[1:], alt[1:]
    while ref and alt and ref[-1] == alt[-1]:
        ref, alt = ref[:-1], alt[:-1]
    return start, start + len(ref), alt


def slow_edits(records: list, sample: int, haplotype: int, start: int, end: int, counts: dict) -> list[tuple[int, int, str]]:
    """Edits of one haplotype, in order and disjoint; `counts` says what was left out."""
    found = []
    for at, ref, alts, calls in records:
        alleles, _ = calls[sample]
        allele = alleles[haplotype] if haplotype < len(alleles) else 0
        if at >= end or at + len(ref) <= start or not allele or alts[allele - 1] == "*":
            continue
        alt = alts[allele - 1]
        if alt == "<DEL>" or "]" in alt:
            counts["symbolic"] += 1
            continue
        first, last, added = slow_trim(at, ref, alt.upper())
        if not (start <= first and last <= end) or first == last == start > 0:
            counts["across_edge"] += bool(added or first < last)
        elif added or first < last:
            found.append((first, last, added))
    kept = []
    for edit in sorted(found, key=lambda edit: edit[:2]):
        if any(set(range(*edit[:2])) & set(range(*other[:2])) or other[0] < edit[0] < other[1] or edit[:2] == other[:2] for other in kept):
            counts["overlapping"] += 1
        else:
            kept.append(edit)
    counts["applied"] += len(kept)
    return kept


def slow_haplotype(reference: str, start: int, end: int, edits: list[tuple[int, int, str]]) -> str:
    """From right to left, so that no edit moves those that are still to come."""
    for first, last, added in reversed(edits):
        reference, end = reference[:first] + added + reference[last:], end + len(added) - (last - first)
    return reference[start:end]


def slow_lift(reference: str, start: int, edits: list[tuple[int, int, str]], position: int) -> int:
    """The length of the haplotype in front of a position, and of as much of an edit around it as the position is inside."""
    inside = [(first, added) for first, last, added in edits if first <= position < last]
    front, added = inside[0] if inside else (position, "")
    before = slow_haplotype(reference, start, front, [edit for edit in edits if edit[1] <= front])
    return len(before) + min(position - front, len(added))


@st.composite
def populations(draw):
    """(reference, records, region's start and end); a record is (0-based position, REF, ALTs, [((allele or None, ...), separator)])."""
    reference = draw(st.text("ACGT", min_size=12, max_size=40))
    ploidy = draw(st.lists(st.sampled_from([1, 2, 2, 2, 3]), min_size=1, max_size=3))
    records = []
    for at in sorted(draw(st.lists(st.integers(0, len(reference) - 1), max_size=10))):
        ref = reference[at : at + draw(st.sampled_from([1, 1, 1, 2, 5]))]
        alt = st.one_of(st.text("ACGTacgN", min_size=1, max_size=4), st.sampled_from([ref[0], f"{ref}TT", "*", "<DEL>", "G]1:3]"]))
        alts = draw(st.lists(alt, min_size=1, max_size=3))
        allele = st.sampled_from([0, 0, None, *range(1, len(alts) + 1)])
        calls = [(tuple(draw(allele) for _ in range(copies)), draw(st.sampled_from("|/"))) for copies in ploidy]
        records.append((at, ref, alts, calls))
    start = draw(st.integers(0, len(reference) - 1))
    return reference, records, start, draw(st.integers(start + 1, len(reference)))


def population_vcf(reference: str, records: list, format: str) -> bytes:
    texts = []
    for at, ref, alts, calls in records:
        genotypes = [separator.join("." if allele is None else str(allele) for allele in alleles) for alleles, separator in calls]
        fields = [genotype + (":7" if format != "GT" else "") for genotype in genotypes]
        texts.append(" ".join([str(at + 1), ref, ",".join(alts), f"FORMAT={format}", *fields]))
    return vcf(*texts, samples=" ".join(f"s{i}" for i in range(len(records[0][3]))))


@settings(max_examples=100, deadline=None)
@given(populations(), st.sampled_from(["plain", "gzip", "bgzip", "bgzip+index"]), st.sampled_from(["GT", "GT:DP"]))
def test_haplotypes_equal_string_surgery(population, pack, format):
    reference, records, start, end = population
    if not records:
        return
    region, samples = Region("1", start, end), [f"s{i}" for i in range(len(records[0][3]))]
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), population_vcf(reference, records, format), pack)
        found = read_haplotypes(path, region, samples, letters(reference))

    inside = [record for record in records if record[0] < end and record[0] + len(record[1]) > start]
    counts = dict.fromkeys(("applied", "symbolic", "across_edge", "overlapping"), 0)
    for (sample, number), _ in found.carried.items():
        edits = slow_edits(records, samples.index(sample), number - 1, start, end, counts)
        with mock.patch.object(haplotypes, "PIECE_BASES", 5):
            pieces = list(apply_edits(letters(reference), region, found.edits_of(sample, number)))
        wanted = slow_haplotype(reference, start, end, edits)
        assert b"".join(map(bytes, pieces)).decode() == wanted
        lift = Lift.through(region, found.edits_of(sample, number))
        assert lift.num_bases == len(wanted)
        positions = np.arange(start, end + 1)
        assert lift.to_haplotype(positions).tolist() == [slow_lift(reference, start, edits, position) for position in positions]

    calls = [call for record in inside for call in record[3]]
    missing = sum(alleles.count(None) for alleles, _ in calls)
    unphased = sum(separator == "/" and len(alleles) > 1 and len(set(alleles)) > 1 for alleles, separator in calls)
    assert found.counts == Counts(sites=len(inside), missing=missing, unphased=unphased, **counts)
    numbers = {sample: [number for name, number in found.carried if name == sample] for sample in samples}
    called = {sample: max((len(r[3][i][0]) for r in inside if r[3][i][0] != (None,)), default=1) for i, sample in enumerate(samples)}
    assert numbers == {sample: [*range(1, copies + 1)] for sample, copies in called.items()}


# Kinds of variants, in words


def test_each_kind_of_variant(tmp_path):
    found, counts = haplotypes_of(
        tmp_path,
        "2 C T,G 1|2 0|0",  # two alternatives
        "4 T TGG 1|0 0|0",  # insertion
        "6 CGT C 0|1 0|0",  # deletion
        "11 GG AC 0|0 1|0",  # several bases
        "17 ACG A,* 1|0 0|2",  # a star is no edit
    )
    assert found["a.1"] == "ATGTGGACGTACGGGTTTATNNRYACGTAC"
    assert found["a.2"] == "AGGTACACGGGTTTACGTNNRYACGTAC"
    assert found["b.1"] == "ACGTACGTACACGTTTACGTNNRYACGTAC"
    assert found["b.2"] == REFERENCE
    assert counts == Counts(sites=5, applied=6)


def test_an_anchor_base_is_not_touched(tmp_path):
    """A SNV, an insertion behind it and a deletion with the same anchor: what is written at one POS may hold together."""
    found, counts = haplotypes_of(tmp_path, "4 T TG 1|0 0|0", "4 T C 1|1 0|0", "4 TAC T 1|1 0|0")
    assert (found["a.1"], found["a.2"]) == ("ACGCGGTACGGGTTTACGTNNRYACGTAC", "ACGCGTACGGGTTTACGTNNRYACGTAC")
    assert counts == Counts(sites=3, applied=5)


def test_overlaps_are_left_out_haplotype_by_haplotype(tmp_path):
    found, counts = haplotypes_of(tmp_path, "4 TACG T 1|0 0|0", "6 C T 1|1 0|1", "8 T TA 1|0 0|0", "8 T TC 1|0 0|0")
    assert (found["a.1"], found["a.2"], found["b.2"]) == (
        "ACGTTAACGGGTTTACGTNNRYACGTAC",
        "ACGTATGTACGGGTTTACGTNNRYACGTAC",
        "ACGTATGTACGGGTTTACGTNNRYACGTAC",
    )
    assert counts == Counts(sites=4, applied=4, overlapping=2)


def test_what_has_no_letters_is_counted(tmp_path):
    found, counts = haplotypes_of(tmp_path, "3 G <DEL>,]2:7]G 1|2 0|0", "5 N <INS> 0|0 1|1", "7 G .A,<*> 0|1 0|2", "9 A . 0|0 ./.")
    assert set(found.values()) == {REFERENCE}
    assert counts == Counts(sites=4, symbolic=6, missing=2)


def test_variants_at_the_edges_belong_to_one_region(tmp_path):
    records = ["6 C CAA 1|1 0|0", "12 GGTT G 1|1 0|0", "18 C CT,A 1|2 0|0"]
    whole, _ = haplotypes_of(tmp_path, *records)
    left, counts = haplotypes_of(tmp_path, *records, end=6)
    middle, _ = haplotypes_of(tmp_path, *records, start=6, end=18)
    right, _ = haplotypes_of(tmp_path, *records, start=18)
    assert counts == Counts(sites=1, applied=2)
    assert right == {"a.1": REFERENCE[18:], "b.1": REFERENCE[18:]}
    assert all(left[key] + middle[key] + REFERENCE[18:] == whole[key] for key in ("a.1", "a.2"))
    _, counts = haplotypes_of(tmp_path, *records, start=13)
    assert counts == Counts(sites=2, applied=2, across_edge=2)


def test_an_insertion_in_front_of_the_contig(tmp_path):
    found, _ = haplotypes_of(tmp_path, "1 A TTA 1|0 0|0")
    assert found["a.1"] == f"TT{REFERENCE}"


def test_ploidy(tmp_path):
    found, counts = haplotypes_of(tmp_path, "2 C T 1 .", "4 T C . 1/1/0", "6 C T 0 .")
    assert set(found) == {"a.1", "b.1", "b.2", "b.3"}
    assert counts == Counts(sites=3, applied=3, missing=3, unphased=1)
    found, counts = haplotypes_of(tmp_path, "2 C T 1 0|0", "4 T C 0|1 1")
    assert (found["a.1"], found["a.2"]) == ("ATGTACGTACGGGTTTACGTNNRYACGTAC", "ACGCACGTACGGGTTTACGTNNRYACGTAC")
    assert counts == Counts(sites=2, applied=3, mixed_ploidy=2)


def test_samples_without_calls_are_the_reference_once(tmp_path):
    found, counts = haplotypes_of(tmp_path, "2 C T", "4 T C FORMAT=DP 5 6")
    assert found == {"a.1": REFERENCE, "b.1": REFERENCE}
    assert counts == Counts(sites=2, sites_without_genotypes=2)


def test_lower_case_and_ambiguous_references(tmp_path):
    """VCF writes A for R and C for Y; some write N for every ambiguous base."""
    found, _ = haplotypes_of(tmp_path, "2 c t 1|0 0|0", "23 A T 1|0 0|0", "24 N G 1|0 0|0")
    assert found["a.1"] == "ATGTACGTACGGGTTTACGTNNTGACGTAC"


def test_samples_come_in_the_order_asked_for(tmp_path):
    path = write(tmp_path, vcf("2 C T 1|0 0|1 0|0", "4 T G 0|0 1|1 0|1", samples="a b c"))
    assert sample_names(path) == ("a", "b", "c")
    everyone, some = read(path, samples="a b c"), read(path, samples="c a")
    assert list(some.carried) == [("c", 1), ("c", 2), ("a", 1), ("a", 2)]
    region = Region("1", 0, len(REFERENCE))
    assert spelt(some, region).items() <= spelt(everyone, region).items()
    assert (len(everyone.edits), len(some.edits), some.counts.sites) == (2, 2, 2)
    assert len(read(path, samples="c").edits) == 1, "an edit that nobody chosen carries takes no memory"


def test_sample_names_with_signs_of_htslib(tmp_path):
    path = write(tmp_path, vcf("2 C T 1|0 0|1 0|0", samples="^a b,c d"))
    assert {key: len(numbers) for key, numbers in read(path, samples="b,c ^a").carried.items()} == {
        ("b,c", 1): 0, ("b,c", 2): 1, ("^a", 1): 1, ("^a", 2): 0,
    }  # fmt: skip


def test_the_result_travels_between_processes(tmp_path):
    found = pickle.loads(pickle.dumps(read(write(tmp_path, vcf("2 C T 1|0 0|1")))))
    assert spelt(found, Region("1", 0, 4)) == {"a.1": "ATGT", "a.2": "ACGT", "b.1": "ACGT", "b.2": "ATGT"}


def test_counts_add_up():
    assert Counts(sites=2, missing=1) + Counts(sites=3, symbolic=4) == Counts(sites=5, missing=1, symbolic=4)


def test_a_lift_keeps_neighbours_neighbours():
    columns = {"start_E": [3, 6, 9], "end_E": [3, 8, 12], "first_E": [0, 2, 2], "last_E": [2, 2, 3]}
    edits = Edits(**{name: np.array(values) for name, values in columns.items()}, letters=letters("TTG"))
    lift = Lift.through(Region("1", 1, 14), edits)
    # Bases 1 to 14: two letters before base 3, bases 6 and 7 deleted, 9 to 11 replaced by one letter.
    assert lift.to_haplotype(np.arange(1, 15)).tolist() == [0, 1, 4, 5, 6, 7, 7, 7, 8, 9, 9, 9, 10, 11]
    assert lift.num_bases == 11


# Files


@pytest.mark.parametrize("pack", ["plain", "gzip", "bgzip", "bgzip+index"])
def test_every_container_reads_the_same(tmp_path, pack):
    content = vcf("2 C T 1|0 0|0") + b"".join(vcf("2 C T 0|1 0|0", contig=c).splitlines(keepends=True)[-1] for c in ("3", "2"))
    path = write(tmp_path, content, pack)
    assert sample_names(path) == ("a", "b")
    assert contigs(path) == ("1", "3", "2")
    assert has_index(path) == (pack == "bgzip+index")
    assert spelt(read(path), Region("1", 0, 5)) == {"a.1": "ATGTA", "a.2": "ACGTA", "b.1": "ACGTA", "b.2": "ACGTA"}


def to_bcf(path: Path) -> Path:
    target = path.with_suffix(".bcf")
    with pysam.VariantFile(str(path)) as reader, pysam.VariantFile(str(target), "wb", header=reader.header) as writer:
        for record in reader:
            writer.write(record)
    return target


def test_bcf_reads_the_same(tmp_path):
    path = to_bcf(write(tmp_path, vcf("2 C T 1|0 0|0", "4 T TA,G 0/2 1/.")))
    assert contigs(path) == ("1",)
    assert read(path).counts == Counts(sites=2, applied=3, missing=1, unphased=2)
    wrong = to_bcf(write(tmp_path, vcf("2 C T 1|0 0|0", "4 G A 0/1 1/.")))
    assert f"{wrong}, record 2: 1:4: REF is 'G', the reference has 'T'" in refused(wrong)


def test_a_file_of_sites_has_no_samples(tmp_path):
    path = write(tmp_path, vcf("2 C T", samples=""))
    assert sample_names(path) == ()
    assert contigs(path) == ("1",)
    assert "has no sample 'a'; it has none; correct the name, or use another file" in refused(path)


def test_an_index_older_than_its_file_is_not_used(tmp_path):
    path = write(tmp_path, vcf("2 C T 1|0 0|0"), "bgzip+index")
    index = Path(f"{path}.tbi").read_bytes()
    write(tmp_path, vcf(*(f"{at} {REFERENCE[at - 1]} {REFERENCE[at - 1]}A 1|0 0|0" for at in range(2, 12))), "bgzip")
    Path(f"{path}.tbi").write_bytes(index)
    os.utime(f"{path}.tbi", (1, 1))
    assert not has_index(path)
    assert read(path).counts.sites == 10


def test_an_index_that_cannot_be_read_is_not_used(tmp_path):
    path = write(tmp_path, vcf("2 C T 1|0 0|0"), "bgzip")
    Path(f"{path}.tbi").write_bytes(b"no index")
    assert has_index(path)
    assert contigs(path) == ("1",)
    assert read(path).counts.sites == 1


# Bad files

GOOD = "2 C T 1|0 0|0"
BAD_RECORDS = {
    "another letter": ("4 G A 1|0 0|0", "1:4: REF is 'G', the reference has 'T'; is it another assembly? Use the reference that"),
    "the second letter": ("4 TG T 1|0 0|0", "1:5: REF is 'G', the reference has 'A'; is it another assembly?"),
    "unknown reference": ("21 A T 0|0 0|0", "1:21: REF is 'A', the reference has 'N'; is it another assembly?"),
    "N is no base": ("4 N T 0|0 0|0", "1:4: REF is 'N', the reference has 'T'"),
    "behind the contig": ("31 A T 1|0 0|0", "1:31-31: the contig has 30 bases in the reference; is it another assembly?"),
    "across its end": ("30 CA C 1|0 0|0", "1:30-31: the contig has 30 bases in the reference"),
    "out of order": ("1 A T 1|0 0|0", "position 1 stands behind 2; sort the file (bcftools sort)"),
    "no such allele": ("4 T A 1|2 0|0", "a genotype names allele 2, and ALT has 1; correct one of them"),
    "no letters": ("4 T AQ 1|0 0|0", "ALT 'AQ' is not made of letters of DNA; correct it"),
    "GT behind": ("4 T A FORMAT=DP:GT 3:0|1 3:0|0", "FORMAT is DP:GT, and GT must come first (VCF specification, 1.6.2); move it there"),
    "too few columns": ("4 T A 1|0", "htslib cannot read it (unable to parse next record), which begins b'1\\t4\\t.\\tT\\tA"),
    "no genotype": ("4 T A x|0 0|0", "htslib cannot read it (truncated file), which begins b'1\\t4\\t.\\tT\\tA"),
    "no position": ("4x T A 1|0 0|0", "htslib cannot read it (truncated file), which begins b'1\\t4x\\t.\\tT\\tA"),
}


@pytest.mark.parametrize("pack", ["plain", "gzip", "bgzip"])
@pytest.mark.parametrize("record, wanted", BAD_RECORDS.values(), ids=BAD_RECORDS)
def test_a_bad_record_is_named_by_its_line(tmp_path, capfd, pack, record, wanted):
    path = write(tmp_path, vcf(GOOD, record), pack)
    assert refused(path).startswith(f"{path}, line {FIRST + 1}: {wanted}")
    assert capfd.readouterr().err == "", "htslib wrote to stderr"


@pytest.mark.parametrize("name", ["another letter", "no such allele", "too few columns", "no genotype"])
def test_a_bad_record_found_by_the_index_is_named_by_its_line(tmp_path, name):
    record, wanted = BAD_RECORDS[name]
    path = write(tmp_path, vcf(GOOD, record), "bgzip+index")
    assert refused(path).startswith(f"{path}, line {FIRST + 1}: {wanted}")


def test_a_blank_line_and_letters_that_are_not_utf8(tmp_path):
    path = write(tmp_path, vcf(GOOD) + b"\n" + vcf(GOOD).splitlines(keepends=True)[-1])
    assert refused(path).startswith(f"{path}, line {FIRST + 1}: htslib cannot read it (")
    path = write(tmp_path, vcf(GOOD).replace(b"\tC\t", b"\t\xff\t"))
    assert refused(path).startswith(f"{path}, line {FIRST}: htslib cannot read it ('utf-8' codec can't decode byte 0xff")
    with pytest.raises(DataError, match=f"line {FIRST}: htslib cannot read it"):
        contigs(write(tmp_path, vcf("4x T A 0|0 0|0")))


def test_samples_and_contigs_that_are_not_there(tmp_path):
    path = write(tmp_path, vcf(GOOD, samples="HG00096 HG00097"))
    assert refused(path, samples="HG0097") == (
        f"{path}: has no sample 'HG0097'; it has HG00097, HG00096; correct the name, or use another file"
    )
    assert refused(path, "HG00096", contig="chr1") == f"{path}: has no contig 'chr1'; it has 1; name one of these, or another file"


HEADER_WANTED = (
    "; VCF begins with '##fileformat=VCFv4.2', and '#CHROM', with each sample once and tabs between the columns, is the header's last line"
)


@pytest.mark.parametrize(
    "content, line",
    [
        (b"", 1),
        (b">1\nACGT\n", 1),
        (vcf(GOOD).split(b"\n", 1)[1], 1),
        (vcf(GOOD, samples="a a"), FIRST - 1),
        (vcf(GOOD, samples="a b").replace(b"\ta\t", b"\t\xff\t"), FIRST - 1),
        (vcf(GOOD).replace(COLUMNS.encode(), COLUMNS.replace("\t", " ").encode()), FIRST - 1),
        (vcf(GOOD).replace(b"#CHROM", b"CHROM"), FIRST - 1),
    ],
)
def test_a_bad_header(tmp_path, capfd, content, line):
    path = write(tmp_path, content)
    shown = (content.splitlines() or [b""])[line - 1][:60]
    assert refused(path) == f"{path}, line {line}: htslib cannot read the header, which here has {shown!r}{HEADER_WANTED}"
    with pytest.raises(DataError, match="cannot read the header"):
        sample_names(path)
    assert capfd.readouterr().err == ""


def test_a_missing_file(tmp_path):
    assert refused(tmp_path / "none.vcf") == f"{tmp_path / 'none.vcf'}: cannot be read (No such file or directory); correct the path"


MANY = vcf(*(f"{at} {REFERENCE[at - 1]} {REFERENCE[at - 1]}A 1|0 0|1" for at in np.repeat(range(1, 20), 900)))


@pytest.mark.parametrize("pack", ["gzip", "bgzip"])
def test_a_compressed_file_that_is_cut_short_or_damaged(tmp_path, capfd, pack):
    path = write(tmp_path, MANY, pack)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "cut short" in refused(path)
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes(20) + whole[middle + 20 :])
    assert "damaged" in refused(path) or f"{path}, line " in refused(path)
    assert capfd.readouterr().err == ""


def test_an_error_early_in_a_gzip_file_ends_the_reading(tmp_path):
    """The thread that unpacks it has far more to write than the pipe holds."""
    bad = MANY.replace(b"\n1\t1\t", b"\n1\t1x\t", 1)
    assert f"line {FIRST}: htslib cannot read it" in refused(write(tmp_path, bad, "gzip"))
