"""The `preprocessing` section: from sequences to clean windows, divided into splits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..dna import SequenceType
from .rules import at_least, fraction, require, share, unused


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitConfig:
    """How records are divided into train, val and test."""

    by: Literal["record", "named", "tail", "chromosome", "file", "interval", "cluster"] = "record"
    """`record`, `chromosome`, `file`, `cluster`: a seeded hash of the record's name, of its chromosome (chr2 = 2, in whatever file), of its
    file, of its homology cluster; `named`: the records, chromosomes or files listed; `tail`: the last fraction of each record; `interval`:
    the stretches listed."""
    val: float = 0.05
    """Fraction for validation (hashes and `tail`); 0 makes no such split."""
    test: float = 0.05
    """Fraction for test (hashes and `tail`); 0 makes no such split."""
    val_records: tuple[str, ...] = ()
    """Names of records for validation (`named`), or of chromosomes (20, chrX) or files in their place."""
    test_records: tuple[str, ...] = ()
    """The same for test."""
    val_intervals: str | tuple[str, ...] = ()
    """Stretches for validation (`interval`): chr20:1,000,001-2,000,000 (counted from 1, both ends included), or BED files."""
    test_intervals: str | tuple[str, ...] = ()
    """The same for test."""
    cluster_threshold: float = 0.2
    """Records that share this fraction of the k-mers of the smaller one (k = 21, for protein 6) are of one cluster (`cluster`)."""
    seed: int = 0
    """Seed of the hash (`record`, `chromosome`, `file`, `cluster`)."""
    max_leakage: float | None = None
    """Measure how much of val and test is found in train, and stop where more than this share of their k-mers is."""

    def __post_init__(self) -> None:
        listed = bool(self.val_records or self.test_records)
        stretches = bool(self.val_intervals or self.test_intervals)
        hashed = self.by in HASHED_SPLITS
        both = sorted(set(self.val_records) & set(self.test_records))
        require(
            *fraction(self, "val", "test"),
            (self.val + self.test < 1, f"val ({self.val}) and test ({self.test}) leave nothing to train on"),
            (listed or self.by != "named", "by: named needs val_records or test_records"),
            (not listed or self.by == "named", f"by: val_records and test_records go with `by: named`, got {self.by}"),
            (not both, f"val_records and test_records both hold {', '.join(both)}"),
            (stretches or self.by != "interval", "by: interval needs val_intervals or test_intervals"),
            (not stretches or self.by == "interval", f"by: val_intervals and test_intervals go with `by: interval`, got {self.by}"),
            (0 < self.cluster_threshold <= 1, f"cluster_threshold must be above 0 and at most 1, got {self.cluster_threshold}"),
            *share(self, "max_leakage"),
            *(unused(self, f"with `by: {self.by}`, which draws no records", "seed") if not hashed else ()),
            *(unused(self, f"with `by: {self.by}`, which lists records", "val", "test") if self.by in ("named", "interval") else ()),
            *(unused(self, f"with `by: {self.by}`", "cluster_threshold") if self.by != "cluster" else ()),
        )


HASHED_SPLITS = ("record", "chromosome", "file", "cluster")
"""The values of `split.by` that go by a seeded hash."""


NUM_HASHES = (16, 32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True, kw_only=True, slots=True)
class NearDuplicatesConfig:
    """Drop windows that are nearly the same as an earlier one, on either strand: MinHash over canonical k-mers."""

    threshold: float = 0.9
    """Jaccard similarity of the k-mers, estimated, from which a window is dropped: 0.9 of 21-mers are 99.75 % identical bases."""
    kmer_size: int | None = None
    """k; default: 21 for dna and rna, 5 for protein."""
    num_hashes: int = 128
    """Hashes of a signature, a power of 2; the error of a similarity s is the root of s(1 - s) / num_hashes."""

    def __post_init__(self) -> None:
        k = self.kmer_size
        require(
            (0 < self.threshold <= 1, f"threshold must be above 0 and at most 1, got {self.threshold}"),
            (k is None or 1 <= k <= 31, f"kmer_size must lie between 1 and 31, got {k}"),
            (self.num_hashes in NUM_HASHES, f"num_hashes must be one of {', '.join(map(str, NUM_HASHES))}, got {self.num_hashes}"),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class VariantsConfig:
    """Variants that are applied to the reference genome of `input_path`: each sample's haplotypes become records of their own.

    A genotype without a phase is taken in the order that it is written in.
    """

    path: str | tuple[str, ...] = ()
    """VCF files (plain, bgzip), or BCF."""
    samples: tuple[str, ...] = ()
    """Names of samples; default: all."""
    regions: tuple[str, ...] = ()
    """Stretches to build, such as 20:1,000,001-4,000,000 (counted from 1, both ends included); default: each contig with variants."""
    keep_reference: bool = True
    """Whether the reference's own records stay beside the haplotypes."""

    def __post_init__(self) -> None:
        require((bool(self.path), "path: name the VCF files"))


