"""Reading FASTA: every container and line layout gives the same records, and every kind of bad file its own sentence."""

from __future__ import annotations

import gzip
import io
import re
import struct
import zlib
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyena_glt.data import fasta
from hyena_glt.data.fasta import BGZF_END, Span, read_fasta, refuse_repeated_names
from hyena_glt.errors import DataError

GENOMES = Path(__file__).parents[2] / "pipelines" / "genomes"


def bgzip(content: bytes, block: int = 60_000) -> bytes:
    """Blocks of BGZF (SAM specification, 4.1), ended by the empty one."""
    packed = b""
    for i in range(0, len(content), block):
        part = content[i : i + block]
        squeezer = zlib.compressobj(wbits=-15)
        body = squeezer.compress(part) + squeezer.flush()
        header = b"\x1f\x8b\x08\x04" + bytes(5) + b"\xff\x06\x00BC\x02\x00" + struct.pack("<H", len(body) + 25)
        packed += header + body + struct.pack("<II", zlib.crc32(part), len(part))
    return packed + BGZF_END


def read(path: Path, kind: str = "dna") -> list[tuple[str, bytes]]:
    """(name, clean letters) of every record, through the sink."""
    sink = io.BytesIO()
    records = read_fasta(path, kind, sink).records
    return [(record.name, sink.getvalue()[record.offset : record.offset + record.length]) for record in records]


def refused(path: Path, content: bytes, kind: str = "dna") -> str:
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        refuse_repeated_names(path, read_fasta(path, kind).records)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("chunk", [1, 7, 1000, 1 << 22])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, bgzip], ids=["plain", "gzip", "bgzip"])
def test_a_real_genome_reads_the_same_from_every_container(tmp_path, monkeypatch, pack, chunk):
    content = (GENOMES / "phix174.fa").read_bytes()
    path = tmp_path / "phix.fa"
    path.write_bytes(pack(content))
    monkeypatch.setattr(fasta, "CHUNK_BYTES", chunk)
    header, *lines = content.decode().split("\n")
    assert read(path) == [(header[1:].split()[0], "".join(lines).upper().encode())]


@pytest.mark.parametrize(
    "content, wanted",
    [
        (b">a\nACGT\n", [("a", b"ACGT")]),
        (b">a\nACGT", [("a", b"ACGT")]),
        (b"\n \n>a\nac\n\nGt\n\n\n", [("a", b"ACGT")]),
        (b">a some words\r\nAC\r\nGT\r\n>b\r\nN\r\n", [("a", b"ACGT"), ("b", b"N")]),
        (b">a\nA C\tG\nTTTTTTTT\nA\n", [("a", b"ACGTTTTTTTTA")]),
        (b">a\n>b\nAC\n>c", [("a", b""), ("b", b"AC"), ("c", b"")]),
        (b">gi|1|ref|NC_1.2| phage\nRYSWKMBDHVNryswkmbdhvnU\n", [("gi|1|ref|NC_1.2|", b"RYSWKMBDHVNRYSWKMBDHVNU")]),
    ],
)
@pytest.mark.parametrize("chunk", [1, 3, 1 << 22])
def test_line_layouts(tmp_path, monkeypatch, content, wanted, chunk):
    (tmp_path / "x.fa").write_bytes(content)
    monkeypatch.setattr(fasta, "CHUNK_BYTES", chunk)
    assert read(tmp_path / "x.fa") == wanted


def test_layout_and_case_leave_no_trace_but_lower_case_is_known(tmp_path):
    (tmp_path / "x.fa").write_bytes(b">a\nACGTAC\n>b\nac\ngtAC\n>c\nACGTAg\n")
    assert read(tmp_path / "x.fa") == [("a", b"ACGTAC"), ("b", b"ACGTAC"), ("c", b"ACGTAG")]
    lower = read_fasta(tmp_path / "x.fa", "dna", find_lower_case=True).lower_case
    assert lower.tolist() == [[6, 10], [17, 18]]


