"""Where files lie: local paths, and objects in S3 and Google Cloud Storage through pyarrow's filesystems. Needs neither Ray nor torch.

Credentials, region and endpoint of S3 come from the usual AWS_ environment variables and files (AWS_ENDPOINT_URL for other stores that
speak S3), those of Google Cloud from its application default credentials (GOOGLE_APPLICATION_CREDENTIALS, for one).
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import pyarrow as pa
from fsspec.utils import glob_translate
from pyarrow import fs

from ..config.credentials import ADVICE as ADVICE_ON_SECRETS
from ..config.credentials import has_password
from ..errors import DataError, StorageError
from ..files import appearing, atomic_write, naming

SCHEMES = {"s3": "allow_delayed_open=true", "gs": "retry_limit_seconds=30"}
"""The stores, with pyarrow's options: a small object in one request; minutes less until an error shows."""
COPY_BYTES = 8 << 20

NO_BUCKET = "there is no such bucket; check its name, or create it"
ADVICE = {
    "NO_SUCH_BUCKET|Bucket '.*' not found": NO_BUCKET,
    "NETWORK_CONNECTION": "the store cannot be reached; check the network, and AWS_ENDPOINT_URL where it is not Amazon's",
    "OAuth2|UNAUTHENTICATED":
        "Google Cloud lets nobody in without a key; set GOOGLE_APPLICATION_CREDENTIALS to the key file of an account, "
        "or run `gcloud auth application-default login`",
    "PERMISSION_DENIED": "the account may not do that; give it the role Storage Object User on the bucket (to read: Storage Object Viewer)",
    "UNAVAILABLE|DEADLINE_EXCEEDED": "the store cannot be reached; check the network",
    "ACCESS_DENIED|INVALID_ACCESS_KEY_ID|INVALID_CLIENT_TOKEN_ID|SIGNATURE_DOES_NOT_MATCH|EXPIRED_TOKEN|HTTP status 40[13]":
        "access is denied; check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY (or AWS_PROFILE) and what they allow",
    "HTTP status 301|PERMANENT_REDIRECT|AuthorizationHeaderMalformed": "the bucket lies in another region; set AWS_REGION",
}
"""What to do about an error, by what the store says."""


@dataclass(frozen=True, slots=True)
class Url:
    """An object, or the start of the names of several, such as s3://bucket/folder; used like a `Path` where both may stand."""

    scheme: str
    key: str
    """Bucket and name, without a slash at the end."""

    def __str__(self) -> str:
        return f"{self.scheme}://{self.key}"

    def __truediv__(self, name: str) -> Url:
        return Url(self.scheme, str(PurePosixPath(self.key) / name))

    @property
    def bucket(self) -> str:
        return self.key.partition("/")[0]

    @property
    def name(self) -> str:
        return PurePosixPath(self.key).name

    @property
    def stem(self) -> str:
        return PurePosixPath(self.key).stem

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.key).suffix

    @property
    def parent(self) -> Url:
        """Of a bucket itself, as that of / is /."""
        return Url(self.scheme, self.key.rpartition("/")[0] or self.key)


Location = Path | Url


def location(path: str | Location) -> Location:
    """A `Url` for s3:// and gs://, a `Path` otherwise; DataError for any other scheme, for a URL without a bucket or with a password."""
    if isinstance(path, Url | Path):
        return path
    if has_password(path):  # not shown: a message would put it into a log
        raise DataError(f"a URL with a password, which logs and results would show; {ADVICE_ON_SECRETS}")
    scheme, separator, key = path.partition("://")
    if not separator:
        return Path(path)
    if scheme not in SCHEMES or not key.strip("/"):
        raise DataError(f"{path}: files are read and written at local paths, s3://bucket/name and gs://bucket/name")
    return Url(scheme, key.strip("/"))


def absolute(path: str | Location) -> Location:
    """The same place, whatever folder is the current one."""
    place = location(path)
    return place.absolute() if isinstance(place, Path) else place


def open_filesystem(path: str | Location) -> tuple[fs.FileSystem, str]:
    """(filesystem, path in it) of a local path or URL. StorageError for a store that cannot be reached, as for all that follows."""
    place = location(path)
    if isinstance(place, Path):
        return fs.LocalFileSystem(), os.path.abspath(place)
    settings = tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith(("AWS_", "GOOGLE_", "CLOUD_STORAGE_"))))
    with _store_errors(place):
        return _bucket_filesystem(place.scheme, place.bucket, settings), place.key


@cache
def _bucket_filesystem(scheme: str, bucket: str, settings: tuple[tuple[str, str], ...]) -> fs.FileSystem:
    """`settings` are here because pyarrow reads them: other ones are another filesystem."""
    return fs.FileSystem.from_uri(f"{scheme}://{bucket}?{SCHEMES[scheme]}")[0]


@contextmanager
def _store_errors(url: Url) -> Iterator[None]:
    """FileNotFoundError for an object that is not there; StorageError, with what to do, for everything else that a store may answer."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError) or re.match("No such (file or )?directory", str(error)):  # as Google Cloud's has it
            if _has_no_bucket(url):
                raise StorageError(f"{url}: {NO_BUCKET}") from None
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(url)) from None
        advice = next((advice for code, advice in ADVICE.items() if re.search(code, str(error))), "the store refused")
        raise StorageError(f"{url}: {advice} ({first_line(error)})") from error


def _has_no_bucket(url: Url) -> bool:
    """Whether the store says so; an account that may not ask has one."""
    with suppress(OSError, pa.ArrowException):
        return open_filesystem(url)[0].get_file_info(url.bucket).type == fs.FileType.NotFound
    return False


def first_line(error: Exception) -> str:
    """What pyarrow or h5py says, without the details below; the kind of error if it says nothing."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


