"""Haplotypes through the stages of preprocessing, against string surgery base by base: records, splits, features, what goes on where."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyena_glt.config import Config, OutputConfig, PreprocessingConfig, SplitConfig, TokenizationConfig
from hyena_glt.config.preprocessing import LabelRegionsConfig, VariantsConfig, WeightRegionsConfig
from hyena_glt.data import population
from hyena_glt.data.plan import prepare
from hyena_glt.data.preprocess import read_genome
from hyena_glt.data.resume import claim
from hyena_glt.data.scratch import SCRATCH
from hyena_glt.errors import ConfigError, DataError, HyenaError
from tests.data.source_reference import (
    Feature,
    Molecule,
    assert_every_base_is_counted,
    assert_same,
    expected_rows,
    haplotype,
    input_records,
    local_rows,
    run_in_process,
    write_annotation,
)
from tests.data.sources.test_variants import slow_edits

Site = tuple[int, str, list[str], list[tuple[tuple[int | None, ...], str]]]
"""0-based position, REF, ALTs, a call a sample."""
NOTHING_LEFT = ("would be empty", "no sequence of the annotation", "no window is left")
COUNTED = ("sites", "applied", "symbolic", "across_edge", "overlapping")


class Vcf(NamedTuple):
    """A file: its samples, and the sites on each contig."""

    samples: list[str]
    sites: dict[str, list[Site]]

    def write(self, path: Path, contigs: dict[str, str]) -> str:
        header = [f"##contig=<ID={contig},length={len(contigs[contig])}>" for contig in self.sites]
        columns = ["#CHROM", *"POS ID REF ALT QUAL FILTER INFO".split(), *(["FORMAT"] if self.samples else [])]
        lines = ["##fileformat=VCFv4.2", *header, '##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">']
        lines.append("\t".join([*columns, *self.samples]))
        for contig, sites in self.sites.items():
            for at, ref, alts, calls in sites:
                texts = [separator.join("." if allele is None else str(allele) for allele in alleles) for alleles, separator in calls]
                lines.append("\t".join([contig, str(at + 1), ".", ref, ",".join(alts), ".", ".", ".", "GT", *texts]))
        path.write_text("".join(f"{line}\n" for line in lines))
        return str(path)


@st.composite
def sites_on(draw: Callable, letters: str, ploidy: Sequence[int]) -> list[Site]:
    found = []
    for at in sorted(draw(st.lists(st.integers(0, len(letters) - 1), min_size=1, max_size=6))):
        ref = letters[at : at + draw(st.sampled_from([1, 1, 2, 5]))].upper()
        alt = st.one_of(st.text("ACGT", min_size=1, max_size=4), st.sampled_from([ref[0], f"{ref}TT", "<DEL>"]))
        alts = draw(st.lists(alt, min_size=1, max_size=2))
        allele = st.sampled_from([0, 1, None, len(alts)])
        found.append((at, ref, alts, [(tuple(draw(allele) for _ in range(copies)), draw(st.sampled_from("|/"))) for copies in ploidy]))
    return found


@st.composite
def populations(draw: Callable) -> tuple[dict[str, str], list[Vcf]]:
    """Two contigs, soft-masked in part; one VCF file for both, or one for each, with haploid and diploid samples."""
    contigs = {name: draw(st.text("ACGTacgt", min_size=10, max_size=40)) for name in ("chr1", "chr2")}
    ploidy = draw(st.lists(st.sampled_from([1, 2, 2]), min_size=1, max_size=3))
    samples = [f"s{number}" for number in range(len(ploidy))]
    sites = {contig: draw(sites_on(letters, ploidy)) for contig, letters in contigs.items()}
    together = draw(st.booleans())
    return contigs, [Vcf(samples, sites)] if together else [Vcf(samples, {contig: sites[contig]}) for contig in contigs]


def slow_haplotypes(
    reference: Sequence[Molecule], vcfs: Sequence[Vcf], chosen: Sequence[str], regions: Sequence[tuple[str, int, int]]
) -> tuple[list[Molecule], dict[str, int]]:
    """The records of all haplotypes in the order of the definition: file, region, sample, haplotype."""
    built, counts = [], dict.fromkeys(COUNTED, 0)
    originals = {molecule.contig: molecule for molecule in reference}
    for vcf in vcfs:
        whole = [(contig, 0, len(originals[contig].bases)) for contig in vcf.sites]
        for contig, start, end in [region for region in regions if region[0] in vcf.sites] or (whole if not regions else []):
            sites = vcf.sites[contig]
            inside = [site for site in sites if site[0] < end and site[0] + len(site[1]) > start]
            counts["sites"] += len(inside)
            for number, sample in enumerate(vcf.samples):
                if not chosen or sample in chosen:
                    calls = [site[3][number][0] for site in inside]
                    for copy in range(max((len(call) for call in calls if call != (None,)), default=1)):
                        edits = slow_edits(sites, number, copy, start, end, counts)
                        built.append(haplotype(originals[contig], f"{sample}.{copy + 1}", start, end, edits))
    return built, counts


def config(folder: Path, vcfs: Sequence[str], max_length: int = 8, **preprocessing: object) -> Config:
    variants = VariantsConfig(path=tuple(vcfs), **preprocessing.pop("variants", {}))
    return Config(
        preprocessing=PreprocessingConfig(
            input_path=str(folder / "a.fa"), max_length=max_length, **{"variants": variants, **preprocessing},
        ),
        tokenization=TokenizationConfig(kind="char"), output=OutputConfig(path=str(folder / "out"), chunk_size=50),
    )


def write_reference(folder: Path, contigs: dict[str, str]) -> list[Molecule]:
    content = "".join(f">{name}\n{letters}\n" for name, letters in contigs.items()).encode()
    (folder / "a.fa").write_bytes(content)
    return input_records({"a.fa": content})


@st.composite
def settings_of(draw: Callable, folder: Path, contigs: dict[str, str], samples: Sequence[str]) -> tuple[dict, list, dict]:
    """Settings of `preprocessing`, the regions in them, the features in them."""
    regions = []
    if draw(st.booleans()):
        contig = draw(st.sampled_from(sorted(contigs)))
        start = draw(st.integers(0, len(contigs[contig]) - 1))
        regions = [(contig, start, draw(st.integers(start + 1, len(contigs[contig]))))]
    variants = {
        "samples": tuple(draw(st.sampled_from([(), samples[:1], samples[-1:]]))), "keep_reference": draw(st.booleans()),
        "regions": tuple(f"{contig}:{start + 1}-{end}" for contig, start, end in regions),
    }
    splits = [
        SplitConfig(val=0, test=0), SplitConfig(by="named", val_records=("chr2",)), SplitConfig(by="chromosome", val=0.5, test=0),
        SplitConfig(by="interval", val_intervals=("chr1:4-9",), test_intervals=("chr2:3-7", "chr1:20-30")),
    ]
    soft_masked = draw(st.sampled_from(["keep", "weight", "drop"]))
    places = st.tuples(st.sampled_from(sorted(contigs)), st.integers(0, 30))
    lines = [Feature(contig, "gene", start, start + 7, "+") for contig, start in draw(st.lists(places, min_size=1, max_size=4))]
    path = write_annotation(folder / "x.gff3", lines)
    return {
        "variants": variants, "split": draw(st.sampled_from(splits)), "soft_masked": soft_masked, "remove_duplicates": draw(st.booleans()),
        "max_length": draw(st.integers(2, 8)),
        **({"label_regions": LabelRegionsConfig(path=path)} if draw(st.booleans()) else {}),
        **({"weight_regions": WeightRegionsConfig(path=path, weight=4.0)} if draw(st.booleans()) else {}),
    }, regions, {"label_regions": lines, "weight_regions": lines}


@settings(max_examples=50, deadline=None)
@given(populations(), st.data())
def test_haplotypes_are_those_of_string_surgery(population_, data):
    contigs, vcfs = population_
    with tempfile.TemporaryDirectory() as name, mock.patch.object(population, "SAMPLES_PER_TASK", 2):
        folder = Path(name)
        reference = write_reference(folder, contigs)
        paths = [vcf.write(folder / f"{number}.vcf", contigs) for number, vcf in enumerate(vcfs)]
        changes, regions, features = data.draw(settings_of(folder, contigs, vcfs[0].samples))
        cfg = config(folder, paths, **changes)
        built, counts = slow_haplotypes(reference, vcfs, cfg.preprocessing.variants.samples, regions)
        keep = cfg.preprocessing.variants.keep_reference
        wanted, dropped = expected_rows([*reference, *built] if keep else built, cfg, features)
        if not keep:
            dropped["reference_records"] = {"records": 2, "bases": sum(map(len, contigs.values()))}
        try:
            rows, manifest = run_in_process(cfg)
        except HyenaError as error:
            assert any(words in str(error) for words in NOTHING_LEFT), str(error)
            return
    assert_same(rows, wanted)
    assert manifest.dropped == dropped
    assert {key: manifest.variants[key] for key in COUNTED} == counts
    assert_every_base_is_counted(rows, manifest)
    assert_no_position_in_two_splits(rows, [*reference, *built])


def assert_no_position_in_two_splits(rows: dict, molecules: Sequence[Molecule]) -> None:
    """A base of the reference that one split holds, in any haplotype, is in no other."""
    bases = {(molecule.source, molecule.record): molecule for molecule in molecules}
    seen: dict[tuple[str, int], str] = {}
    for split, of_split in rows.items():
        for row in of_split:
            molecule = bases[row.source, row.record]
            for base in molecule.bases[row.start : row.start + row.length]:
                assert seen.setdefault((molecule.contig, base.position), split) == split


@settings(max_examples=20, deadline=None)
@given(populations())
def test_tails_are_the_same_stretch_of_the_reference_in_every_haplotype(population_):
    contigs, vcfs = population_
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        reference = write_reference(folder, contigs)
        paths = [vcf.write(folder / f"{number}.vcf", contigs) for number, vcf in enumerate(vcfs)]
        cfg = config(folder, paths, max_length=2, split=SplitConfig(by="tail", val=0.2, test=0.2), remove_duplicates=False)
        built, _ = slow_haplotypes(reference, vcfs, (), [])
        rows, _ = run_in_process(cfg)
    assert_no_position_in_two_splits(rows, [*reference, *built])


VARIANT: list[Site] = [(3, "T", ["G"], [((0, 1), "|"), ((1,), "|")]), (5, "C", ["CAA"], [((1, 1), "|"), ((0,), "|")])]
CONTIG = {"1": "ACGTACGTAC"}


def small(folder: Path, **preprocessing: object) -> Config:
    """One contig of ten bases, a diploid and a haploid sample, two sites."""
    write_reference(folder, CONTIG)
    path = Vcf(["mother", "son"], {"1": VARIANT}).write(folder / "x.vcf", CONTIG)
    return config(folder, [path], **{"split": SplitConfig(val=0, test=0), "max_length": 20, **preprocessing})


def spelt(cfg: Config) -> dict[str, str]:
    """Source -> letters, of records of one window."""
    rows, _ = run_in_process(cfg)
    return {row.source: "".join("ACGT"[token - 5] for token in row.ids) for row in rows["train"]}


def test_a_diploid_and_a_haploid(tmp_path):
    wanted = {"a.fa": "ACGTACGTAC", "mother.1": "ACGTACAAGTAC", "mother.2": "ACGGACAAGTAC", "son.1": "ACGGACGTAC"}
    assert spelt(small(tmp_path)) == wanted


def test_a_haplotype_equal_to_the_reference_stays_where_the_reference_does_not(tmp_path):
    write_reference(tmp_path, CONTIG)
    calls: list[Site] = [(3, "T", ["G"], [((0, 1), "|")])]
    cfg = config(
        tmp_path, [Vcf(["a"], {"1": calls}).write(tmp_path / "x.vcf", CONTIG)], variants={"keep_reference": False},
        split=SplitConfig(val=0, test=0), max_length=20,
    )
    assert spelt(cfg) == {"a.1": "ACGTACGTAC", "a.2": "ACGGACGTAC"}


def test_haplotypes_that_stand_are_not_built_again(tmp_path):
    cfg = small(tmp_path)
    run = prepare(cfg, lambda *_: None)
    claim(run.output, run.destination, run.identity)

    def scratch() -> dict[str, int]:
        with local_rows():
            genome = read_genome(run, lambda *_: None)
        assert genome.variants["applied"] == 4
        return {str(path): path.stat().st_mtime_ns for path in (tmp_path / "out" / SCRATCH).rglob("*") if path.is_file()}

    first = scratch()
    assert scratch() == first
    report = next(path for path in first if "haplotypes" in path)
    Path(report).unlink()
    again = scratch()
    assert {path for path in first if again[path] != first[path]} >= {report} and again.keys() == first.keys()


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"samples": ("mothr",)}, r"preprocessing.variants.samples: no sample of .*x.vcf is named 'mothr'; did you mean mother\?"),
        ({"regions": ("2:1-5",)}, "preprocessing.variants.regions: .*x.vcf has no variants on '2', only on 1"),
        ({"regions": ("1:1-5", "1:5-9")}, "preprocessing.variants.regions: two of '1' have bases in common; join them"),
        ({"regions": ("1:5-11",)}, "x.vcf: region 1:5-11 is not inside contig '1' of 10 bases"),
    ],
)
def test_settings_that_no_file_can_meet(tmp_path, changes, sentence):
    with pytest.raises(HyenaError, match=sentence):
        run_in_process(small(tmp_path, variants=changes))


def test_more_alleles_in_a_call_than_are_read(tmp_path):
    write_reference(tmp_path, CONTIG)
    for copies in (8, 9):
        calls: list[Site] = [(3, "T", ["G"], [((0, 1), "|"), ((1,) * copies, "/")])]
        path = Vcf(["mother", "wheat"], {"1": calls}).write(tmp_path / f"{copies}.vcf", CONTIG)
        cfg = config(tmp_path, [path], split=SplitConfig(val=0, test=0), max_length=20)
        if copies == 8:
            assert len(spelt(replace(cfg, preprocessing=replace(cfg.preprocessing, remove_duplicates=False)))) == 1 + 2 + 8
        else:
            with pytest.raises(DataError, match="9.vcf: sample 'wheat' has 9 alleles in a call, and at most 8 are read"):
                run_in_process(replace(cfg, output=OutputConfig(path=str(tmp_path / "other"))))


def test_files_that_do_not_fit(tmp_path):
    cfg = small(tmp_path)
    (tmp_path / "a.fa").write_text(">chr1\nACGTACGTAC\n")
    with pytest.raises(DataError, match="x.vcf: contig '1' is not in the reference, which has chr1; rename the contigs of one"):
        run_in_process(cfg)
    (tmp_path / "a.fa").write_text(">1\nACGAACGTAC\n")
    with pytest.raises(DataError, match="x.vcf, line 5: 1:4: REF is 'T', the reference has 'A'; is it another assembly"):
        run_in_process(replace(cfg, output=OutputConfig(path=str(tmp_path / "other"))))
    (tmp_path / "b.fa").write_text(">1\nACGTACGTAC\n")
    two = replace(cfg.preprocessing, input_path=(str(tmp_path / "a.fa"), str(tmp_path / "b.fa")))
    with pytest.raises(DataError, match="x.vcf: contig '1' is in 2 inputs; leave one reference in preprocessing.input_path"):
        run_in_process(replace(cfg, preprocessing=two, output=OutputConfig(path=str(tmp_path / "third"))))


def test_files_without_samples_without_variants_and_with_the_same(tmp_path):
    write_reference(tmp_path, CONTIG)
    sites_only = Vcf([], {"1": []}).write(tmp_path / "sites.vcf", CONTIG)
    with pytest.raises(ConfigError, match="preprocessing.variants.path: .*sites.vcf holds sites without samples; take a file with geno"):
        run_in_process(config(tmp_path, [sites_only]))
    empty = Vcf(["a"], {"1": []}).write(tmp_path / "empty.vcf", CONTIG)
    with pytest.raises(HyenaError, match="empty.vcf"):
        run_in_process(config(tmp_path, [empty]))
    calls: list[Site] = [(3, "T", ["G"], [((0, 1), "|")])]
    twice = [Vcf(["a"], {"1": calls}).write(tmp_path / f"{number}.vcf", CONTIG) for number in range(2)]
    with pytest.raises(HyenaError, match="'a'.*'1'|'1'.*'a'"):
        run_in_process(config(tmp_path, twice))
