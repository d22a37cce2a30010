"""Story of scoring variants: letters of the reference, sites of the VCF, a model on each worker, effects as Parquet and in INFO."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster.paths import is_job, require_absolute
from hyena_glt.config import Config
from hyena_glt.data.index import checksums, index_records
from hyena_glt.data.inputs import find_inputs
from hyena_glt.data.scratch import SCRATCH, bases_file
from hyena_glt.data.sources.haplotypes import Region
from hyena_glt.data.stages import Row, ray_data_context
from hyena_glt.data.storage import Location, absolute, location
from hyena_glt.errors import ConfigError, DataError
from hyena_glt.files import appearing
from hyena_glt.inference.load import LoadedModel
from hyena_glt.inference.on_ray import part_file
from hyena_glt.inference.variants import Variant, variant_effects
from hyena_glt.inference.windows import batched
from hyena_glt.training.checkpoint import resolve_checkpoint

from ._command import run_as
from ._on_model import claim, model_identity, output_folder, read_model, read_settings, work_through
from ._progress import ProgressBar
from ._ray import start_ray

Result = dict[str, object]

EFFECTS, ANNOTATED = "effects.parquet", "effects.vcf.gz"
FIELD, DESCRIPTION = "HYENA_LLR", "log P(ALT) - log P(REF) in nats by a hyena-glt model, the mean of both strands"
COLUMNS = pa.schema({"contig": pa.string(), "position": pa.int64(), "ref": pa.string(), "alt": pa.string(), "effect": pa.float64()})
"""A row an alternative allele; `position` is VCF's, from 1, and `effect` NaN where there is nothing to say."""
SITES_PER_TASK = 256


def variants(
    model_path: str, *, vcf: str, reference: str, output_dir: str, batch_size: int = 16, overrides: tuple[str, ...] = ()
) -> Result:
    """Score each alternative allele of a VCF as `inference.variant_effects` does; a stopped call goes on where it was.

    reference: FASTA, compressed or not, a folder or a glob of it. output_dir: gets effects.parquet (COLUMNS, in the order of the VCF) and
    effects.vcf.gz, the same VCF with HYENA_LLR in INFO. overrides: `section.key=value` of `_on_model.READ`.
    Raises CheckpointError, ConfigError (the folder of another run), DataError (a contig or REF that the reference does not have).
    """
    started = time.monotonic()
    cfg = read_settings("variants", overrides)
    if is_job():
        require_absolute({"PATH": model_path, "--vcf": vcf, "--reference": reference, "--output_dir": output_dir})
    place, output, sites = resolve_checkpoint(absolute(model_path)), output_folder(output_dir), Path(vcf).absolute()
    if read_model(place)[1].sequence_type == "protein":
        raise ConfigError(f"{place}: reads protein, and variants of a genome need a model of nucleotides")
    inputs = find_inputs(reference, named="--reference")
    progress = ProgressBar("alleles", {"checksums": "bytes", "reading": "bytes"})
    try:
        read = {f"input {name}": found for name, found in checksums({**inputs, sites.name: location(str(sites))}, progress).items()}
        claim(output, {**model_identity(place), "tasks": f"{SITES_PER_TASK} sites", **read})
        if not (output / EFFECTS).exists():
            with start_ray(cfg.cluster.address, cfg.cluster.num_cpus), ray_data_context():
                _score(cfg, place, sites, inputs, output, batch_size, progress)
    except OSError as error:
        raise DataError(f"a file could not be read or written ({error}); when that is cured, the same command goes on") from error
    finally:
        progress.close()
    effects = pq.read_table(output / EFFECTS, columns=["effect"])["effect"].to_numpy()
    return {
        "path": str(output / EFFECTS), "vcf": str(output / ANNOTATED), "alleles": len(effects), "scored": int(np.isfinite(effects).sum()),
        "seconds": round(time.monotonic() - started, 1),
    }


def _score(
    cfg: Config, model: Location, sites: Path, inputs: Mapping[str, Location], output: Path, batch_size: int, progress: ProgressBar
) -> None:
    """All stages; what they leave for each other goes at the end."""
    records = index_records(inputs, "dna", output, progress)
    tasks, parts = [*_tasks(sites, records)], output / SCRATCH / "effects"
    work = partial(_effects_of, sites=sites, output=output, batch_size=batch_size)
    num_alleles, on_progress = lambda task: sum(map(len, task["alts"])), partial(progress, "scoring")
    work_through(work, tasks, num_alleles, cfg=cfg, model=model, parts=parts, on_progress=on_progress)
    _gather(sites, [part_file(parts, task) for task in tasks], output)
    shutil.rmtree(output / SCRATCH)


def _tasks(sites: Path, records: pa.Table) -> Iterator[Row]:
    """Some sites of one contig each, with where its letters lie; DataError for a contig that the reference does not have."""
    from hyena_glt.data.sources.variants import contigs, read_sites  # pysam is an extra

    letters = {record["contig"]: record for record in records.to_pylist()}
    lengths, number = {name: record["length"] for name, record in letters.items()}, 0
    for contig in contigs(sites):
        Region(contig).within(lengths, sites)
        where = {key: letters[contig][key] for key in ("file", "offset", "length")}
        for some in batched(read_sites(sites, Region(contig), (), by_index=True), SITES_PER_TASK):
            yield {
                "number": number, "contig": contig, **where, "starts": [site.start for site in some], "refs": [site.ref for site in some],
                "alts": [[*site.alts] for site in some],
            }
            number += 1


def _effects_of(loaded: LoadedModel, task: Row, *, sites: Path, output: Path, batch_size: int) -> pa.Table:
    """The rows of one task (COLUMNS). Runs on the workers."""
    letters = np.memmap(bases_file(output, task["file"]), np.uint8, "r", offset=task["offset"], shape=(task["length"],))
    alleles = [
        Variant(int(start), str(ref), str(alt))
        for start, ref, alts in zip(task["starts"], task["refs"], task["alts"], strict=True) for alt in alts
    ]
    try:
        effects = variant_effects(loaded, letters, alleles, batch_size=batch_size)
    except DataError as error:
        raise DataError(f"{sites}, contig {task['contig']}, {error}") from error
    return pa.table([
        [task["contig"]] * len(alleles), [allele.start + 1 for allele in alleles], [allele.ref for allele in alleles],
        [allele.alt for allele in alleles], effects,
    ], schema=COLUMNS)


def _gather(sites: Path, parts: list[Path], output: Path) -> None:
    """Both files, Parquet last: it says that the run is done."""
    from hyena_glt.data.sources.variants import annotate  # pysam is an extra

    effects = pa.concat_tables([COLUMNS.empty_table(), *map(pq.read_table, parts)])
    contigs = effects["contig"].unique().to_pylist()
    by_contig = {contig: iter(effects.filter(pc.equal(effects["contig"], contig))["effect"].to_pylist()) for contig in contigs}
    with appearing(output / ANNOTATED) as unfinished:
        annotate(sites, unfinished, FIELD, DESCRIPTION, by_contig)
    with appearing(output / EFFECTS) as unfinished:
        pq.write_table(effects, unfinished)


if __name__ == "__main__":
    run_as("variants")