@dataclass(frozen=True, kw_only=True, slots=True)
class RegionsConfig:
    """Stretches of the records, out of an annotation."""

    path: str | tuple[str, ...] = ()
    """GFF3, GTF or BED files, plain or compressed."""
    types: tuple[str, ...] = ()
    """Types of features (exon, CDS, gene); default: all. BED has none."""
    anchor: Literal["whole", "start"] = "whole"
    """`whole`: the feature; `start`: its first base on its strand, such as the transcription start site of a transcript."""
    upstream: int = 0
    """Bases added before it, on its strand."""
    downstream: int = 0
    """Bases added behind it, on its strand."""

    def __post_init__(self) -> None:
        require((bool(self.path), "path: name GFF3, GTF or BED files"), *at_least(0, self, "upstream", "downstream"))


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelRegionsConfig(RegionsConfig):
    """Stretches whose names become labels of the rows that touch them."""

    label_by: str = "type"
    """`type`, `name` (BED's fourth column; Name or ID), or any attribute, such as gene_biotype."""


MAX_WEIGHT = 1000
"""Weights are stored in half precision."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightRegionsConfig(RegionsConfig):
    """Stretches whose bases count more or less in the loss."""

    weight: float = 2.0
    """Weight of a base inside; 1 outside."""

    def __post_init__(self) -> None:
        RegionsConfig.__post_init__(self)
        require((0 <= self.weight <= MAX_WEIGHT, f"weight must lie between 0 and {MAX_WEIGHT}, got {self.weight}"))


@dataclass(frozen=True, kw_only=True, slots=True)
class GoTermsConfig:
    """GO terms as labels of proteins, by accession."""

    path: str | tuple[str, ...] = ()
    """GAF files, plain or gzip."""
    aspects: tuple[Literal["P", "F", "C"], ...] = ("P", "F", "C")
    """Biological process, molecular function, cellular component."""
    exclude_evidence: tuple[str, ...] = ()
    """Evidence codes to leave out, such as IEA."""

    def __post_init__(self) -> None:
        require((bool(self.path), "path: name GAF files"), (bool(self.aspects), "aspects: name at least one of P, F, C"))


@dataclass(frozen=True, kw_only=True, slots=True)
class PreprocessingConfig:
    """From sequences to clean windows."""

    input_path: str | tuple[str, ...] = ()
    """FASTA files (plain, gzip, bgzip), PDB or mmCIF structures, folders or globs."""
    sequence_type: SequenceType = "dna"
    """What the letters are."""
    max_length: int = 1024
    """Bases (residues for protein) in a window."""
    min_length: int = 1
    """Windows shorter than this are dropped and counted."""
    remove_duplicates: bool = True
    """Drop exact repeats: whole records first, then windows; the first stays."""
    filter_n_bases: bool = True
    """Drop windows with more than `max_ambiguous_fraction` ambiguous bases; false keeps all."""
    max_ambiguous_fraction: float = 0.05
    """Largest share of ambiguous letters (N, IUPAC; B J X Z * for protein) in a window that stays."""
    max_low_complexity_fraction: float | None = None
    """Largest share of low-complexity bases (DUST; for protein entropy, as in SEG) in a window that stays; default: keep all."""
    soft_masked: Literal["keep", "weight", "drop"] = "keep"
    """Lower-case stretches: `keep` reads them as upper case, `weight` gives them `soft_masked_weight` in the loss, `drop` cuts them out."""
    soft_masked_weight: float = 0.1
    """Weight of a lower-case base (`weight`); 1 elsewhere."""
    near_duplicates: NearDuplicatesConfig | None = None
    variants: VariantsConfig | None = None
    select_regions: RegionsConfig | None = None
    """Only these stretches are cut into windows."""
    label_regions: LabelRegionsConfig | None = None
    weight_regions: WeightRegionsConfig | None = None
    go_terms: GoTermsConfig | None = None
    split: SplitConfig = field(default_factory=SplitConfig)

    def __post_init__(self) -> None:
        protein = self.sequence_type == "protein"
        require(
            (
                1 <= self.min_length <= self.max_length,
                f"min_length ({self.min_length}) must lie between 1 and max_length ({self.max_length})",
            ),
            *share(self, "max_ambiguous_fraction", "max_low_complexity_fraction"),
            (
                0 <= self.soft_masked_weight <= MAX_WEIGHT,
                f"soft_masked_weight must lie between 0 and {MAX_WEIGHT}, got {self.soft_masked_weight}",
            ),
            (
                not (self.soft_masked == "weight" and self.weight_regions)
                or self.soft_masked_weight * self.weight_regions.weight <= MAX_WEIGHT,
                f"weight_regions: weight times soft_masked_weight must be at most {MAX_WEIGHT}",
            ),
            (
                not (self.variants and self.split.by == "file"),
                "split: `by: file` would put haplotypes of one stretch into different splits; take interval, chromosome or record",
            ),
            (
                not (self.variants and self.variants.regions and self.variants.keep_reference and self.split.by == "tail"),
                "split: the tail of a region lies in the midst of the reference; take interval, or set variants.keep_reference to false",
            ),
            *(unused(self, "with `filter_n_bases: false`, which keeps all", "max_ambiguous_fraction") if not self.filter_n_bases else ()),
            *(unused(self, f"with `soft_masked: {self.soft_masked}`", "soft_masked_weight") if self.soft_masked != "weight" else ()),
            *(unused(self, "for protein, whose case means nothing", "soft_masked") if protein else ()),
            (not (protein and self.variants), "variants: a protein has no reference genome to apply them to; remove the section"),
            (
                not (protein and self.near_duplicates and (self.near_duplicates.kmer_size or 0) > 12),
                "near_duplicates: kmer_size must be at most 12 for protein",
            ),
            (protein or not self.go_terms, f"go_terms: they are of proteins, and sequence_type is {self.sequence_type}; remove them"),
        )
