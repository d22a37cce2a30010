"""The stages before the plan, in this process: what the Ray tasks do, one after another."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from hyena_glt.data.dedup import digest_records, repeated_records, split_digests
from hyena_glt.data.index import index_part, join_parts, parts_of, put_together, with_places
from hyena_glt.data.plan import Genome, Run


def read_genome(run: Run) -> Genome:
    """The records of a run's inputs, their clean letters stored; no haplotypes."""
    pre = run.cfg.preprocessing
    lower = pre.soft_masked != "keep"
    parts = [part for number, path in enumerate(run.inputs.values()) for part in parts_of(number, path)]
    rows = [pa.Table.from_pylist([part._asdict()]) for part in parts]
    pieces = pa.concat_tables(
        index_part(row, sequence_type=pre.sequence_type, output=run.output, find_lower_case=lower) for row in rows
    )
    put_together(pieces, run.output, lower)
    records = with_places(join_parts(pieces, run.inputs))

    def digests_of(some: pa.Table) -> np.ndarray:
        task = pa.table({"first": [0], "last": [len(some)]})
        return split_digests(digest_records(task, records=some, output=run.output)["digest"].to_pylist())

    return Genome(records, tuple(run.inputs), repeated_records(records, digests_of))
