"""Selected, labelled and weighted regions and soft-masking: any small genome, any settings, against the definition base by base."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyena_glt.config import Config, OutputConfig, PreprocessingConfig, SplitConfig, TokenizationConfig
from hyena_glt.config.preprocessing import LabelRegionsConfig, RegionsConfig, WeightRegionsConfig
from hyena_glt.data.features import Weights
from hyena_glt.errors import DataError, HyenaError
from tests.data.source_reference import (
    Feature,
    assert_every_base_is_counted,
    assert_same,
    expected_rows,
    input_records,
    run_in_process,
    write_annotation,
)
from tests.data.sources.test_intervals import runs

CONTIGS = ("chr1", "chr2", "3")


@st.composite
def genomes(draw: Callable) -> dict[str, bytes]:
    """One or two files with the contigs spread over them; lower case, N, repeats."""
    letters = st.text(alphabet="ACGTacgtN", min_size=1, max_size=60) | st.sampled_from(["acgt" * 8, "ACGT" * 8, "A" * 30])
    files = {name: "" for name in draw(st.sampled_from([["a.fa"], ["a.fa", "b.fa"]]))}
    for contig in CONTIGS:
        name = draw(st.sampled_from(sorted(files)))
        files[name] += f">{contig}\n{draw(letters)}\n"
    return {name: content.encode() for name, content in files.items() if content}


@st.composite
def features(draw: Callable) -> list[Feature]:
    """Lines of an annotation that may overlap, lie behind a contig's end, and call the contigs by other names."""
    other_names = {"chr1": "1", "chr2": "chr2", "3": "chr3"} if draw(st.booleans()) else dict(zip(CONTIGS, CONTIGS, strict=True))
    found = []
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, 70))
        end = start + draw(st.integers(1, 25))
        kind, strand = draw(st.sampled_from(["gene", "CDS", "tRNA"])), draw(st.sampled_from("+-"))
        found.append(Feature(other_names[draw(st.sampled_from(CONTIGS))], kind, start, end, strand))
    return found


@st.composite
def splits(draw: Callable) -> SplitConfig:
    by = draw(st.sampled_from(["record", "tail", "named", "chromosome", "file", "interval", "interval"]))
    if by == "named":
        return SplitConfig(by=by, val_records=("chr1",))
    if by == "interval":
        first, width = draw(st.integers(1, 25)), draw(st.integers(1, 20))
        test = draw(st.sampled_from(["chr2:3-20", f"chr1:{first + width}-{first + width + 10}"]))
        return SplitConfig(by=by, val_intervals=(f"chr1:{first}-{first + width - 1}",), test_intervals=draw(st.sampled_from([(), (test,)])))
    return SplitConfig(by=by, val=draw(st.sampled_from([0, 0.2])), test=draw(st.sampled_from([0, 0.3])))


@st.composite
def trees(draw: Callable, folder: Path) -> tuple[Config, dict[str, list[Feature]]]:
    """Settings, and the features that each section of them chooses."""
    kind, k = draw(st.sampled_from(["char", "kmer"])), draw(st.integers(1, 3))
    max_length = draw(st.integers(3, 12))
    chosen: dict[str, list[Feature]] = {}

    def section(name: str, make: type, **more: object):
        if not draw(st.booleans()):
            return None
        lines, suffix = draw(features()), draw(st.sampled_from([".gff3", ".gff.gz", ".bed", ".bed.gz"]))
        types = draw(st.sampled_from([(), (lines[0].type,)])) if "gff" in suffix else ()
        chosen[name] = [line for line in lines if not types or line.type in types]
        extra = {"label_by": "name" if "bed" in suffix else "type"} if make is LabelRegionsConfig else more
        return make(
            path=write_annotation(folder / f"{name}{suffix}", lines), types=types, anchor=draw(st.sampled_from(["whole", "start"])),
            upstream=draw(st.sampled_from([0, 0, 2, 30])), downstream=draw(st.sampled_from([0, 5])), **extra,
        )

    soft_masked = draw(st.sampled_from(["keep", "weight", "drop"]))
    filters = draw(st.booleans())
    return Config(
        preprocessing=PreprocessingConfig(
            input_path=str(folder / "*.fa"), max_length=max_length, min_length=draw(st.integers(1, max_length)),
            remove_duplicates=draw(st.booleans()), filter_n_bases=filters, split=draw(splits()), soft_masked=soft_masked,
            **({"max_ambiguous_fraction": draw(st.sampled_from([0.0, 0.5]))} if filters else {}),
            **({"soft_masked_weight": draw(st.sampled_from([0.0, 0.25]))} if soft_masked == "weight" else {}),
            select_regions=section("select_regions", RegionsConfig), label_regions=section("label_regions", LabelRegionsConfig),
            weight_regions=section("weight_regions", WeightRegionsConfig, weight=draw(st.sampled_from([0.0, 3.0, 1.0]))),
        ),
        tokenization=TokenizationConfig(
            kind=kind, stride=draw(st.sampled_from([None, max_length, 1, 2])),
            **({"kmer_size": k, "kmer_stride": draw(st.sampled_from([None, 1]))} if kind == "kmer" else {}),
        ),
        output=OutputConfig(path=str(folder / "out"), chunk_size=draw(st.integers(1, 6))),
    ), chosen


