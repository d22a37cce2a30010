"""Preprocessing that is killed, runs out of disk, or has other numbers of workers: nothing wrong stays, and the bytes are the same."""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
import ray

from hyena_glt.config import load_config
from hyena_glt.data import index
from hyena_glt.data.manifest import MANIFEST, read_manifest
from hyena_glt.data.plan import prepare
from hyena_glt.data.resume import IDENTITY, claim
from hyena_glt.data.scratch import SCRATCH
from hyena_glt.data.storage import Url, remove_folder, size
from hyena_glt.data.verify import verify
from hyena_glt.errors import ConfigError, DataError
from pipelines.preprocess import preprocess
from tests import stores
from tests.data.test_fasta import bgzip
from tests.interrupted_run import ROOT, Command, assert_damaged_or_whole, contents, num_written
from tests.small_disk import disk

s3, bucket = stores.s3, stores.s3_bucket  # fixtures
GENOMES, YEAST, PEOPLE = ROOT / "pipelines/genomes", ROOT / "tests/data/annotations", ROOT / "tests/data/population"

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Inputs in three containers: gzip, plain, bgzip."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in/lambda.fa.gz").write_bytes(gzip.compress((GENOMES / "lambda.fa").read_bytes(), mtime=0))
    (tmp_path / "in/phix.fa").write_bytes((GENOMES / "phix174.fa").read_bytes())
    (tmp_path / "in/people.fa.bgz").write_bytes(bgzip(gzip.decompress((PEOPLE / "chr20_2.34M.fa.gz").read_bytes())))
    return tmp_path


def settings(folder: Path, output: object, *more: str) -> list[str]:
    """Dotted settings: windows that overlap, in shards of 200 rows; `more` may say otherwise."""
    given = [
        f"preprocessing.input_path={folder}/in", f"output.path={output}", "output.chunk_size=200", "preprocessing.max_length=128",
        "preprocessing.split.by=tail", "tokenization.kind=char", "tokenization.stride=32", *more,
    ]
    return list({setting.split("=")[0]: setting for setting in given}.values())


def unbroken(given: list[str], output: Path) -> dict[str, str]:
    """What a run that nothing disturbs leaves in `output`, which is free again afterwards: the manifest holds that path."""
    preprocess(load_config(None, given))
    found = contents(output)
    shutil.rmtree(output)
    return found


# Killed


