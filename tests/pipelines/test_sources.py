"""Each source with its shipped YAML on a small real file, on Ray, against what is known of the file by other means; and bad input."""

from __future__ import annotations

import gzip
import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pysam
import pytest

from hyena_glt.config import Config, load_config
from hyena_glt.data.manifest import read_manifest
from hyena_glt.errors import HyenaError
from hyena_glt.tokenizers import load_tokenizer
from pipelines.preprocess import preprocess
from pipelines.validate import validate_data
from tests.data.source_reference import Row, read_shard

DATA = Path(__file__).parents[1] / "data"
YEAST, GFF = DATA / "annotations/SmikIFO1815_1.fna.gz", DATA / "annotations/SmikIFO1815_1.gff.gz"
CRESS, CRESS_GTF = DATA / "annotations/AthaTAIR10_chr1_30kb.fna.gz", DATA / "annotations/AthaTAIR10_chr1_30kb.gtf.gz"
HUMAN, HUMAN_BED = DATA / "annotations/chr20_2.63M.fa.gz", DATA / "annotations/chr20_2.63M.bed"
PEOPLE, CHROMOSOME = DATA / "population/chr20_2.34M.vcf.gz", DATA / "population/chr20_2.34M.fa.gz"
MIR_1292 = "CCTGGGAACGGGTTCCGGCAGACGCTGAGGTTGCGTTGACGCTCGCGCCCCGGCTCCCGTTCCAGG"
"""The stem-loop hsa-mir-1292 as miRBase has it."""
NAC001_MD5 = "60a92934c86950aff5ef6f8656df9e97"
"""Of the transcript NM_099983.2 in NCBI's file of transcripts: six exons, 1,688 bases; its gene has no other."""
CAPSID = "MDIRQGPKEPFRDYVDRFYKTLRAEQASQEVKNWMTETLLVQNANPDCKTILKALGPGATLEEMMTACQG"
LAC_REPRESSOR = "MKPVTLYDVAEYAGVSYQTVSRVVNQASHVSAKTREKVEAAMAELNYIPNR"

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    """The shipped files name their inputs from the repository's root on."""
    monkeypatch.chdir(DATA.parents[1])


def shipped(name: str, output: Path, *overrides: str) -> Config:
    return load_config(f"{name}.yaml", [f"output.path={output}", *overrides])


def run(name: str, output: Path, *overrides: str) -> tuple[dict[str, list[Row]], dict]:
    """Preprocess, find no damage, count every base; the rows, and what was dropped."""
    preprocess(shipped(name, output, *overrides))
    assert validate_data(output)["damage"] == []
    manifest = read_manifest(output)
    tokenizer = load_tokenizer(manifest.tokenizer)
    shards = {split: [output / shard.path for shard in part.shards] for split, part in manifest.splits.items()}
    rows = {split: [row for path in paths for row in read_shard(path, tokenizer)] for split, paths in shards.items()}
    stored = sum(row.length for of_split in rows.values() for row in of_split)
    assert stored + sum(counts["bases"] for counts in manifest.dropped.values()) == sum(item.bases for item in manifest.inputs)
    return rows, dict(manifest.dropped)


def every(rows: dict[str, list[Row]]) -> list[Row]:
    return [row for of_split in rows.values() for row in of_split]


def spelt(ids: tuple[int, ...], letters: str = "ACGT") -> str:
    return "".join(letters[token - 5] for token in ids)


def letters_of(path: Path) -> str:
    return "".join(line for line in gzip.open(path, "rt").read().split("\n") if not line.startswith(">"))


def covered(kind: str, upstream: int = 0) -> np.ndarray:
    """Which bases of the yeast chromosome lie in a feature, bool [bases], by the columns of the GFF3 alone."""
    found = np.zeros(len(letters_of(YEAST)), bool)
    for line in gzip.open(GFF, "rt"):
        if not line.startswith("#") and (columns := line.split("\t"))[2] == kind:
            start, end, minus = int(columns[3]) - 1, int(columns[4]), columns[6] == "-"
            found[max(start - (0 if minus else upstream), 0) : end + (upstream if minus else 0)] = True
    return found


