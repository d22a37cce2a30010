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
from pathlib import Path
from typing import BinaryIO, NamedTuple, NoReturn

from ..dna import ALPHABETS, SequenceType
from ..errors import DataError

CHUNK_BYTES = 1 << 22
BGZF_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
"""The empty block that ends every whole bgzip file."""
BLANK = b" \t\r\n\v\f"
LETTERS: dict[str, bytes] = {
    "dna": b"ACGTUNRYSWKMBDHV",
    "rna": b"ACGTUNRYSWKMBDHV",
    "protein": b"ABCDEFGHIJKLMNOPQRSTUVWXYZ*",
}
"""What a sequence may hold, in either case: the alphabet, U and T alike, and the ambiguity codes."""


class Record(NamedTuple):
    """One FASTA record; `offset` is where its bases begin in the sink."""

    name: str
    line: int
    offset: int
    length: int
    digest: bytes
    """16 bytes, BLAKE2b of the clean letters."""


class Piece(NamedTuple):
    """A whole header line, or some bytes of the lines below it; `line` is where the piece starts, from 1."""

    is_header: bool
    line: int
    text: bytes


def unambiguous(sequence_type: SequenceType) -> bytes:
    """The upper-case letters that stand for exactly one base or residue."""
    return ALPHABETS[sequence_type] if sequence_type == "protein" else b"ACGTU"


def read_fasta(path: Path, sequence_type: SequenceType, sink: BinaryIO | None = None) -> list[Record]:
    """The records of a file in order, their clean letters written to `sink`.

    Raises DataError, with file, record and line, when the file is empty, cut short or not FASTA, when a letter is none of the
    sequence type's, and when two records share a name.
    """
    upper = _upper_table(sequence_type)
    records: list[Record] = []
    name, start, offset, written, digest = "", 1, 0, 0, hashlib.blake2b(digest_size=16)
    for piece in _pieces(path):
        if piece.is_header:
            if name:
                records.append(Record(name, start, offset, written - offset, digest.digest()))
            name, start, offset, digest = _name(path, piece), piece.line, written, hashlib.blake2b(digest_size=16)
            continue
        letters = piece.text.translate(upper, BLANK)
        if b"\0" in letters:
            _refuse_letter(path, name, piece, upper, sequence_type)
        digest.update(letters)
        written += len(letters)
        if sink:
            sink.write(letters)
    records.append(Record(name, start, offset, written - offset, digest.digest()))
    _refuse_repeated_names(path, records)
    return records


def _upper_table(sequence_type: SequenceType) -> bytes:
    """256 bytes: letters of the type to upper case, all else to 0."""
    allowed = LETTERS[sequence_type]
    return bytes(letter if letter in allowed else 0 for letter in bytes(range(256)).upper())


def _pieces(path: Path) -> Iterator[Piece]:
    """Cut a file into headers and what stands below them; DataError if it does not start like FASTA."""
    line, at_line_start, held, begun = 1, True, b"", False
    for chunk in _chunks(path):
        chunk, held = held + chunk, b""
        if not begun:
            line += chunk[: len(chunk) - len(chunk.lstrip())].count(b"\n")
            chunk = chunk.lstrip()
            begun = bool(chunk)
            _refuse_other_formats(path, chunk, line)
        while chunk:
            is_header = at_line_start and chunk.startswith(b">")
            end = chunk.find(b"\n" if is_header else b"\n>") + 1
            if is_header and not end:
                held = chunk
                break
            text, chunk = (chunk[:end], chunk[end:]) if end else (chunk, b"")
            yield Piece(is_header, line, text)
            line += text.count(b"\n")
            at_line_start = text.endswith(b"\n")
    if held:
        yield Piece(True, line, held)
    if not begun:
        raise DataError(f"{path}: is empty; remove it from preprocessing.input_path or put FASTA into it")


def _chunks(path: Path) -> Iterator[bytes]:
    """The uncompressed bytes of a file; DataError when a compressed one is cut short or damaged."""
    with path.open("rb") as file:
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
def _gzip_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except EOFError as error:
        raise DataError(f"{path}: gzip file is cut short ({path.stat().st_size:,} bytes); copy it again from its source") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: gzip file is damaged ({error}); copy it again from its source") from error


def _ends_with(file: BinaryIO, end: bytes) -> bool:
    file.seek(-len(end), 2)
    return file.read() == end


def _refuse_other_formats(path: Path, start: bytes, line: int) -> None:
    """DataError unless the first line that is not blank begins a record."""
    if start and not start.startswith(b">"):
        kind = " (this looks like FASTQ)" if start.startswith(b"@") else " (this looks like GenBank)" if start.startswith(b"LOCUS") else ""
        shown = start.split(b"\n", 1)[0][:40]
        raise DataError(f"{path}: is not FASTA: line {line} is {shown!r}{kind}, a record starts with '>'; convert the file or leave it out")


def _name(path: Path, header: Piece) -> str:
    """The first word of a header line."""
    words = header.text[1:].split(maxsplit=1)
    if not words:
        raise DataError(f"{path}, line {header.line}: the record has no name; write one behind '>'")
    return words[0].decode("utf-8", errors="backslashreplace")


def _refuse_letter(path: Path, name: str, piece: Piece, upper: bytes, sequence_type: SequenceType) -> NoReturn:
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
    line = piece.line + piece.text.count(b"\n", 0, at)
    raise DataError(f"{path}, record {name!r}, line {line}: {problem}")


def _refuse_repeated_names(path: Path, records: list[Record]) -> None:
    lines: dict[str, int] = {}
    for record in records:
        first = lines.setdefault(record.name, record.line)
        if first != record.line:
            raise DataError(f"{path}, line {record.line}: a record on line {first} is named {record.name!r} too; rename one of them")
