"""Scoring the variants of a real VCF: every allele once, in the file's order, in Parquet and in INFO; what was stopped goes on."""

from __future__ import annotations

import gzip
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pysam
import pytest

from hyena_glt.data.sources.haplotypes import Region
from hyena_glt.data.sources.variants import read_sites
from hyena_glt.errors import ConfigError, DataError
from hyena_glt.inference import LoadedModel
from hyena_glt.inference.variants import Variant, variant_effects
from pipelines import variants as module
from pipelines.variants import variants
from tests.interrupted_run import ROOT, Command
from tests.tiny_run import random_model

PEOPLE = ROOT / "tests/data/population"
VCF, REFERENCE = PEOPLE / "chr20_2.34M.vcf.gz", PEOPLE / "chr20_2.34M.fa.gz"

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return random_model(tmp_path_factory.mktemp("model"), causal=True)


@pytest.fixture(scope="module")
def scored(loaded: LoadedModel, tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> tuple[Path, dict]:
    output = tmp_path_factory.mktemp("effects") / "out"
    return output, variants(str(loaded.path), vcf=str(VCF), reference=str(REFERENCE), output_dir=str(output))


def alleles() -> list[Variant]:
    return [Variant(site.start, site.ref, alt) for site in read_sites(VCF, Region("chr20_2.34M"), (), by_index=False) for alt in site.alts]


def test_each_allele_has_the_effect_that_the_library_gives_it(scored: tuple[Path, dict], loaded: LoadedModel) -> None:
    output, result = scored
    table, wanted = pq.read_table(output / "effects.parquet").to_pydict(), alleles()
    assert list(zip(table["position"], table["ref"], table["alt"], strict=True)) == [(one.start + 1, one.ref, one.alt) for one in wanted]
    assert set(table["contig"]) == {"chr20_2.34M"} and result["alleles"] == len(wanted)
    lines = gzip.decompress(REFERENCE.read_bytes()).split(b"\n", 1)[1]
    letters = np.frombuffer(lines.replace(b"\n", b""), np.uint8)
    some = [*range(0, len(wanted), len(wanted) // 20)]
    np.testing.assert_allclose(
        np.array(table["effect"])[some], variant_effects(loaded, letters, [wanted[n] for n in some]), atol=1e-4,
    )
    assert result["scored"] == np.isfinite(table["effect"]).sum() > 0


def test_the_vcf_has_the_sites_and_a_number_for_each_allele(scored: tuple[Path, dict]) -> None:
    output, _ = scored
    effects = iter(pq.read_table(output / "effects.parquet")["effect"].to_pylist())
    with pysam.VariantFile(str(VCF)) as source, pysam.VariantFile(str(output / "effects.vcf.gz")) as annotated:
        for before, after in zip(source, annotated, strict=True):
            assert (before.contig, before.pos, before.alleles) == (after.contig, after.pos, after.alleles)
            assert {key: before.info[key] for key in before.info} == {key: after.info[key] for key in after.info if key != "HYENA_LLR"}
            assert [call.allele_indices for call in before.samples.values()] == [call.allele_indices for call in after.samples.values()]
            for found in after.info["HYENA_LLR"]:
                effect = next(effects)
                assert (found is None and np.isnan(effect)) or found == pytest.approx(effect, rel=1e-5, abs=1e-6)
    assert next(effects, None) is None
    assert sorted(path.name for path in output.iterdir()) == ["effects.parquet", "effects.vcf.gz", "run.json"]


@pytest.mark.slow
def test_what_was_killed_goes_on_and_is_the_same(
    scored: tuple[Path, dict], loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    words = ["variants", str(loaded.path), "--vcf", str(VCF), "--reference", str(REFERENCE), "--output_dir", str(output)]
    parts = output / ".preprocess/effects"
    Command(words, tmp_path).kill_when(lambda: any(parts.glob("[0-9]*.parquet")))
    kept = {path: path.stat().st_ino for path in parts.glob("[0-9]*.parquet")}
    assert kept and not (output / "effects.parquet").exists()
    monkeypatch.setattr(module, "shutil", SimpleNamespace(rmtree=lambda _: None))  # the parts stay, so that they can be looked at
    result = variants(str(loaded.path), vcf=str(VCF), reference=str(REFERENCE), output_dir=str(output))
    assert all(path.stat().st_ino == inode for path, inode in kept.items()), "what was written was written again"
    first, before = scored
    assert (output / "effects.parquet").read_bytes() == (first / "effects.parquet").read_bytes()
    assert (result["alleles"], result["scored"]) == (before["alleles"], before["scored"])


def test_a_finished_folder_gives_its_result_and_no_other(scored: tuple[Path, dict], loaded: LoadedModel, tmp_path: Path) -> None:
    output, result = scored
    again = variants(str(loaded.path), vcf=str(VCF), reference=str(REFERENCE), output_dir=str(output))
    assert again | {"seconds": 0} == result | {"seconds": 0}
    other = random_model(tmp_path, causal=False)
    with pytest.raises(ConfigError, match=rf"^--output_dir: {output} was made of other inputs \(model, settings differ\); name a new"):
        variants(str(other.path), vcf=str(VCF), reference=str(REFERENCE), output_dir=str(output))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").touch()
    with pytest.raises(ConfigError, match="is not empty; name a new folder$"):
        variants(str(loaded.path), vcf=str(VCF), reference=str(REFERENCE), output_dir=str(tmp_path / "mine"))


def test_no_contig_lines_a_telomere_and_an_earlier_score(scored: tuple[Path, dict], loaded: LoadedModel, tmp_path: Path) -> None:
    """The numbers stay with their alleles."""
    first, _ = scored
    lines = gzip.decompress((first / "effects.vcf.gz").read_bytes()).decode().splitlines()
    head = [line for line in lines if line.startswith("#") and not line.startswith("##contig")]
    sites = [line for line in lines if not line.startswith("#")][:20]
    telomere = sites[0].split("\t")
    telomere[1], telomere[3] = "0", "N"
    (tmp_path / "bare.vcf").write_text("\n".join([*head, "\t".join(telomere), *sites]) + "\n")
    variants(str(loaded.path), vcf=str(tmp_path / "bare.vcf"), reference=str(REFERENCE), output_dir=str(tmp_path / "out"))
    with pysam.VariantFile(str(first / "effects.vcf.gz")) as before, pysam.VariantFile(str(tmp_path / "out/effects.vcf.gz")) as after:
        next(after)
        wanted, found = ([x for record in some for x in record.info["HYENA_LLR"]] for some in (islice(before, len(sites)), after))
        np.testing.assert_allclose(np.array(found, float), np.array(wanted, float), rtol=1e-4, atol=1e-5)


def test_a_reference_that_does_not_fit(loaded: LoadedModel, tmp_path: Path) -> None:
    letters = gzip.decompress(REFERENCE.read_bytes()).replace(b"A", b"C")
    (tmp_path / "wrong.fa").write_bytes(letters)
    with pytest.raises(DataError, match=rf"^{VCF}, contig chr20_2.34M, position \d+: REF is \w+, and the reference has \w+ there; give"):
        variants(str(loaded.path), vcf=str(VCF), reference=str(tmp_path / "wrong.fa"), output_dir=str(tmp_path / "out"))
    (tmp_path / "named.fa").write_bytes(letters.replace(b">chr20_2.34M", b">20"))
    with pytest.raises(DataError, match=rf"^{VCF}: contig .chr20_2.34M. is not in the reference, which has 20; rename"):
        variants(str(loaded.path), vcf=str(VCF), reference=str(tmp_path / "named.fa"), output_dir=str(tmp_path / "out2"))


def test_refused_before_anything_starts(loaded: LoadedModel, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="^training.batch_size: has no effect on variants; remove it"):
        variants(str(loaded.path), vcf=str(VCF), reference=str(REFERENCE), output_dir=str(tmp_path), overrides=("training.batch_size=2",))
    protein = random_model(tmp_path / "protein", causal=True, sequence_type="protein")
    with pytest.raises(ConfigError, match="reads protein, and variants of a genome need a model of nucleotides$"):
        variants(str(protein.path), vcf=str(VCF), reference=str(REFERENCE), output_dir=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