@pytest.mark.slow
def test_killed_again_and_again(folder: Path) -> None:
    output = folder / "out"
    given = settings(folder, output)
    whole = unbroken(given, output)
    num_shards = sum(name.endswith(".parquet") and "/" in name for name in whole)
    for shards in (1, num_shards // 2, num_shards):
        Command(["preprocess", *given], folder).kill_when(lambda shards=shards: num_written(output) >= shards)
        damage = assert_damaged_or_whole(output, whole)
        assert damage or shards == num_shards  # the last is a race with the manifest, which may be lost
        kept = {path: path.stat().st_ino for path in output.glob("[!.]*/*.parquet")}
        assert len(kept) >= shards
    with pytest.raises(ConfigError, match="is the output folder of another run"):
        preprocess(load_config(None, [*given, "output.compress=false"]))
    preprocess(load_config(None, given))
    assert contents(output) == whole and verify(output) == []
    assert all(path.stat().st_ino == inode for path, inode in kept.items()), "what was written was written again"


@pytest.mark.long
def test_killed_while_shards_become_hdf5(folder: Path) -> None:
    output = folder / "out"
    given = settings(folder, output, "output.format=hdf5")
    whole = unbroken(given, output)
    Command(["preprocess", *given], folder).kill_when(lambda: any(output.glob("*.h5")))
    assert_damaged_or_whole(output, whole)
    preprocess(load_config(None, given))
    assert contents(output) == whole


@pytest.mark.long
@pytest.mark.parametrize("file_format", ["parquet", "hdf5"])
def test_killed_while_it_fills_an_object_store(folder: Path, bucket: Url, file_format: str) -> None:
    output, scratch = bucket / "out", folder / "scratch"
    words = ["preprocess", *settings(folder, output, f"output.format={file_format}", f"output.scratch_path={scratch}")]
    address = ray.get_runtime_context().gcs_address
    Command(words, folder, address).kill_when(lambda: any(num_written(work) >= 5 for work in scratch.glob("*")))
    assert verify(output) and size(output / MANIFEST) is None
    Command(words, folder, address).result()
    found = contents(output)
    assert verify(output) == [] and not any(scratch.iterdir())
    remove_folder(output)
    Command(words, folder, address).result()
    assert contents(output) == found


def begin(given: list[str]) -> Path:
    """Take the output folder as a run does, and stop there."""
    run = prepare(load_config(None, given), lambda *_: None)
    claim(run.output, run.destination, run.identity)
    return run.output / SCRATCH


@pytest.mark.parametrize("left", [(), (f".{IDENTITY}.4711",)], ids=["nothing in it", "a half-written name"])
def test_killed_before_it_said_whose_the_folder_is(folder: Path, left: tuple[str, ...]) -> None:
    given = settings(folder, folder / "out")
    whole = unbroken(given, folder / "out")
    scratch = folder / "out" / SCRATCH
    scratch.mkdir(parents=True)
    for name in left:
        (scratch / name).touch()
    preprocess(load_config(None, given))
    assert contents(folder / "out") == whole


def test_killed_while_it_discards_what_bad_input_left(folder: Path) -> None:
    given = settings(folder, folder / "out")
    whole = unbroken(given, folder / "out")
    scratch = begin(settings(folder, folder / "out", "preprocessing.max_length=64"))
    (scratch / "records.parquet").write_bytes(b"of another run")
    (scratch / IDENTITY).unlink()  # a folder is removed name by name
    preprocess(load_config(None, given))
    assert contents(folder / "out") == whole


@pytest.mark.parametrize("name", [".manifest.json.4711", ".shards.parquet.4711", ".train.h5.4711"])
def test_what_was_half_written_under_a_hidden_name_goes(folder: Path, name: str) -> None:
    given = settings(folder, folder / "out", "output.format=hdf5")
    whole = unbroken(given, folder / "out")
    begin(given)
    (folder / "out" / name).write_bytes(b"half")
    preprocess(load_config(None, given))
    assert contents(folder / "out") == whole


# No space


@pytest.mark.parametrize("file_format", ["parquet", "hdf5"])
def test_a_full_disk_is_one_sentence_and_the_same_command_goes_on(folder: Path, file_format: str) -> None:
    output = folder / "disk/out"
    given = settings(folder, output, f"output.format={file_format}", "output.compress=false")
    with disk(folder / "disk") as resize:
        resize(1 << 20)
        whole = unbroken(given, output)
        kib, stages = 16, set()
        resize(kib)
        while problem := problem_of(given):
            said = re.fullmatch(rf"{output}/(\S+): could not be read or written \(.*(No space left|disk full).*\); .* goes on", problem)
            assert said, problem
            stages.add(stage_of(Path(said[1])))
            assert assert_damaged_or_whole(output, whole)
            kib += max(16, kib // 8)
            resize(kib)
        assert contents(output) == whole
    assert stages >= {"bases", "keys", "shards"}, stages


def test_a_disk_without_room_for_the_first_file_is_one_sentence(folder: Path) -> None:
    output = folder / "disk/out"
    with disk(folder / "disk") as resize:
        resize(8)
        (folder / "disk/full").write_bytes(bytes(8 << 10))
        problem = problem_of(settings(folder, output))
        assert problem == (
            f"{output}/{SCRATCH}/{IDENTITY}: could not be read or written (No space left on device); when that is cured, the same "
            "command goes on"
        )


def test_workers_of_the_run_that_failed_may_still_end_while_the_next_one_begins(tmp_path: Path) -> None:
    """They remove what they were writing, as the next run does."""
    scratch, ended = tmp_path / SCRATCH, threading.Event()
    claim(tmp_path, tmp_path, {"width": 8})  # without which the next one removes the whole folder

    def fail_again_and_again() -> None:
        while not ended.is_set():
            for number in range(50):
                (scratch / f".shard.{number}").touch()
            for number in range(50):
                (scratch / f".shard.{number}").unlink(missing_ok=True)

    worker = threading.Thread(target=fail_again_and_again)
    worker.start()
    try:
        for _ in range(200):
            assert claim(tmp_path, tmp_path, {"width": 8}) is None
        assert worker.is_alive()
    finally:
        ended.set()
        worker.join()


def problem_of(given: list[str]) -> str | None:
    try:
        preprocess(load_config(None, given))
    except DataError as error:
        return str(error)
    return None


def stage_of(path: Path) -> str:
    """The stage that writes a file."""
    return path.parts[1] if path.parts[0] == SCRATCH and path.suffix != ".parquet" else "shards"


def test_room_that_ends_within_the_last_letters_of_a_file_is_noticed(tmp_path: Path) -> None:
    """The system then writes what fits and says how much that was; without another write there is no error."""
    script = textwrap.dedent("""
        import resource, sys
        from pathlib import Path
        import pyarrow as pa
        from hyena_glt.data.index import index_part, parts_of
        given, output = map(Path, sys.argv[1:])
        part = pa.Table.from_pylist([part._asdict() for part in parts_of(0, given)])
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
        index_part(part, sequence_type="dna", output=output)
    """)
    run = [sys.executable, "-c", script, str(GENOMES / "lambda.fa"), str(tmp_path)]
    ended = subprocess.run(run, capture_output=True, text=True, cwd=ROOT)
    assert ended.returncode == 1 and "File too large" in ended.stderr


# Workers


@pytest.mark.slow
def test_the_bytes_do_not_depend_on_the_number_of_workers(folder: Path) -> None:
    """All kinds of inputs in one run: gzip, plain, bgzip, variants, soft-masked stretches, regions with labels and weights."""
    genes = YEAST / "SmikIFO1815_1.gff.gz"
    given = settings(
        folder, folder / "out", f"preprocessing.input_path=[{folder}/in, {YEAST}/SmikIFO1815_1.fna.gz]", "tokenization.stride=100",
        f"preprocessing.variants.path={PEOPLE}/chr20_2.34M.vcf.gz", "preprocessing.variants.samples=[HG00096, HG00097, HG00099]",
        "preprocessing.soft_masked=weight", f"preprocessing.label_regions.path={genes}", f"preprocessing.weight_regions.path={genes}",
        "preprocessing.weight_regions.types=[CDS]",
    )
    two = unbroken(given, folder / "out")
    assert len(two) > 20
    for workers in (1, 4):
        Command(["preprocess", *given, f"cluster.num_cpus={workers}"], folder).result()
        assert {"weights", "labels"} < set(read_manifest(folder / "out").columns)
        assert contents(folder / "out") == two
        shutil.rmtree(folder / "out")


def test_the_bytes_do_not_depend_on_the_parts_that_files_are_read_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "in/yeast.fa").write_bytes(gzip.decompress((YEAST / "SmikIFO1815_1.fna.gz").read_bytes()))
    given = settings(folder, folder / "out", "preprocessing.soft_masked=weight", "tokenization.stride=128")
    whole = unbroken(given, folder / "out")
    monkeypatch.setattr(index, "PART_BYTES", 7_001)
    assert unbroken(given, folder / "out") == whole
