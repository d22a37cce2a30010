"""Read one FASTA file as a stream: plain, gzip or bgzip; check every letter, find the records. Runs on the workers, without Ray.

The file is read once, a few MiB at a time. Clean letters (upper case, no line ends) go to a sink, one byte a base, so that a
later stage reads any stretch of any record by one seek, whatever the line widths and the compression of the original.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, NamedTuple, NoReturn

import numpy as np

from ..dna import ALPHABETS, SequenceType
from ..errors import DataError
from .storage import Location, open_binary, size

CHUNK_BYTES = 1 << 20
BGZF_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
"""The empty block that ends every whole bgzip file."""
BLANK = b" \t\r\n\v\f"
HEADER, NEWLINE = b">\n"
DIGEST_BYTES = 16
LETTERS: dict[str, bytes] = {
    "dna": b"ACGTUNRYSWKMBDHV",
    "rna": b"ACGTUNRYSWKMBDHV",
    "protein": b"ABCDEFGHIJKLMNOPQRSTUVWXYZ*",
}
"""What a sequence may hold, in either case: the alphabet, U and T alike, and the ambiguity codes."""


class Record(NamedTuple):
    """One FASTA record; `offset` is where its bases begin in the sink."""

    name: str
    offset: int
    length: int
    digest: bytes
    """16 bytes, of the clean letters."""


class Contents(NamedTuple):
    """What a file holds: its records in order, and its lower-case (soft-masked) stretches [K, 2], in bases of the sink."""

    records: list[Record]
    lower_case: np.ndarray


class Piece(NamedTuple):
    """A whole header line, or some bytes of the lines below it; `offset` is where it begins in the uncompressed file."""

    is_header: bool
    offset: int
    text: bytes


def unambiguous(sequence_type: SequenceType) -> bytes:
    """The upper-case letters that stand for exactly one base or residue."""
    return ALPHABETS[sequence_type] if sequence_type == "protein" else b"ACGTU"


def read_fasta(path: Location, sequence_type: SequenceType, sink: BinaryIO | None = None, *, find_lower_case: bool = False) -> Contents:
    """The records of a file, their clean letters written to `sink`, and its lower-case stretches if they are asked for.

    Raises DataError, with file, record and line, when the file is empty, cut short or not FASTA, when a letter is none of the
    sequence type's, and when two records share a name.
    """
    upper = _upper_table(sequence_type)
    records: list[Record] = []
    offsets: dict[str, int] = {}
    lower_case = [np.empty((0, 2), np.int64)]
    name, begin, written, digest = "", 0, 0, hashlib.sha256()
    for piece in _pieces(path):
        if piece.is_header:
            if name:
                records.append(Record(name, begin, written - begin, digest.digest()[:DIGEST_BYTES]))
            name, begin, digest = _name(path, piece), written, hashlib.sha256()
            _refuse_repeated_name(path, name, offsets, piece)
            continue
        letters = piece.text.translate(upper, BLANK)
        if b"\0" in letters:
            _refuse_letter(path, name, piece, upper, sequence_type)
        if find_lower_case:
            lower_case.append(written + _lower_case(piece.text))
        digest.update(letters)
        written += len(letters)
        if sink:
            sink.write(letters)
    records.append(Record(name, begin, written - begin, digest.digest()[:DIGEST_BYTES]))
    return Contents(records, np.concatenate(lower_case))


def _lower_case(text: bytes) -> np.ndarray:
    """First base and end of each lower-case stretch of some lines [K, 2]; one that goes on behind them comes in parts."""
    is_lower = np.frombuffer(text.translate(None, BLANK), np.uint8) & 0x20
    turns = np.flatnonzero(np.diff(is_lower, prepend=0, append=0))
    return turns.reshape(-1, 2)


def _upper_table(sequence_type: SequenceType) -> bytes:
    """256 bytes: letters of the type to upper case, all else to 0."""
    allowed = LETTERS[sequence_type]
    return bytes(letter if letter in allowed else 0 for letter in bytes(range(256)).upper())


def _pieces(path: Location) -> Iterator[Piece]:
    """Cut a file into headers and what stands below them; DataError if it does not start like FASTA."""
    read, held, at_line_start, begun = 0, b"", True, False
    for chunk in _chunks(path):
        chunk, held, first = held + chunk, b"", read - len(held)
        read = first + len(chunk)
        start = 0
        if not begun:
            start = len(chunk) - len(chunk.lstrip())
            begun = start < len(chunk)
            _refuse_other_formats(path, chunk[start:], first + start)
        while start < len(chunk):
            is_header = at_line_start and chunk[start] == HEADER
            end = chunk.find(b"\n", start) + 1 if is_header else _next_header(chunk, start)
            if not end:
                held = chunk[start:]
                break
            yield Piece(is_header, first + start, chunk[start:end])
            at_line_start, start = chunk[end - 1] == NEWLINE, end
    if held:
        yield Piece(True, read - len(held), held)
    if not begun:
        raise DataError(f"{path}: is empty; remove it from preprocessing.input_path or put FASTA into it")


def _next_header(chunk: bytes, start: int) -> int:
    """Where the next line behind `start` that begins with '>' does; the end of the chunk if none does."""
    at = chunk.find(b">", start + 1)
    while at > 0 and chunk[at - 1] != NEWLINE:
        at = chunk.find(b">", at + 1)
    return at if at > 0 else len(chunk)


def _chunks(path: Location) -> Iterator[bytes]:
    """The uncompressed bytes of a file; DataError when a compressed one is cut short or damaged."""
    with open_binary(path) as file:
        start = file.read(18)
        file.seek(0)
        if start[:2] != b"\x1f\x8b":
            yield from iter(lambda: file.read(CHUNK_BYTES), b"")
            return
        with _gzip_errors(path), gzip.open(file) as unpacked:
            yield from iter(lambda: unpacked.read(CHUNK_BYTES), b"")
        is_bgzip = start[3] & 4 and start[12:14] == b"BC"
        if is_bgzip and not _ends_with(file, BGZF_END):
            raise DataError(f"{path}: bgzip file is cut short (the empty block that ends it is missing); copy it again from its source")


@contextmanager
def _gzip_errors(path: Location) -> Iterator[None]:
    try:
        yield
    except EOFError as error:
        raise DataError(f"{path}: gzip file is cut short ({size(path):,} bytes); copy it again from its source") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: gzip file is damaged ({error}); copy it again from its source") from error


def _ends_with(file: BinaryIO, end: bytes) -> bool:
    file.seek(-len(end), 2)
    return file.read() == end


def _line_at(path: Location, offset: int) -> int:
    """The line, from 1, of a byte of the uncompressed file; for messages alone, so that reading need not count lines."""
    line, left = 1, offset
    for chunk in _chunks(path):
        line, left = line + chunk[:left].count(b"\n"), left - len(chunk)
        if left <= 0:
            break
    return line


def _refuse_other_formats(path: Location, start: bytes, offset: int) -> None:
    """DataError unless the first line that is not blank begins a record."""
    if start and not start.startswith(b">"):
        kind = " (this looks like FASTQ)" if start.startswith(b"@") else " (this looks like GenBank)" if start.startswith(b"LOCUS") else ""
        shown = start.split(b"\n", 1)[0][:40]
        found = f"line {_line_at(path, offset)} is {shown!r}{kind}"
        raise DataError(f"{path}: is not FASTA: {found}, a record starts with '>'; convert the file or leave it out")


def _name(path: Location, header: Piece) -> str:
    """The first word of a header line."""
    words = header.text[1:].split(maxsplit=1)
    if not words:
        raise DataError(f"{path}, line {_line_at(path, header.offset)}: the record has no name; write one behind '>'")
    return words[0].decode("utf-8", errors="backslashreplace")


def _refuse_letter(path: Location, name: str, piece: Piece, upper: bytes, sequence_type: SequenceType) -> NoReturn:
    """DataError that names the first letter that does not belong."""
    at = next(i for i, letter in enumerate(piece.text) if not upper[letter] and letter not in BLANK)
    letter = piece.text[at : at + 1]
    if letter == b">":
        problem = "'>' stands inside a line, so two records are glued together; put a line break before it"
    elif letter in b"-.":
        problem = f"{letter.decode()!r} is a gap of an alignment; remove the gaps"
    elif letter.upper() in LETTERS["protein"]:
        problem = f"{letter.decode()!r} is not a letter of {sequence_type}; correct it, or set preprocessing.sequence_type to protein"
    else:
        problem = f"{letter!r} is not a letter of {sequence_type}; correct the file or leave it out"
    raise DataError(f"{path}, record {name!r}, line {_line_at(path, piece.offset + at)}: {problem}")


def _refuse_repeated_name(path: Location, name: str, offsets: dict[str, int], header: Piece) -> None:
    """DataError if a record before has this name; `offsets` is where each record begins."""
    if name in offsets:
        first, line = _line_at(path, offsets[name]), _line_at(path, header.offset)
        raise DataError(f"{path}, line {line}: a record on line {first} is named {name!r} too; rename one of them")
    offsets[name] = header.offset