def may_be_empty(wanted: dict, cfg: Config) -> bool:
    """Whether a split that the settings ask for has no row."""
    split = cfg.preprocessing.split
    listed = {"named": split.val_records, "interval": split.val_intervals}
    asked = {"val": listed.get(split.by, split.val), "test": split.test_intervals if split.by == "interval" else split.test}
    asked["test"] = () if split.by == "named" else asked["test"]
    return not wanted["train"] or any(asked[name] and not wanted[name] for name in asked)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), files=genomes())
def test_rows_are_those_of_the_definition_and_every_base_is_counted(data, files):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for source, content in files.items():
            (folder / source).write_bytes(content)
        cfg, chosen = data.draw(trees(folder))
        wanted, dropped = expected_rows(input_records(files), cfg, chosen)
        try:
            rows, manifest = run_in_process(cfg)
        except HyenaError as error:
            # A contig that is dropped as a repeat is no record any more.
            if "no sequence of the annotation" not in str(error):
                assert "no window is left" in str(error) or "would be empty" in str(error), str(error)
                assert may_be_empty(wanted, cfg), str(error)
            return
    assert_same(rows, wanted)
    assert manifest.dropped == dropped
    if cfg.tokenization.stride in (None, cfg.preprocessing.max_length) and cfg.tokenization.kmer_stride != 1:
        assert_every_base_is_counted(rows, manifest)


@given(
    st.lists(st.tuples(st.sets(st.integers(0, 40)), st.sampled_from([0.0, 0.25, 1.0, 2.0, 3.0])), max_size=4),
    st.integers(0, 40), st.integers(1, 20),
)
def test_the_weight_of_a_base_is_the_product_of_its_layers(layers, start, length):
    weights = Weights.of([(runs(bases), factor) for bases, factor in layers])
    wanted = [np.prod([factor for bases, factor in layers if place in bases]) for place in range(start, start + length)]
    assert weights.of_bases(start, start + length).tolist() == wanted
    assert (weights.weight_K != 1).all() and (weights.end_K[:-1] <= weights.start_K[1:]).all()


def test_a_label_of_a_row_whose_last_token_is_cut_short(tmp_path):
    """Windows of one record whose covered bases end before those of the window in front."""
    (tmp_path / "a.fa").write_bytes(b">1\nACGTACGTAC\n")
    label = Feature("1", "end", 7, 8, "+")
    cfg = Config(
        preprocessing=PreprocessingConfig(
            input_path=str(tmp_path / "a.fa"), max_length=8, remove_duplicates=False, split=SplitConfig(val=0, test=0),
            label_regions=LabelRegionsConfig(path=write_annotation(tmp_path / "a.gff3", [label])),
        ),
        tokenization=TokenizationConfig(kind="kmer", kmer_size=4, stride=3), output=OutputConfig(path=str(tmp_path / "out")),
    )
    rows, _ = run_in_process(cfg)
    assert [(row.start, row.length, row.labels) for row in rows["train"]] == [(0, 8, ("end",)), (3, 4, ())]


def test_annotations_of_another_assembly_and_of_no_record(tmp_path):
    (tmp_path / "a.fa").write_bytes(b">NC_001133.9\nACGTACGTAC\n")
    path = write_annotation(tmp_path / "a.gff3", [Feature("chrI", "gene", 0, 5, "+")])
    cfg = Config(
        preprocessing=PreprocessingConfig(
            input_path=str(tmp_path / "a.fa"), split=SplitConfig(val=0, test=0), select_regions=RegionsConfig(path=path),
        ),
        tokenization=TokenizationConfig(kind="char"), output=OutputConfig(path=str(tmp_path / "out")),
    )
    with pytest.raises(DataError, match=r"no sequence of the annotation \(chrI\) is a record \(NC_001133.9\); take the annotation of this"):
        run_in_process(cfg)
    two = replace(cfg.preprocessing, select_regions=replace(cfg.preprocessing.select_regions, types=("genes",)))
    with pytest.raises(DataError, match=r"a.gff3: types: no feature is of type 'genes'; there are gene"):
        run_in_process(replace(cfg, preprocessing=two))