def haplotypes() -> dict[str, str]:
    """Sample and number -> letters, by string surgery from right to left with pysam's own genotypes."""
    found = {}
    with pysam.VariantFile(str(PEOPLE)) as reader:
        records = list(reader)
        for sample in reader.header.samples:
            for copy in (0, 1):
                letters = letters_of(CHROMOSOME)
                for record in reversed(records):
                    allele = record.samples[sample]["GT"][copy]
                    letters = letters[: record.start] + record.alleles[allele] + letters[record.stop :]
                found[f"{sample}.{copy + 1}"] = letters
    return found


def test_population(tmp_path):
    rows, dropped = run("population", tmp_path / "out")
    wanted = haplotypes()
    # The same letters, so as many, as bcftools consensus makes.
    assert [len(letters) for letters in wanted.values()] == [29987, 30002, 29997, 29988, 29987, 29999, 29997, 30002]
    assert {row.record for row in every(rows)} == {"chr20_2.34M"} and {row.source for row in every(rows)} <= set(wanted)
    for row in every(rows):
        assert spelt(row.ids) == wanted[row.source][row.start : row.start + row.length]
    assert dropped["reference_records"] == {"records": 1, "bases": 30000}
    assert read_manifest(tmp_path / "out").variants["sites"] == 357


def test_population_with_the_reference_and_one_sample(tmp_path):
    rows, _ = run(
        "population", tmp_path / "out", "preprocessing.variants.samples=[HG00097]", "preprocessing.variants.keep_reference=true",
        "preprocessing.remove_duplicates=false",
    )
    assert {row.source for row in every(rows)} == {"chr20_2.34M.fa.gz", "HG00097.1", "HG00097.2"}
    of_reference = [row for row in rows["val"] if row.source == "chr20_2.34M.fa.gz"]
    assert (of_reference[0].start, sum(row.length for row in of_reference)) == (24000, 3000 - 512)  # the gap is taken from val
    assert "".join(spelt(row.ids) for row in of_reference) == letters_of(CHROMOSOME)[24000 : 27000 - 512]


def test_annotation(tmp_path):
    rows, dropped = run("annotation", tmp_path / "out")
    selected, coding = covered("gene", upstream=500), covered("CDS")
    # The GTF gives the same bases of genes, and NCBI's file of coding sequences as many letters.
    assert (int(covered("gene").sum()), int(coding.sum()), int(selected.sum())) == (150_081, 149_427, 182_878)
    stored = np.zeros(len(selected), int)
    for row in every(rows):
        at = slice(row.start, row.start + row.length)
        stored[at] += 1
        assert row.weights == tuple(np.where(coding[at], 2.0, 1.0))
        assert ("CDS" in row.labels) == coding[at].any() and set(row.labels) <= {"gene", "CDS", "tRNA"}
    assert stored.max() == 1 and not stored[~selected].any()
    assert dropped["split_gap"] == {"bases": 2 * 512} and dropped["not_selected"]["bases"] == int((stored == 0).sum()) - 2 * 512
    assert {row.start for row in every(rows) if "tRNA" in row.labels} == {
        row.start for row in every(rows) if covered("tRNA")[row.start : row.start + row.length].any()
    }


def stored_letters(rows: list[Row], bases: int) -> str:
    """The bases of a record that rows hold, in their places; spaces elsewhere. No base may be in two rows."""
    letters = [" "] * bases
    for row in rows:
        assert set(letters[row.start : row.start + row.length]) == {" "}
        letters[row.start : row.start + row.length] = spelt(row.ids)
    return "".join(letters)


def only(letters: str, places: set[int]) -> str:
    return "".join(letter if at in places else " " for at, letter in enumerate(letters))


def around_start(first: int, end: int, strand: str, upstream: int, downstream: int) -> range:
    """The bases around the first of a feature on its strand, all of them 0-based."""
    return range(first - upstream, first + downstream + 1) if strand == "+" else range(end - 1 - downstream, end + upstream)


def test_starts_of_genes_in_bed(tmp_path):
    rows, dropped = run("promoters", tmp_path / "out")
    genes = [(int(first), int(end), name, strand) for _, first, end, name, _, strand in map(str.split, HUMAN_BED.read_text().splitlines())]
    letters, found = letters_of(HUMAN), stored_letters(every(rows), 20_000)
    starts = {at for first, end, _, strand in genes for at in around_start(first, end, strand, 1000, 1000)}
    assert found == only(letters, starts) and found[3422:3488] == MIR_1292
    for row in every(rows):
        assert row.labels == tuple(sorted(name for first, end, name, _ in genes if first < row.start + row.length and end > row.start))
    # IDH3B starts where it ends in the file, at 14,843, for it lies on the minus strand.
    assert [(row.start, row.length) for row in rows["val"]] == [(13_842, 512), (14_354, 512), (14_866, 512), (15_378, 465)]
    assert [row.labels for row in rows["val"]] == [("IDH3B",), ("IDH3B",), (), ()]
    assert dropped == {"not_selected": {"bases": 20_000 - len(starts) - 2 * 512}, "split_gap": {"bases": 2 * 512}}


