"""The bytes and the numbered lines of a file, plain, gzip or bgzip, and lists of names for the sentences about them."""

from __future__ import annotations

import gzip
import io
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import SequenceMatcher
from typing import BinaryIO, cast

from ...errors import DataError, StorageError
from ..fasta import BGZF_END
from ..storage import Location, first_line, open_binary, size


@contextmanager
def unpacked(path: Location) -> Iterator[BinaryIO]:
    """A file open for reading, uncompressed; DataError when it is missing, and when a compressed one is cut short or damaged.

    StorageError where the disk or the network fails.
    """
    try:
        with io.BufferedReader(open_binary(path)) as file:
            start = file.read(18)
            is_gzip = start[:2] == b"\x1f\x8b"
            if is_gzip and start[12:14] == b"BC" and not _ends_with(file, BGZF_END):
                # One that is cut between two blocks unpacks without complaint.
                raise EOFError
            file.seek(0)
            yield cast(BinaryIO, gzip.open(file)) if is_gzip else file
    except EOFError as error:
        raise DataError(f"{path}: compressed file is cut short ({size(path):,} bytes); copy it again from its source") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: compressed file is damaged ({error}); copy it again from its source") from error
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); correct the path") from error
    except OSError as error:  # no DataError, at which what is written already goes
        raise StorageError(f"{path}: could not be read ({first_line(error)}); when that is cured, the same command goes on") from error


def numbered_lines(path: Location) -> Iterator[tuple[int, str]]:
    """(line from 1, its text without the line end), lazily; DataError as `unpacked`, and for a line that is not UTF-8."""
    with unpacked(path) as file:
        for number, line in enumerate(file, 1):
            try:
                yield number, line.rstrip(b"\r\n").decode()
            except UnicodeDecodeError as error:
                found = error.object[error.start : error.start + 1]
                raise DataError(f"{path}, line {number}: {found!r} is not UTF-8; convert the file") from error


def listed(names: Iterable[str], wanted: str = "", limit: int = 8) -> str:
    """The first names as a list in a sentence, those nearest to `wanted` first."""

    def distance(name: str) -> float:
        return -SequenceMatcher(None, name.lower(), wanted.lower()).ratio() if wanted else 0.0

    ordered = sorted(sorted(names), key=distance)
    return ", ".join(ordered[:limit]) + (", ..." if len(ordered) > limit else "")


def _ends_with(file: BinaryIO, end: bytes) -> bool:
    file.seek(max(file.seek(0, os.SEEK_END) - len(end), 0))
    return file.read() == end
