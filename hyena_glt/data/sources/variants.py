"""The sites of a VCF or BCF file by htslib: its samples, its contigs, a region as a stream, a copy with a field more. Without Ray."""

from __future__ import annotations

import gzip
import math
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import BinaryIO, NamedTuple, NoReturn

from ...errors import DataError
from .haplotypes import Region, near_contigs
from .lines import listed, unpacked

try:
    import pysam
except ImportError as error:
    raise DataError("VCF and BCF files need pysam; pip install 'hyena-glt[sources]'") from error


class Site(NamedTuple):
    """One record: what stands at a position of the contig, and in each sample."""

    number: int
    """Of the record, from 1, in the order of reading."""
    start: int
    """0-based first base of REF."""
    ref: str
    alts: tuple[str, ...]
    genotypes: list[str]
    """As written, such as `0|1`, a sample each; empty where the record has none."""


def sample_names(path: Path) -> tuple[str, ...]:
    """The samples of a file in its order; none in one that holds sites only. DataError if the header cannot be read."""
    with _opened(path) as reader:
        return tuple(reader.header.samples)


def contigs(path: Path) -> tuple[str, ...]:
    """The contigs that have variants, in the order of the file; all of it is read unless it has an index."""
    with _opened(path, drop_samples=True) as reader:
        if indexed := _indexed_contigs(path, reader):
            return indexed
        found: dict[str, None] = {}
        number = 1
        try:
            for record in reader:
                found[record.contig] = None
                number += 1
        except (OSError, ValueError) as error:
            _refuse_record(path, number, error)
        return tuple(found)


def has_index(path: Path) -> bool:
    """Whether an index lies beside the file that is not older than it."""
    indexes = [path.with_name(path.name + suffix) for suffix in (".csi", ".tbi")]
    return any(index.exists() and index.stat().st_mtime >= path.stat().st_mtime for index in indexes)


def _indexed_contigs(path: Path, reader: pysam.VariantFile) -> tuple[str, ...]:
    """Those in the index; none where there is no index, or an older one, or one that cannot be read."""
    with suppress(ValueError):
        return tuple(reader.index or ()) if has_index(path) else ()
    return ()


def read_sites(path: Path, region: Region, samples: Sequence[str], *, by_index: bool) -> Iterator[Site]:
    """The sites whose REF shares a base with the region, in the file's order, with the genotypes of `samples` in the order given.

    DataError, with the line, for a record that htslib cannot read and for one that is out of order; `by_index` finds the region
    faster, and then knows no line. DataError too for a sample or contig that the file does not have.
    """
    with _opened(path) as reader:
        order = _subset(path, reader, samples)
        is_indexed = by_index and region.contig in _indexed_contigs(path, reader)
        records = reader.fetch(region.contig, region.start, region.end) if is_indexed else reader
        number, before = 1, 0
        try:
            for record in records:
                if record.contig == region.contig:
                    if record.pos < before:
                        raise located(path, number, f"position {record.pos} stands behind {before}; sort the file (bcftools sort)")
                    before = record.pos
                    if (region.end is None or record.start < region.end) and record.start + len(record.ref) > region.start:
                        yield Site(number, record.start, record.ref.upper(), record.alts or (), _genotypes(path, number, record, order))
                number += 1
        except (OSError, ValueError) as error:
            _refuse_record(path, number, error)
        if region.contig not in reader.header.contigs:
            near = near_contigs(region.contig, list(reader.header.contigs))
            raise DataError(f"{path}: has no contig {region.contig!r}; it has {near}; name one of these, or another file")


def annotate(path: Path, copy: Path, field: str, description: str, values: Mapping[str, Iterator[float]]) -> None:
    """Write a bgzipped VCF of the same records, with a number for each alternative allele in INFO.

    values: contig -> the numbers of its alleles in the file's order; NaN is written as missing.
    """
    with _opened(path) as reader:
        for _ in reader:  # htslib adds to the header what the file uses and does not declare, such as contigs
            pass
        if field not in reader.header.info:
            reader.header.info.add(field, "A", "Float", description)
        header = str(reader.header)
    with _opened(path) as reader, pysam.BGZFile(str(copy), "wb") as writer:
        writer.write(header.encode())
        for record in reader:
            is_read = record.start + len(record.ref) > 0  # not a telomere's, at position 0, which `read_sites` leaves out
            found = [next(values[record.contig]) for _ in (record.alts or () if is_read else ())]
            writer.write((_with_info(str(record), field, found) if found else str(record)).encode())


def _with_info(line: str, field: str, values: Sequence[float]) -> str:
    """A record with INFO `field`, in the place of that which it had.

    As text, because htslib ends the process where a record that uses what its file does not declare is to be written.
    """
    columns = line.rstrip("\n").split("\t")
    kept = [item for item in columns[7].split(";") if item != "." and item.partition("=")[0] != field]
    mine = f"{field}={','.join('.' if math.isnan(value) else f'{value:g}' for value in values)}"
    return "\t".join([*columns[:7], ";".join([*kept, mine]), *columns[8:]]) + "\n"