@pytest.mark.parametrize(
    "content, sentence",
    [
        (b"LOCUS       NC_005816\n", r"is not FASTA: line 1 is b'LOCUS       NC_005816' \(this looks like GenBank\)"),
        (b"\n\n@read1\nACGT\n+\nIIII\n", r"is not FASTA: line 3 is b'@read1' \(this looks like FASTQ\), a record starts with '>'"),
        (b"\x00\x01binary", r"is not FASTA: line 1 is b'\\x00\\x01binary'"),
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (b">a\nACGT\nAC>b\nAC\n", "record 'a', line 3: '>' stands inside a line, so two records are glued together"),
        (b">a\nACGT\n>b\nAC1T\n", "record 'b', line 4: b'1' is not a letter of dna"),
        (b">a\nAC-GT\n", "record 'a', line 2: '-' is a gap of an alignment; remove the gaps"),
        (b">a\nMKLEF\n", "record 'a', line 2: 'L' is not a letter of dna; correct it, or set preprocessing.sequence_type to protein"),
        (b">a\nACGT\n>\nAC\n", "line 3: the record has no name"),
        (b">a x\rACGT\nACGT\n", "line 1: a carriage return stands inside the header, and what follows would be lost with it"),
        (b">a 1\nACGT\n>b\nA\n>a 2\nAC\n", "line 5: a record on line 1 is named 'a' too; rename one of them"),
    ],
)
@pytest.mark.parametrize("chunk", [2, 1 << 22])
def test_bad_files(tmp_path, monkeypatch, content, sentence, chunk):
    monkeypatch.setattr(fasta, "CHUNK_BYTES", chunk if content[:1].strip(b"\n") == b">" else 1 << 22)
    assert re.search(sentence, refused(tmp_path / "x.fa", content))


@pytest.mark.parametrize("kept", [5, 30, 500, 1500])
def test_truncated_gzip(tmp_path, kept):
    packed = gzip.compress((GENOMES / "phix174.fa").read_bytes())
    assert "gzip file is cut short" in refused(tmp_path / "x.fa.gz", packed[:kept])


def test_damaged_gzip(tmp_path):
    packed = bytearray(gzip.compress((GENOMES / "phix174.fa").read_bytes()))
    packed[-6] ^= 1  # in the checksum of the content
    assert "gzip file is damaged" in refused(tmp_path / "x.fa.gz", bytes(packed))


def test_truncated_bgzip(tmp_path):
    packed = bgzip((GENOMES / "phix174.fa").read_bytes(), block=1000)
    assert "bgzip file is cut short (the empty block that ends it is missing)" in refused(tmp_path / "x.fa.gz", packed[: -len(BGZF_END)])
    assert "gzip file is cut short" in refused(tmp_path / "x.fa.gz", packed[:1000])


def test_protein_letters(tmp_path):
    (tmp_path / "x.faa").write_bytes(b">a\nmkBJXZUO*\n")
    assert read(tmp_path / "x.faa", "protein") == [("a", b"MKBJXZUO*")]


@settings(max_examples=200)
@given(st.data())
def test_any_division_into_spans_reads_the_same(tmp_path_factory, data):
    """Each line is read once, by the span in which it begins; what stands before a span's first header has no name."""
    line = st.text("ACGTN>", max_size=6).map(lambda text: text.lstrip(">").replace(">", "A"))
    header = st.integers(0, 10**6).map(lambda number: f">r{number} words")
    lines = data.draw(st.lists(line | header, max_size=12))
    content = ("\n".join([">first", *lines]) + data.draw(st.sampled_from(["", "\n", "\n\n"]))).encode()
    path = tmp_path_factory.mktemp("spans") / "a.fa"
    path.write_bytes(content)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(content)), max_size=5)) | {0, len(content)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fasta, "CHUNK_BYTES", data.draw(st.sampled_from([1, 3, 1 << 20])))
        found: list[tuple[str, bytes]] = []
        for start, end in pairwise(cuts):
            sink = io.BytesIO()
            for record in read_fasta(path, "dna", sink, span=Span(start, end)).records:
                letters = sink.getvalue()[record.offset : record.offset + record.length]
                if record.name:
                    found.append((record.name, letters))
                else:
                    found[-1] = found[-1][0], found[-1][1] + letters
        assert found == read(path)


def test_a_header_without_an_end_is_not_read_to_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(fasta, "MAX_HEADER_BYTES", 100)
    monkeypatch.setattr(fasta, "CHUNK_BYTES", 64)
    assert "line 3: a header without an end; this is not FASTA" in refused(tmp_path / "x.fa", b">a\nACGT\n>" + b"b" * 1000)
