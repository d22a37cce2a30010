"""Read one FASTA file as a stream: plain, gzip or bgzip; check every letter, find the records. Runs on the workers, without Ray.

The file is read once, a piece at a time. Clean letters (upper case, no line ends) go to a sink, one byte a base, so that a
later stage reads any stretch of any record by one seek, whatever the line widths and the compression of the original.

Why no library reads here: pysam's FastxFile and Biopython hold a record whole (180 and 242 MiB for 63 Mb, this file 1) and begin at the
start, where here one record is many tasks; with every letter looked at they take 5 and 8 times as long, from gzip 1.8 and 3 times
(tests/benchmarks/results/fasta_readers.md). FastxFile skips what stands before the first record, ends a record at a NUL, keeps a '>' inside
a line and reads FASTQ into the bargain, all without a word and without a line number; faidx (pysam, pyfaidx) wants lines of equal length,
an index beside the file and no plain gzip.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple, NoReturn

import numpy as np

from ..dna import ALPHABETS, SequenceType
from ..errors import DataError
from .storage import Location, open_binary, size

CHUNK_BYTES = 1 << 18
"""Read at once: what stands in the processor's cache, and in memory that the process has already, which is a third faster than 1 MiB."""
GZIP = b"\x1f\x8b"
BGZF_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
"""The empty block that ends every whole bgzip file."""
MAX_HEADER_BYTES = 16 << 20
BLANK = b" \t\r\n\v\f"
HEADER, NEWLINE = b">\n"
LETTERS: dict[str, bytes] = {
    "dna": b"ACGTUNRYSWKMBDHV",
    "rna": b"ACGTUNRYSWKMBDHV",
    "protein": b"ABCDEFGHIJKLMNOPQRSTUVWXYZ*",
}
"""What a sequence may hold, in either case: the alphabet, U and T alike, and the ambiguity codes."""


class Span(NamedTuple):
    """The lines of a plain file that begin in a range of its bytes."""

    start: int
    end: int


class Record(NamedTuple):
    """One FASTA record, or what a span has of it; `offset` is where its bases begin in the sink."""

    name: str
    """Empty for the bases in front of a span's first header: they belong to the record before."""
    offset: int
    length: int
    header: int
    """Where its header begins, in bytes of the uncompressed file."""


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


def read_fasta(
    path: Location, sequence_type: SequenceType, sink: BinaryIO | None = None, *, span: Span | None = None, find_lower_case: bool = False
) -> Contents:
    """The records of a file, or of a span of it, their clean letters written to `sink`, and the lower-case stretches if asked for.

    Raises DataError, with file, record and line, when the file is empty, cut short or not FASTA, and when a letter is none of the
    sequence type's.
    """
    upper = _upper_table(sequence_type)
    records: list[Record] = []
    lower_case = [np.empty((0, 2), np.int64)]
    name, begin, header, written = "", 0, 0, 0
    for piece in _pieces(path, span):
        if piece.is_header:
            if name or written:
                records.append(Record(name, begin, written - begin, header))
            name, begin, header = _name(path, piece), written, piece.offset
            continue
        letters = piece.text.translate(upper, BLANK)
        if b"\0" in letters:
            _refuse_letter(path, name, piece, upper, sequence_type)
        if find_lower_case:
            lower_case.append(written + _lower_case(piece.text))
        written += len(letters)
        if sink:
            sink.write(letters)
    if name or written:
        records.append(Record(name, begin, written - begin, header))
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


def _pieces(path: Location, span: Span | None) -> Iterator[Piece]:
    """Cut a file into headers and what stands below them; DataError if it does not start like FASTA."""
    held, at_line_start, begun = b"", True, span is not None and span.start > 0
    behind = 0
    for offset, chunk in _span_chunks(path, span) if span else _numbered(_chunks(path)):
        chunk, held, first = held + chunk, b"", offset - len(held)
        start, behind = 0, first + len(chunk)
        if not begun:
            start = len(chunk) - len(chunk.lstrip())
            begun = start < len(chunk)
            _refuse_other_formats(path, chunk[start:], first + start)
        while start < len(chunk):
            is_header = at_line_start and chunk[start] == HEADER
            end = chunk.find(b"\n", start) + 1 if is_header else _next_header(chunk, start)
            if not end:
                held = chunk[start:]
                if len(held) > MAX_HEADER_BYTES:
                    raise DataError(f"{path}, line {_line_at(path, first + start)}: a header without an end; this is not FASTA")
                break
            yield Piece(is_header, first + start, chunk[start:end])
            at_line_start, start = chunk[end - 1] == NEWLINE, end
    if held:
        yield Piece(True, behind - len(held), held)
    if not begun:
        raise DataError(f"{path}: is empty; remove it from preprocessing.input_path or put FASTA into it")


def _numbered(chunks: Iterator[bytes]) -> Iterator[tuple[int, bytes]]:
    """Each chunk with the offset at which it begins."""
    offset = 0
    for chunk in chunks:
        yield offset, chunk
        offset += len(chunk)


def _span_chunks(path: Path, span: Span) -> Iterator[tuple[int, bytes]]:
    """(offset, bytes) of the lines that begin in a span of a plain file; a line may be as long as the file."""
    with path.open("rb") as file:
        file.seek(max(span.start - 1, 0))
        while span.start and not file.readline(CHUNK_BYTES).endswith(b"\n"):  # the line that began before the span
            if file.tell() >= span.end:
                return
        chunk = b"\n"
        while (place := file.tell()) < span.end and (chunk := file.read(min(CHUNK_BYTES, span.end - place))):
            yield place, chunk
        while not chunk.endswith(b"\n") and (chunk := file.readline(CHUNK_BYTES)):  # the last line ends behind the span
            yield file.tell() - len(chunk), chunk


def _next_header(chunk: bytes, start: int) -> int:
    """Where the next line behind `start` that begins with '>' does; the end of the chunk if none does."""
    at = chunk.find(b">", start + 1)
    while at > 0 and chunk[at - 1] != NEWLINE:
        at = chunk.find(b">", at + 1)
    return at if at > 0 else len(chunk)


def is_compressed(path: Path) -> bool:
    """Whether a local file begins as gzip and bgzip files do."""
    with path.open("rb") as file:
        return file.read(2) == GZIP


def _chunks(path: Location) -> Iterator[bytes]:
    """The uncompressed bytes of a file; DataError when a compressed one is cut short or damaged."""
    with open_binary(path) as file:
        start = file.read(18)
        file.seek(0)
        if start[:2] != GZIP:
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
    if b"\r" in header.text.rstrip(b"\r\n"):
        raise DataError(
            f"{path}, line {_line_at(path, header.offset)}: a carriage return stands inside the header, and what follows would be lost "
            f"with it; convert the line ends (tr '\\r' '\\n')"
        )
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


def refuse_repeated_names(path: Location, records: Sequence[Record]) -> None:
    """DataError if two records of a file share a name."""
    headers: dict[str, int] = {}
    for record in records:
        if record.name in headers:
            first, line = _line_at(path, headers[record.name]), _line_at(path, record.header)
            raise DataError(f"{path}, line {line}: a record on line {first} is named {record.name!r} too; rename one of them")
        headers[record.name] = record.header
