"""Read which GO terms a protein has out of a GAF file (Gene Association File, plain or gzip), through Biopython.

Format: geneontology.org/docs/go-annotation-file-gaf-format-2.2. Terms are those annotated; the ontology's more general terms
above them are not added.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Literal

from ...errors import DataError
from ..storage import Location
from .lines import listed, numbered_lines

try:
    from Bio.UniProt.GOA import gafiterator
except ImportError as error:
    raise DataError("GAF files need Biopython; pip install 'hyena-glt[sources]'") from error

Aspect = Literal["P", "F", "C"]
"""Biological process, molecular function, cellular component."""

EVIDENCE_CODES = tuple("EXP IDA IPI IMP IGI IEP HTP HDA HMP HGI HEP IBA IBD IKR IRD IMR ISS ISO ISA ISM IGC RCA TAS NAS IC ND IEA".split())
"""Why a term was given (geneontology.org/docs/guide-go-evidence-codes); IEA is by computer, without review; ND is no data."""
MIN_COLUMNS = 15
"""Columns of GAF 1.0; the later versions add two at the end."""
_FIELDS = {
    "DB_Object_ID": re.compile(r"\S+"),
    "GO_ID": re.compile(r"GO:[0-9]{7}"),
    "Evidence": re.compile(r"[A-Z]{2,3}"),
    "Aspect": re.compile(r"[PFC]"),
}
"""What the columns that are read must look like."""


def read_go_terms(
    path: Location, *, aspects: tuple[Aspect, ...] = ("P", "F", "C"), exclude_evidence: tuple[str, ...] = ()
) -> dict[str, tuple[str, ...]]:
    """Accession -> its GO terms, distinct and sorted.

    A term with the qualifier NOT, which the protein was shown not to have, is left out. `exclude_evidence` holds evidence
    codes. DataError with file and line for what cannot be read; also for an unknown code and if no term is left.
    """
    for code in exclude_evidence:
        if code not in EVIDENCE_CODES:
            known = listed(EVIDENCE_CODES, code, limit=30)
            raise DataError(f"preprocessing.go_terms.exclude_evidence: {code!r} is no evidence code; there are {known}")
    terms: defaultdict[str, set[str]] = defaultdict(set)
    for fields in _annotations(path):
        is_negative = "NOT" in fields["Qualifier"]
        if fields["Aspect"] in aspects and fields["Evidence"] not in exclude_evidence and not is_negative:
            terms[fields["DB_Object_ID"]].add(fields["GO_ID"])
    if not terms:
        without = f" without evidence {', '.join(exclude_evidence)}" if exclude_evidence else ""
        raise DataError(f"{path}: no protein has a GO term of aspect {', '.join(aspects)}{without}; ask for more, or take another file")
    return {accession: tuple(sorted(found)) for accession, found in sorted(terms.items())}


def accession(record: str) -> str:
    """The accession in a FASTA record's name: P12345 of `sp|P12345|NAME_HUMAN`, of `P12345` and of its isoform `P12345-2`."""
    parts = record.split("|")
    return re.sub(r"-[0-9]+$", "", parts[1] if len(parts) > 1 else record)


def match_proteins(terms: dict[str, tuple[str, ...]], records: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Record name -> its GO terms, for the records that have some; DataError if none has."""
    records = list(records)
    matched = {record: terms[accession(record)] for record in records if accession(record) in terms}
    if not matched:
        raise DataError(
            f"no protein with GO terms ({listed(terms, limit=3)}) is a record ({listed(records, limit=3)}); "
            "records must be named by UniProt accession, such as sp|P12345|NAME"
        )
    return matched


def _annotations(path: Location) -> Iterator[dict]:
    """The checked lines of a file, a dict of columns each, as Biopython names them."""
    lines = _Lines(path)
    try:
        for fields in gafiterator(lines):
            for name, wanted in _FIELDS.items():
                if not wanted.fullmatch(fields[name]):
                    raise ValueError(f"{name} is {fields[name][:40]!r}")
            yield fields
    except ValueError as error:
        raise DataError(f"{path}, line {lines.number}: {str(error).strip()}; correct the line or leave it out") from error


class _Lines:
    """A file as Biopython reads it, that knows its line and refuses those that Biopython would skip or stumble over."""

    def __init__(self, path: Location) -> None:
        self.number = 0
        self._lines = numbered_lines(path)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self.number, line = next(self._lines)
        if not line.strip():
            return "\n"
        columns = line.count("\t") + 1
        if not line.startswith("!") and columns < MIN_COLUMNS:
            raise ValueError(f"{columns} tab-separated columns, wanted {MIN_COLUMNS} or more")
        return line.strip(" ") + "\n"

    def readline(self) -> str:
        return next(self, "")