# Looking


def size(path: str | Location) -> int | None:
    """Bytes of a file or object; None if there is none."""
    place = location(path)
    if isinstance(place, Path):
        return place.stat().st_size if place.is_file() else None
    found = _info(place)
    return found.size if found.type == fs.FileType.File else None


def is_folder(path: str | Location) -> bool:
    """Whether `path` is a folder, or the start of objects' names up to a slash."""
    place = location(path)
    return place.is_dir() if isinstance(place, Path) else _info(place).type == fs.FileType.Directory


def _info(url: Url) -> fs.FileInfo:
    store, key = open_filesystem(url)
    with _store_errors(url):
        return store.get_file_info(key)


def names_in(folder: Location) -> list[str]:
    """What a folder holds, not looking into others in it; FileNotFoundError if it is not there."""
    if isinstance(folder, Path):
        return sorted(item.name for item in folder.iterdir())
    # pyarrow lists a folder of Google Cloud only where an object stands for it: its names are found below it.
    below = _list(folder, recursive=folder.scheme == "gs")
    return sorted({info.path.removeprefix(f"{folder.key}/").partition("/")[0] for info in below})


def list_files(folder: Url) -> dict[Url, int]:
    """Object -> bytes, for all below `folder`, sorted; FileNotFoundError if there is none."""
    infos = [info for info in _list(folder, recursive=True) if info.type == fs.FileType.File]
    return {Url(folder.scheme, info.path): info.size for info in sorted(infos, key=lambda info: info.path)}


def _list(folder: Url, *, recursive: bool) -> list[fs.FileInfo]:
    store, key = open_filesystem(folder)
    with _store_errors(folder):
        return store.get_file_info(fs.FileSelector(key, recursive=recursive))


def find_objects(url: Url) -> list[Url]:
    """The objects that `url` means, sorted: itself; or all below it; or those that it matches, with *, ? and [] as in a shell, and **.

    An empty list if there is none.
    """
    if size(url) is not None:
        return [url]
    fixed = re.split(r"[*?\[]", url.key)[0]
    folder = url if fixed == url.key else Url(url.scheme, fixed.rpartition("/")[0] or url.bucket)
    if not is_folder(folder):
        return []
    matches = re.compile(glob_translate(url.key)).match if fixed != url.key else lambda _: True
    return [item for item in list_files(folder) if matches(item.key)]


# Reading and writing


def read_bytes(path: str | Location) -> bytes:
    """The whole content of a small file; FileNotFoundError if there is none."""
    place = location(path)
    if isinstance(place, Path):
        return place.read_bytes()
    with open_file(place) as file, _store_errors(place):
        return file.read()


def open_file(url: Url) -> pa.NativeFile:
    """An object for reading at any place; its size is asked for once, here."""
    store, key = open_filesystem(url)
    with _store_errors(url):
        return store.open_input_file(key)


def write_bytes(path: str | Location, content: bytes) -> None:
    """Write a small file in one step: a reader sees the old content or the new. StorageError where it cannot be written."""
    place = location(path)
    if isinstance(place, Path):
        with naming(place):
            atomic_write(place, content)
        return
    store, key = open_filesystem(place)
    # No compression, which pyarrow would choose by the name: what is called .gz is compressed already.
    with _store_errors(place), store.open_output_stream(key, compression=None) as sink:
        sink.write(content)


def open_binary(path: Location) -> BinaryIO:
    """A local file, unbuffered, or an object, for reading at any place."""
    return path.open("rb", buffering=0) if isinstance(path, Path) else open_file(path)


def ensure_folder(place: Location) -> None:
    """With those above it; a store needs none."""
    if isinstance(place, Path):
        place.mkdir(parents=True, exist_ok=True)


def remove_file(place: Location) -> None:
    """Delete a file or object; nothing to do if there is none."""
    if isinstance(place, Path):
        place.unlink(missing_ok=True)
        return
    store, key = open_filesystem(place)
    with suppress(FileNotFoundError), _store_errors(place):
        store.delete_file(key)


def remove_folder(place: Location) -> None:
    """Delete a folder with all in it, or all objects below a URL; of the latter there may be none."""
    if isinstance(place, Path):
        shutil.rmtree(place)
        return
    store, key = open_filesystem(place)
    # The contents alone would leave an object that stands for the folder; a bucket stays.
    delete = store.delete_dir if "/" in key else store.delete_dir_contents
    with suppress(FileNotFoundError), _store_errors(place):
        delete(key)


def download(url: Url, to: Path) -> None:
    """Store an object as a local file, which is there once it is whole; FileNotFoundError if there is no object."""
    with open_file(url) as source, appearing(to) as unfinished, unfinished.open("wb") as sink:
        while block := _read_block(url, source):
            sink.write(block)


def _read_block(url: Url, source: pa.NativeFile) -> bytes:
    with _store_errors(url):
        return source.read(COPY_BYTES)


def upload(file: Path, to: Url) -> None:
    """Store a local file; a reader sees the old object or the whole new one."""
    store, key = open_filesystem(to)
    with file.open("rb") as source, _store_errors(to), store.open_output_stream(key, compression=None) as sink:
        shutil.copyfileobj(source, sink, COPY_BYTES)
    if size(to) != file.stat().st_size:
        raise StorageError(f"{to}: holds {size(to)} bytes after {file} with {file.stat().st_size} was stored; run the same command again")
