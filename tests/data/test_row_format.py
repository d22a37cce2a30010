"""Packing of ids: what is stored is what the slow definition says, it reads back, and what does not fit is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyena_glt.config import TokenizationConfig
from hyena_glt.data.dataset import open_rows
from hyena_glt.data.manifest import read_manifest, write_manifest
from hyena_glt.data.row_format import Packing, RowFormat, id_bits
from hyena_glt.data.shard_index import Shards
from hyena_glt.data.verify import file_sha256, verify
from hyena_glt.tokenizers import build_tokenizer
from tests.data.made_folder import make_folder
from tests.data.reference import stored_ids


@given(
    num_rows=st.integers(0, 5), width=st.integers(1, 9), cut=st.integers(0, 3), seed=st.integers(0, 99),
    tokenizer=st.sampled_from([
        build_tokenizer("dna", TokenizationConfig(kind="char")), build_tokenizer("protein", TokenizationConfig(kind="amino_acid")),
        build_tokenizer("dna", TokenizationConfig(kind="kmer", kmer_size=6)),
    ]),
)
def test_packed_ids_are_those_of_the_definition_and_read_back(num_rows, width, cut, seed, tokenizer):
    packing = RowFormat(width=width, id_bits=id_bits(tokenizer.num_ids)).packings["input_ids"]
    assert packing.dtype == tokenizer.dtype
    ids = np.random.default_rng(seed).integers(0, tokenizer.num_ids, (num_rows, width)).astype(tokenizer.dtype)
    stored = packing.pack(ids)
    odd = [0] if width % 2 and packing.bits == 4 else []
    assert [stored_ids(value, tokenizer) for value in stored.to_pylist()] == [row + odd for row in ids.tolist()]
    rest = stored.slice(cut)
    for column, wanted in (
        (stored, ids), (rest, ids[cut:]), (pa.chunked_array([stored, rest]), np.concatenate([ids, ids[cut:]])),
        (pa.chunked_array([], stored.type), ids[:0]),
    ):
        found = packing.unpack(column)
        assert found.dtype == ids.dtype and np.array_equal(found, wanted)


def test_what_does_not_fit_is_refused():
    packing = Packing(4, np.dtype(np.uint8), 4)
    with pytest.raises(ValueError, match="id 16 does not fit into 4 bits"):
        packing.pack(np.array([[0, 1, 16, 3]], np.uint8))
    with pytest.raises(ValueError, match="rows of 4 bytes, wanted 2 for 4 uint8, two a byte, the first in its low bits"):
        packing.unpack(pa.array([b"abcd"], pa.binary(4)))


def test_a_folder_whose_ids_take_whole_bytes_reads_as_before(tmp_path):
    """As version 2 wrote it, and as it reads after its manifest."""
    packed = make_folder(tmp_path / "packed", {"train": ((5, 3),)}, width=7)
    manifest = read_manifest(make_folder(tmp_path / "whole", {"train": ((5, 3),)}, width=7))
    (shard,) = manifest.splits["train"].shards
    path, rows = tmp_path / "whole" / shard.path, RowFormat(width=7, id_bits=8)
    table = pq.read_table(path)
    ids = rows.packings["input_ids"].pack(manifest.row_format.packings["input_ids"].unpack(table["input_ids"]))
    pq.write_table(pa.table([ids, *table.columns[1:]], schema=rows.schema), path, row_group_size=5)
    shards = Shards.of([replace(shard, size=path.stat().st_size, sha256=file_sha256(path))])
    write_manifest(tmp_path / "whole", replace(manifest, id_bits=8, splits={"train": replace(manifest.splits["train"], shards=shards)}))
    assert verify(tmp_path / "whole") == []
    one, other = (open_rows(str(folder), "train") for folder in (packed, tmp_path / "whole"))
    assert np.array_equal(one.read(np.arange(8)), other.read(np.arange(8)))
