"""Object stores: real servers on loopback are listed, read by row group and written through pyarrow; their errors are sentences."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pyarrow.parquet as pq
import pytest

from hyena_glt.config import LabelRegionsConfig, PreprocessingConfig, SplitConfig
from hyena_glt.data import parquet
from hyena_glt.data.dataset import open_rows
from hyena_glt.data.inputs import find_annotations, find_inputs
from hyena_glt.data.manifest import locate_split, read_manifest
from hyena_glt.data.readers import find_shard, read_rows
from hyena_glt.data.sources.go_terms import read_go_terms
from hyena_glt.data.sources.regions import read_regions
from hyena_glt.data.sources.structures import read_structure
from hyena_glt.data.storage import (
    Url,
    download,
    ensure_folder,
    find_objects,
    is_folder,
    list_files,
    location,
    names_in,
    open_file,
    open_filesystem,
    read_bytes,
    remove_file,
    remove_folder,
    size,
    upload,
    write_bytes,
)
from hyena_glt.data.verify import verify
from hyena_glt.errors import DataError
from pipelines.convert import convert
from tests import stores
from tests.data.made_folder import make_folder

DATA = Path(__file__).parent
s3, google, s3_bucket, google_bucket = stores.s3, stores.google, stores.s3_bucket, stores.google_bucket  # fixtures
bucket = stores.any_bucket


@pytest.fixture
def folder(tmp_path) -> Path:
    return make_folder(tmp_path / "data", {"train": ((30, 7), (5,)), "test": ((3,),)}, weights=True)


def copy_to(store: Url, folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            upload(path, store / path.relative_to(folder).as_posix())


# Names


def test_locations():
    url = location("s3://bucket/data/train.h5/")
    assert (url, str(url)) == (Url("s3", "bucket/data/train.h5"), "s3://bucket/data/train.h5")
    assert (url.bucket, url.name, url.stem, url.suffix, str(url.parent)) == ("bucket", "train.h5", "train", ".h5", "s3://bucket/data")
    assert location("s3://bucket").parent == location("s3://bucket")
    assert url / "." == url and str(url.parent / "val/a") == "s3://bucket/data/val/a"
    assert location("data/a:b") == Path("data/a:b") and location(url) is url
    for path in ("http://host/a.fa", "s3://", "s3:///"):
        with pytest.raises(DataError, match=f"{path}: files are read and written at local paths, s3://bucket/name and gs://bucket/name"):
            location(path)


@pytest.mark.parametrize("path", ["s3://AKIA:secret@bucket/a", "s3://AKIA:se/cr+et@bucket/a", "https://me:secret@host/a.fa"])
def test_a_password_in_a_url_is_refused_and_not_shown(path):
    """Paths of `evaluate`, `report` and the like are no settings, which are refused before, and stand in messages and results."""
    with pytest.raises(DataError, match="^a URL with a password, which logs and results would show; put it into the environment") as caught:
        location(path)
    assert "AKIA" not in str(caught.value) and "me:" not in str(caught.value)


def test_local_paths(tmp_path):
    write_bytes(tmp_path / "a", b"abc")
    store, path = open_filesystem(tmp_path / "a")
    assert store.get_file_info(path).size == size(tmp_path / "a") == 3 and read_bytes(str(tmp_path / "a")) == b"abc"
    assert (size(tmp_path), size(tmp_path / "b"), is_folder(tmp_path), is_folder(tmp_path / "a")) == (None, None, True, False)
    assert names_in(tmp_path) == ["a"]
    for place in (tmp_path / "a", tmp_path / "b"):
        remove_file(place)
    ensure_folder(tmp_path / "c/d")
    write_bytes(tmp_path / "c/d/e", b"")
    remove_folder(tmp_path / "c")
    assert names_in(tmp_path) == []


# Objects


def test_an_object_is_written_and_read(bucket):
    url = bucket / "folder/a b#é.txt"
    assert size(url) is None and not is_folder(url.parent)
    write_bytes(url, b"abc")
    assert (size(url), read_bytes(url), size(url.parent), is_folder(url.parent)) == (3, b"abc", None, True)
    write_bytes(url, b"other")
    assert read_bytes(str(url)) == b"other"


def test_large_files_there_and_back(bucket, tmp_path):
    content = np.random.default_rng(0).bytes(21 << 20)
    (tmp_path / "a").write_bytes(content)
    upload(tmp_path / "a", bucket / "a")
    assert read_bytes(bucket / "a") == content
    with open_file(bucket / "a") as file:
        file.seek(20 << 20)
        assert file.read(100) == content[20 << 20 :][:100]


def test_what_is_removed_leaves_nothing(bucket, tmp_path):
    for name in ("a/b/c", "a/b/d/e", "a/bc", "f"):
        write_bytes(bucket / name, name.encode())
    ensure_folder(bucket / "g")
    for gone in (bucket / "a/b", bucket / "nothing"):
        remove_folder(gone)
        remove_file(gone)
    assert names_in(bucket) == ["a", "f"] and names_in(bucket / "a") == ["bc"]
    remove_file(bucket / "f")
    download(bucket / "a/bc", tmp_path / "x/y")
    assert (tmp_path / "x/y").read_bytes() == b"a/bc" and names_in(bucket) == ["a"]
    with pytest.raises(FileNotFoundError, match=f"No such file or directory: '{bucket}/f'"):
        download(bucket / "f", tmp_path / "f")

def test_a_bucket_stays_when_all_in_it_goes(s3_bucket):
    write_bytes(s3_bucket / "a/b", b"c")
    remove_folder(s3_bucket)
    assert names_in(s3_bucket) == []


def test_listing_and_finding(bucket):
    names = ["x/a.fa", "x/b.fa.gz", "x/y/c.fa", "x/y/notes.txt", "xy.fa", "x/[1].fa"]
    for name in names:
        write_bytes(bucket / name, name.encode())  # as it is, also where the name says that it is compressed
    assert list_files(bucket / "x") == {bucket / name: len(name) for name in sorted(names) if name.startswith("x/")}
    assert names_in(bucket) == ["x", "xy.fa"] and names_in(bucket / "x") == ["[1].fa", "a.fa", "b.fa.gz", "y"]
    found = {
        "x/a.fa": ["x/a.fa"], "x": ["x/[1].fa", "x/a.fa", "x/b.fa.gz", "x/y/c.fa", "x/y/notes.txt"], "x/*.fa": ["x/[1].fa", "x/a.fa"],
        "x/[1].fa": ["x/[1].fa"], "x/[ab].fa*": ["x/a.fa", "x/b.fa.gz"], "**/*.fa": ["x/[1].fa", "x/a.fa", "x/y/c.fa", "xy.fa"],
        "x?.fa": ["xy.fa"], "x/**": ["x/[1].fa", "x/a.fa", "x/b.fa.gz", "x/y/c.fa", "x/y/notes.txt"], "z": [], "z/*.fa": [], "x/a": [],
    }
    assert {pattern: [item.key.partition("/")[2] for item in find_objects(location(f"{bucket}/{pattern}"))] for pattern in found} == found


def test_inputs_of_preprocessing(bucket):
    for name in ("a/x.fa", "a/y/z.fna.gz", "a/notes.txt", "b/notes.txt", "s/1abc.cif.gz", "s/notes.txt"):
        write_bytes(bucket / name, b"")
    assert find_inputs(f"{bucket}/a") == {"x.fa": bucket / "a/x.fa", "y/z.fna.gz": bucket / "a/y/z.fna.gz"}
    assert find_inputs(f"{bucket}/s") == {"1abc.cif.gz": bucket / "s/1abc.cif.gz"}
    refused = {
        "b": f"no input in {bucket}/b: nothing there has the name of a FASTA or structure file",
        "c/*.fa": rf"no input in {bucket}/c/\*.fa: nothing is there",
    }
    for path, sentence in refused.items():
        with pytest.raises(DataError, match=f"^preprocessing.input_path: {sentence}$"):
            find_inputs(f"{bucket}/{path}")


def test_annotations_of_preprocessing(bucket):
    for name in ("a/x.gff3", "a/y.gff3", "a/val.bed"):
        write_bytes(bucket / name, b"")
    cfg = PreprocessingConfig(
        label_regions=LabelRegionsConfig(path=f"{bucket}/a/*.gff3"), split=SplitConfig(by="interval", val_intervals=f"{bucket}/a/val.bed")
    )
    assert find_annotations(cfg) == {"label_regions": [bucket / "a/x.gff3", bucket / "a/y.gff3"], "val_intervals": [bucket / "a/val.bed"]}
    for path in (f"{bucket}/a", f"{bucket}/b.gff3"):
        with pytest.raises(DataError, match=f"^preprocessing.label_regions.path: no file '{path}'; check the path$"):
            find_annotations(replace(cfg, label_regions=LabelRegionsConfig(path=path)))


def test_sources_in_a_store_read_as_they_do_here(bucket):
    gff, gtf, gaf = (DATA / "annotations" / name for name in ("SmikIFO1815_1.gff.gz", "SmikIFO1815_1.gtf.gz", "goa_yeast.gaf.gz"))
    structures = DATA / "structures/1A8O.cif.gz", DATA / "structures/2N0N.pdb.gz"
    for path in (gff, gtf, gaf, *structures):
        upload(path, bucket / path.name)
    for path in (gff, gtf):
        here, there = read_regions(path), read_regions(bucket / path.name)
        assert here.keys() == there.keys() and all(np.array_equal(here[name].start_K, there[name].start_K) for name in here)
    assert read_go_terms(bucket / gaf.name) == read_go_terms(gaf)
    for path in structures:
        assert read_structure(bucket / path.name, "protein") == read_structure(path, "protein")


def test_damaged_sources_in_a_store_are_named(bucket):
    content = (DATA / "annotations/SmikIFO1815_1.gff.gz").read_bytes()
    write_bytes(bucket / "a.gff.gz", content[:-100])
    write_bytes(bucket / "b.bed", b"chr1\t1\t5\nchr1\tx\t5\n")
    refused = {
        "a.gff.gz": rf"a.gff.gz: compressed file is cut short \({len(content) - 100:,} bytes\); copy it again",
        "b.bed": "b.bed, line 2: the start is 'x', wanted a whole number; correct", "c.bed": r"c.bed: cannot be read \(No such file",
    }
    for name, sentence in refused.items():
        with pytest.raises(DataError, match=f"^{bucket}/{sentence}"):
            read_regions(bucket / name)


def test_an_object_becomes_a_file_when_it_is_whole(bucket, tmp_path):
    write_bytes(bucket / "a", b"abc")
    download(bucket / "a", tmp_path / "folder/a")
    assert [path.read_bytes() for path in (tmp_path / "folder").iterdir()] == [b"abc"]
    with pytest.raises(FileNotFoundError, match=f"{bucket}/b"):
        download(bucket / "b", tmp_path / "folder/b")


# Preprocessed data


def test_a_folder_in_a_store_reads_as_it_does_here(bucket, folder):
    copy_to(bucket / "data", folder)
    remote = f"{bucket}/data"
    assert locate_split(f"{remote}/train", "test") == (bucket / "data", "train") and read_manifest(remote) == read_manifest(folder)
    assert verify(remote) == []
    for split in ("train", "test"):
        one, other = open_rows(remote, split, 5), open_rows(str(folder), split, 5)
        assert np.array_equal(one.group_sizes(), other.group_sizes()) and one.tokenizer == other.tokenizer
        order = np.random.default_rng(0).permutation(one.num_rows)
        assert np.array_equal(one.read(order), other.read(order))
    with pytest.raises(DataError, match=f"{remote} has no val split, only train, test; preprocess again"):
        locate_split(remote, "val")


def test_hdf5_in_a_store(bucket, folder, tmp_path):
    convert(str(folder), str(tmp_path / "hdf5"))
    copy_to(bucket / "data", tmp_path / "hdf5")
    upload(tmp_path / "hdf5/train.h5", bucket / "alone.h5")
    wanted = open_rows(str(folder), "train")
    for path in (f"{bucket}/data", f"{bucket}/data/train.h5", f"{bucket}/alone.h5"):
        rows = open_rows(path, "train")
        assert np.array_equal(rows.read(np.arange(rows.num_rows)), wanted.read(np.arange(rows.num_rows)))
    assert verify(f"{bucket}/data") == []


def test_conversion_from_a_store(bucket, folder, tmp_path):
    copy_to(bucket, folder)
    convert(str(bucket), str(tmp_path / "hdf5"))
    convert(str(folder), str(tmp_path / "wanted"))
    for path in (tmp_path / "wanted").iterdir():
        assert (tmp_path / "hdf5" / path.name).read_bytes() == path.read_bytes()


def test_a_row_group_is_one_request(bucket, folder, monkeypatch):
    copy_to(bucket, folder)
    shard = find_shard(bucket, read_manifest(bucket).splits["train"].shards[0])
    opened, plain = [], pq.ParquetFile
    monkeypatch.setattr(pq, "ParquetFile", lambda *given, **settings: opened.append(1) or plain(*given, **settings))
    for index, num_rows in ((0, 30), (1, 7), (0, 30)):
        read_rows(shard, index, num_rows)
    assert opened == [1], "size and footer were read again"


def test_opening_a_data_set_asks_for_no_shard(bucket, folder, monkeypatch):
    copy_to(bucket, folder)
    asked, plain = [], parquet._opened
    monkeypatch.setattr(parquet, "_opened", lambda path: asked.append(path.name) or plain(path))
    monkeypatch.setattr("hyena_glt.data.readers.size", lambda path: asked.append(path.name) or size(path))
    rows = open_rows(str(bucket), "train")
    assert (rows.num_rows, asked) == (42, [])
    rows.read(np.array([41]))
    assert asked == ["part-00001.parquet"] * 2
    rows.read(np.arange(42))
    assert asked == ["part-00001.parquet"] * 2 + ["part-00000.parquet"] * 2, "what was found once is not looked for again"


def test_no_more_objects_stay_open_than_the_bound(bucket, folder, monkeypatch):
    copy_to(bucket, folder)
    names = ["train/part-00000.parquet", "train/part-00001.parquet", "test/part-00000.parquet"]
    wanted = [read_rows(folder / name, 0, num_rows) for name, num_rows in zip(names, (30, 5, 3), strict=True)]
    opened, plain, counts = [], pq.ParquetFile, []
    monkeypatch.setattr(pq, "ParquetFile", lambda *given, **settings: opened.append(1) or plain(*given, **settings))
    monkeypatch.setattr(parquet, "MAX_OBJECTS", 2)
    for number in (0, 1, 0, 2, 0, 1):
        assert read_rows(bucket / names[number], 0, len(wanted[number])).equals(wanted[number])
        counts.append(len(opened))
    assert counts == [1, 2, 2, 3, 3, 4], "the one that was not used for the longest time is closed"


def test_an_object_that_was_replaced_is_read_anew(bucket, folder, tmp_path):
    copy_to(bucket, folder)
    open_rows(str(bucket), "train").read(np.arange(42))
    other = make_folder(tmp_path / "other", {"train": ((30, 7), (5,)), "test": ((3,),)}, weights=True, seed=1)
    copy_to(bucket, other)
    assert np.array_equal(open_rows(str(bucket), "train").read(np.arange(42)), open_rows(str(other), "train").read(np.arange(42)))


def test_damage_in_a_store_is_found(bucket, folder):
    shard = folder / "train/part-00000.parquet"
    content = bytearray(shard.read_bytes())
    content[100] ^= 255  # in the ids of the first row group
    shard.write_bytes(content)
    copy_to(bucket, folder)
    assert verify(str(bucket)) == [f"{bucket}/train/part-00000.parquet: its SHA-256 is not the manifest's: its bytes have changed"]
    rows = open_rows(str(bucket), "train")
    with pytest.raises(DataError, match=f"{bucket}/train/part-00000.parquet, row group 0: damaged"):
        rows.read(np.arange(30))
    write_bytes(bucket / "train/part-00001.parquet", b"short")
    write_bytes(bucket / "train/more", b"")
    assert any("part-00001.parquet: has 5 bytes, the manifest says" in sentence for sentence in verify(str(bucket)))
    assert f"{bucket}/train/more: is not in the manifest; remove it" in verify(str(bucket))
    with pytest.raises(DataError, match="part-00001.parquet: 5 bytes, the manifest has"):
        open_rows(str(bucket), "train").read(np.array([41]))


def test_another_process_reads_with_the_environment_alone(bucket, folder):
    copy_to(bucket, folder)
    program = textwrap.dedent(f"""
        from hyena_glt.data.dataset import open_rows
        print(open_rows("{bucket}", "train").read([0, 41]).tolist())
    """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(__file__).parents[2], check=True)
    assert done.stdout.strip() == str(open_rows(str(folder), "train").read(np.array([0, 41])).tolist())


# Errors


def test_what_is_not_there(bucket, tmp_path):
    with pytest.raises(FileNotFoundError, match=f"No such file or directory: '{bucket}/a'"):
        read_bytes(bucket / "a")
    with pytest.raises(FileNotFoundError):
        list_files(bucket / "a")
    with pytest.raises(DataError, match=f"{bucket}/a is neither a preprocessing output nor .*: nothing is there; check the path"):
        locate_split(f"{bucket}/a", "train")
    write_bytes(bucket / "a/notes", b"")
    with pytest.raises(DataError, match="it holds notes; make it with `hyena-glt preprocess`"):
        locate_split(f"{bucket}/a", "train")


def test_no_such_bucket(bucket, tmp_path):
    (tmp_path / "a").write_bytes(b"a")
    nowhere = Url(bucket.scheme, "nobody-has-this/a")
    sentence = f"{nowhere}: there is no such bucket; check its name, or create it"
    for action in (lambda: read_bytes(nowhere), lambda: upload(tmp_path / "a", nowhere)):
        with pytest.raises(DataError, match=sentence):
            action()


def test_credentials_that_are_refused(s3_bucket, monkeypatch):
    write_bytes(s3_bucket / "a", b"a")
    monkeypatch.setattr("moto.settings.INITIAL_NO_AUTH_ACTION_COUNT", 0)  # from here on the server looks at the keys
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "unknown")
    sentence = f"{s3_bucket}/a: access is denied; check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY"
    for action in (lambda: read_bytes(s3_bucket / "a"), lambda: write_bytes(s3_bucket / "a", b"b"), lambda: size(s3_bucket / "a")):
        with pytest.raises(DataError, match=sentence):
            action()


GOOGLE = {"keyless": 401, "closed": 403, "b/open/o/": 404, "prefix=": 200, "": 403}
"""What it answers, by the first of these in the path."""


class Answer(BaseHTTPRequestHandler):
    """A server of S3 whose bucket lies elsewhere, and that refuses names which begin with `bad`; one of Google Cloud."""

    def do_HEAD(self) -> None:
        status = next(status for part, status in GOOGLE.items() if part in self.path)
        self.send_response(status if "/storage/v1/" in self.path else 400 if "/bad" in self.path else 301)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""


@pytest.fixture
def elsewhere() -> Iterator[str]:
    """The URL of such a server."""
    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_what_a_google_account_may_not_do(google, elsewhere, monkeypatch):
    monkeypatch.setenv("CLOUD_STORAGE_EMULATOR_ENDPOINT", elsewhere)
    with pytest.raises(DataError, match="gs://keyless/a: Google Cloud lets nobody in without a key; set GOOGLE_APPLICATION_CREDENTIALS"):
        size("gs://keyless/a")
    with pytest.raises(DataError, match="gs://closed/a: the account may not do that; give it the role Storage Object User on the bucket"):
        size("gs://closed/a")
    with pytest.raises(FileNotFoundError, match="gs://open/a"):  # which roles for objects do not let it ask for
        read_bytes("gs://open/a")


def test_a_bucket_in_another_region(s3, elsewhere, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", elsewhere)
    with pytest.raises(DataError, match="s3://far/a: the bucket lies in another region; set AWS_REGION"):
        size("s3://far/a")
    with pytest.raises(DataError, match="s3://far/bad-301: the store refused"):
        size("s3://far/bad-301")


@pytest.mark.slow
def test_a_server_that_is_not_there(s3, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(DataError, match="s3://bucket/a: the store cannot be reached; check the network, and AWS_ENDPOINT_URL where"):
        size("s3://bucket/a")