def _subset(path: Path, reader: pysam.VariantFile, samples: Sequence[str]) -> list[int]:
    """Let htslib skip the other samples; the column of each of `samples` among those that stay."""
    names = list(reader.header.samples)
    for name in samples:
        if name not in names:
            near = listed(names, name) or "none"
            raise DataError(f"{path}: has no sample {name!r}; it has {near}; correct the name, or use another file")
    if not any("," in name or name.startswith("^") for name in samples):  # which mean something else in htslib's list of samples
        reader.subset_samples(samples)
    columns = {name: column for column, name in enumerate(reader.header.samples)}
    return [columns[name] for name in samples]


def _genotypes(path: Path, number: int, record: pysam.VariantRecord, order: list[int]) -> list[str]:
    """The text of GT. It comes from the whole record as htslib writes it, ten times faster than from pysam's object of each sample."""
    columns = str(record).rstrip("\n").split("\t")[8:]
    keys = columns[0].split(":") if columns else []
    if "GT" not in keys or not order:
        return []
    if keys[0] != "GT":
        raise located(path, number, f"FORMAT is {columns[0]}, and GT must come first (VCF specification, 1.6.2); move it there")
    calls = columns[1:] if len(keys) == 1 else [column.partition(":")[0] for column in columns[1:]]
    return [calls[column] for column in order]


@contextmanager
def _opened(path: Path, *, drop_samples: bool = False) -> Iterator[pysam.VariantFile]:
    """A reader behind the header; htslib, which would write to stderr, is silent meanwhile."""
    verbosity = pysam.set_verbosity(0)
    try:
        with _source(path) as source:
            reader = _open(path, source, drop_samples)
            try:
                yield reader
            finally:
                with suppress(OSError):  # closing repeats the error of a damaged file
                    reader.close()
    finally:
        pysam.set_verbosity(verbosity)


def _open(path: Path, source: str, drop_samples: bool) -> pysam.VariantFile:
    try:
        reader = pysam.VariantFile(source, drop_samples=drop_samples)
        list(reader.header.samples), list(reader.header.contigs)  # decoded only now
        return reader
    except (OSError, ValueError, NotImplementedError, AssertionError) as error:  # pysam has no one way to say it
        line, text = _header_fault(path)
        raise DataError(
            f"{path}, line {line}: htslib cannot read the header, which here has {text[:60]!r}; VCF begins with '##fileformat=VCFv4.2', "
            "and '#CHROM', with each sample once and tabs between the columns, is the header's last line"
        ) from error


def _header_fault(path: Path) -> tuple[int, bytes]:
    """The line, and its text, with which a header goes wrong: the first or the last, for htslib skips what it does not know between."""
    with suppress(DataError), unpacked(path) as lines:
        for line, text in enumerate(lines, 1):
            if not text.startswith(b"##" if line > 1 else b"##fileformat=VCF"):
                return line, text.rstrip()
    return 1, b""


@contextmanager
def _source(path: Path) -> Iterator[str]:
    """What pysam opens: the file, or, for plain gzip, in which pysam cannot seek, a pipe that a thread fills."""
    with unpacked(path) as file:
        if not isinstance(file, gzip.GzipFile) or _is_bgzip(path):
            yield str(path)
            return
        out, into = os.pipe()
        failures: list[Exception] = []
        thread = Thread(target=_pour, args=(file, into, failures), daemon=True)
        thread.start()
        try:
            yield f"/dev/fd/{out}"
        finally:
            os.close(out)
            thread.join()
            if failures:  # the cause of whatever htslib found wrong
                raise failures[0]


def _pour(file: BinaryIO, into: int, failures: list[Exception]) -> None:
    """Unpack a file into a pipe until either ends."""
    try:
        with suppress(BrokenPipeError), open(into, "wb") as pipe:
            shutil.copyfileobj(file, pipe, 1 << 20)
    except (OSError, EOFError, zlib.error) as error:
        failures.append(error)


def _is_bgzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(14)[12:] == b"BC"


def located(path: Path, number: int, problem: str) -> DataError:
    """The error that says what is wrong with record `number`, with its line."""
    return DataError(f"{path}, {_place(path, number)[0]}: {problem}")


def _refuse_record(path: Path, number: int, error: Exception) -> NoReturn:
    place, text = _place(path, number)
    shown = f", which begins {text[:60]!r}" if text else ""
    message = f"{path}, {place}: htslib cannot read it ({error}){shown}; correct it, or copy the file again from its source"
    raise DataError(message) from error


def _place(path: Path, number: int) -> tuple[str, bytes]:
    """Where record `number` stands, counted only now that somebody asks, and its text; a BCF file has no lines."""
    header = 0
    with suppress(DataError), unpacked(path) as lines:
        for line, text in enumerate(lines, 1):
            if text.startswith(b"#") and header == line - 1:
                header = line
            elif line == header + number or not header:
                break
    return (f"line {line}", text.rstrip()) if header else (f"record {number}", b"")