ONLY_SELECTED = ["preprocessing.label_regions=null", "preprocessing.weight_regions=null", f"preprocessing.input_path={CRESS}",
                 f"preprocessing.select_regions.path={CRESS_GTF}", "preprocessing.split.val=0", "preprocessing.split.test=0"]


def of_cress(kind: str) -> list[tuple[int, int, str]]:
    """(first base, end, strand) of the features of a type, by the columns of the GTF alone, 0-based."""
    lines = (line.split("\t") for line in gzip.open(CRESS_GTF, "rt") if not line.startswith("#"))
    return [(int(columns[3]) - 1, int(columns[4]), columns[6]) for columns in lines if columns[2] == kind]


def test_only_the_exons_of_a_gtf(tmp_path):
    rows, dropped = run("annotation", tmp_path / "out", *ONLY_SELECTED, "preprocessing.select_regions.types=[exon]",
                        "preprocessing.select_regions.upstream=0")
    exons = {at for first, end, _ in of_cress("exon") for at in range(first, end)}
    found = stored_letters(every(rows), 30_000)
    assert found == only(letters_of(CRESS).upper(), exons)
    spliced = found[3630:5899].replace(" ", "")
    assert len(spliced) == 1688 and hashlib.md5(spliced.encode()).hexdigest() == NAC001_MD5
    assert dropped["not_selected"] == {"bases": 30_000 - len(exons)}


def test_starts_of_transcripts_in_a_gtf(tmp_path):
    rows, _ = run("annotation", tmp_path / "out", *ONLY_SELECTED, "preprocessing.select_regions.types=[transcript]",
                  "preprocessing.select_regions.anchor=start", "preprocessing.select_regions.upstream=200",
                  "preprocessing.select_regions.downstream=50")
    transcripts = of_cress("transcript")
    assert [strand for *_, strand in transcripts].count("-") == 9 and len(transcripts) == 13
    starts = {at for transcript in transcripts for at in around_start(*transcript, 200, 50)}
    assert stored_letters(every(rows), 30_000) == only(letters_of(CRESS).upper(), starts)
    assert (rows["train"][0].start, rows["train"][0].length) == (3630 - 200, 251)  # NAC001 starts at base 3,631, on the plus strand


def test_soft_masked_weight(tmp_path):
    rows, _ = run("soft_masked", tmp_path / "out")
    letters = letters_of(YEAST)
    assert sum(map(str.islower, letters)) == 29_702
    for row in every(rows):
        triplets = [letters[at : at + 3] for at in range(row.start, row.start + row.length, 3)]
        wanted = [sum(0.1 if letter.islower() else 1 for letter in triplet) / 3 for triplet in triplets]
        np.testing.assert_allclose(row.weights, wanted, rtol=1e-3)


def test_soft_masked_drop(tmp_path):
    rows, dropped = run(
        "soft_masked", tmp_path / "out", "preprocessing.soft_masked=drop", "preprocessing.soft_masked_weight=0.1", "tokenization.kind=char",
        "tokenization.kmer_size=6", "preprocessing.split.val=0", "preprocessing.split.test=0",
    )
    letters = letters_of(YEAST)
    assert dropped["soft_masked"] == {"bases": 29_702}
    for row in every(rows):
        assert spelt(row.ids) == letters[row.start : row.start + row.length]  # and so upper-case


def test_structures(tmp_path):
    rows, dropped = run("structures", tmp_path / "out")
    found = {row.record: spelt(row.ids, "ACDEFGHIKLMNOPQRSTUVWY") for row in rows["train"]}
    assert found == {"1A8O_A": CAPSID, "1LCD_A": LAC_REPRESSOR}
    assert dropped["duplicate_records"] == {"records": 1, "bases": len(CAPSID)}  # the same entry as mmCIF and as PDB


def test_go_terms(tmp_path):
    rows, _ = run("go_terms", tmp_path / "out")
    labels = {row.record.split("|")[1]: row.labels for row in rows["train"]}
    assert labels == {
        "D6VPM8": ("GO:0005783", "GO:0005794", "GO:0005886", "GO:0016021", "GO:0016050"),
        "O13511": ("GO:0016021",), "O13512": ("GO:0016021",), "P18409": (), "P39723": (),
    }


BAD_INPUT = {
    "a contig that the reference lacks": (
        "population", [f"preprocessing.input_path={YEAST}"],
        "chr20_2.34M.vcf.gz: contig 'chr20_2.34M' is not in the reference, which has NC_079256.1; rename the contigs of one",
    ),
    "another sample": (
        "population", ["preprocessing.variants.samples=[HG0096]"],
        "preprocessing.variants.samples: no sample of {data}/population/chr20_2.34M.vcf.gz is named 'HG0096'; did you mean HG00096?",
    ),
    "an annotation of another assembly": (
        "annotation", [f"preprocessing.input_path={CHROMOSOME}"],
        "no sequence of the annotation (NC_079256.1) is a record (chr20_2.34M); take the annotation of this assembly",
    ),
    "a type that does not occur": (
        "annotation", ["preprocessing.label_regions.types=[genes]"],
        "SmikIFO1815_1.gff.gz: types: no feature is of type 'genes'; there are gene",
    ),
    "GO terms of other proteins": (
        "go_terms", [f"preprocessing.input_path={DATA}/structures"],
        "no protein with GO terms (A0A023PXB5, A0A023PXB9, A0A023PXC2, ...) is a record (1A8O_A, 1LCD_A, ",
    ),
    "a structure of something else": (
        "structures", ["preprocessing.sequence_type=rna"], "holds no rna (its polymers: ",
    ),
    "a stretch behind the contig's end": (
        "population", ["preprocessing.split.val_intervals=[\"chr20_2.34M:40,001-50,000\"]"], "the val split would be empty",
    ),
    "a stretch of no record": (
        "population", ["preprocessing.split.val_intervals=[\"chr21:1-50\"]"],
        "preprocessing.split.val_intervals: chr21:1-50: no sequence of the annotation (chr21) is a record (chr20_2.34M)",
    ),
}


@pytest.mark.parametrize("name, overrides, sentence", BAD_INPUT.values(), ids=BAD_INPUT)
def test_bad_input_is_one_sentence(tmp_path, name, overrides, sentence):
    with pytest.raises(HyenaError) as caught:
        preprocess(shipped(name, tmp_path / "out", *overrides))
    assert sentence.format(data=DATA.relative_to(Path.cwd())) in str(caught.value).replace(f"{Path.cwd()}/", "")
    assert "Traceback" not in str(caught.value) and "\n" not in str(caught.value)
    assert not any((tmp_path / "out").glob("*")), "the folder is free for corrected settings"


def test_a_reference_that_does_not_fit(tmp_path):
    """One base of the reference is another, as in another assembly."""
    letters = letters_of(CHROMOSOME)
    assert letters[64] == "T"
    (tmp_path / "a.fa").write_text(f">chr20_2.34M\n{letters[:64]}C{letters[65:]}\n")
    with pytest.raises(HyenaError, match=r"chr20_2.34M.vcf.gz, line 8: chr20_2.34M:65: REF is 'T', the reference has 'C'; is it another"):
        preprocess(shipped("population", tmp_path / "out", f"preprocessing.input_path={tmp_path}/a.fa"))


WITHOUT_EXTRAS = """
import importlib, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("pysam", "gemmi", "Bio"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import hyena_glt.data.preprocess, pipelines.preprocess, pipelines.validate
from hyena_glt.errors import DataError
for module in ("population", "sources.structures", "sources.go_terms"):
    try:
        importlib.import_module(f"hyena_glt.data.{module}")
    except DataError as error:
        print(error)
"""


def test_without_the_extra_a_sentence_names_it():
    ended = subprocess.run([sys.executable, "-c", WITHOUT_EXTRAS], capture_output=True, text=True, check=True)
    advice = "; pip install 'hyena-glt[sources]'"
    assert ended.stdout.splitlines() == [
        f"{files} files need {library}{advice}"
        for files, library in (("VCF and BCF", "pysam"), ("PDB and mmCIF", "gemmi"), ("GAF", "Biopython"))
    ]
