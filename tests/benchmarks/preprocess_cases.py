"""What the preprocessing benchmark times: one case a process, which says when it is ready and prints one JSON line when it is done.

    python preprocess_cases.py '{"case": "floor", "look_up": "numpy", "inputs": ["genome.fa"], "output": "ids"}'

`preprocess.py` starts these; `hyenadna` in an environment of its own, so this file imports only what the case at hand needs.
A case times itself, because what comes before `ready` (imports, Ray, an index) is not preprocessing.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import platform
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

READY = "ready"
BLOCK = 1 << 20
"""Bytes that the floor reads at once: they stay in the processor's cache, which makes it 3 times faster than whole files."""
IDS = bytes(5 + "ACGT".index(chr(c).upper()) if chr(c).upper() in "ACGT" else 4 for c in range(256))
MANY_SHARDS = "output.chunk_size=64"
"""Makes many small shards of the first small run, so that every worker gets some."""
Row = dict[str, Any]


def ours(inputs: list[str], output: str, settings: list[str], cpus: int, warm_up: str) -> None:
    """`hyena-glt preprocess` on a Ray that stands and whose workers have worked: wall time from the call to the finished manifest."""
    from pipelines._ray import start_ray

    # Variants are those of the inputs.
    small = [*(setting for setting in settings if not setting.startswith("preprocessing.variants.")), MANY_SHARDS]
    begun = time.perf_counter()
    with start_ray("local", cpus):
        ray_s = time.perf_counter() - begun
        preprocessed([warm_up], f"{output}.warm_up", small)
        warm_up_s = time.perf_counter() - begun - ray_s
        print(READY, flush=True)
        result, figures = timed(inputs, output, settings)
        splits = list(result["splits"].values())
        report(
            **figures, ray_s=ray_s, warm_up_s=warm_up_s,
            rows=sum(split["rows"] for split in splits), row_bases=sum(split["bases"] for split in splits),
            output_bytes=sum(shard.stat().st_size for shard in Path(output).glob("*/part-*")),
            versions=versions("ray", "pyarrow", "numpy"),
        )


def preprocessed(inputs: list[str], output: str, settings: list[str]) -> Row:
    """What `hyena-glt preprocess` returns."""
    import pipelines.preprocess
    from hyena_glt.config import load_config

    places = [f"preprocessing.input_path={json.dumps(inputs)}", f"output.path={output}"]
    return pipelines.preprocess.preprocess(load_config(None, [*settings, *places]))


def timed(inputs: list[str], output: str, settings: list[str]) -> tuple[Row, Row]:
    """What preprocessing returns; and the bases of its inputs, its seconds, and those of each stage."""
    clock = StageClock()
    started = time.perf_counter()
    with contextlib.redirect_stderr(clock):
        result = preprocessed(inputs, output, settings)
    ended = time.perf_counter()
    bases = sum(item["bases"] for item in json.loads(Path(output, "manifest.json").read_text())["inputs"])
    return result, {"bases": bases, "seconds": ended - started, "stages": clock.seconds(started, ended)}


class StageClock(io.TextIOBase):
    """Stands where the progress lines go, and notes when each stage printed its last one."""

    def __init__(self) -> None:
        self.ended: dict[str, float] = {}

    def write(self, text: str) -> int:
        stage, colon, rest = text.partition(": ")
        if colon and " of " in rest:
            self.ended[stage] = time.perf_counter()
        return sys.__stderr__.write(text)

    def seconds(self, started: float, ended: float) -> dict[str, float]:
        """Seconds a stage, in order; what came after the last line is `end`."""
        moments = [started, *self.ended.values(), ended]
        return {stage: round(b - a, 3) for stage, a, b in zip([*self.ended, "end"], moments, moments[1:], strict=False)}


def hyenadna(inputs: list[str], index: str, clone: str, window: int) -> None:
    """HyenaDNA's way: fetch each window with pyfaidx, call the clone's tokenizer on it as its data set does; nothing is written.

    The index of pyfaidx is made before the time starts. Windows follow each other as ours do.
    """
    from pyfaidx import Fasta

    genomes = [Fasta(path, indexname=f"{index}.{number}") for number, path in enumerate(inputs)]
    spec = importlib.util.spec_from_file_location("char_tokenizer", f"{clone}/src/dataloaders/datasets/hg38_char_tokenizer.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    tokenizer = module.CharacterTokenizer(characters=list("ACGTN"), model_max_length=window + 2, add_special_tokens=False)
    print(READY, flush=True)
    started, bases = time.perf_counter(), 0
    for genome in genomes:
        for name in genome.keys():
            for start in range(0, len(genome[name]), window):
                letters = str(genome[name][start : start + window])
                encoded = tokenizer(letters, add_special_tokens=False, padding="max_length", max_length=window, truncation=True)
                assert len(encoded["input_ids"]) == window
                bases += len(letters)
    report(seconds=time.perf_counter() - started, bases=bases, versions=versions("transformers", "tokenizers", "pyfaidx"))


def floor(inputs: list[str], output: str, look_up: str) -> None:
    """Read, strip newlines, look each letter up in a table, write the ids of all bases, one byte each."""
    import numpy as np

    table = np.frombuffer(IDS, np.uint8)
    ways: dict[str, Callable[[bytes], Any]] = {
        "numpy": lambda block: table[np.frombuffer(block.replace(b"\n", b""), np.uint8)],
        "translate": lambda block: block.translate(IDS, b"\n"),
    }
    to_ids = ways[look_up]
    print(READY, flush=True)
    started = time.perf_counter()
    with open(output, "wb", buffering=0) as sink:
        for path in inputs:
            in_header = False
            with open(path, "rb", buffering=0) as source:
                while block := source.read(BLOCK):
                    if in_header or b">" in block:
                        block, in_header = without_headers(block, in_header)
                    sink.write(to_ids(block))
    seconds, size = time.perf_counter() - started, Path(output).stat().st_size
    report(seconds=seconds, bases=size, output_bytes=size, row_bases=size, versions=versions("numpy"))


def without_headers(block: bytes, in_header: bool) -> tuple[bytes, bool]:
    """The lines of a block that hold sequence, and whether the block ends inside a header."""
    first, *headed = (b">" + block if in_header else block).split(b">")
    return first + b"".join(part.partition(b"\n")[2] for part in headed), bool(headed) and b"\n" not in headed[-1]


def versions(*packages: str) -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def report(**figures: object) -> None:
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    arguments = json.loads(sys.argv[1])
    {"ours": ours, "hyenadna": hyenadna, "floor": floor}[arguments.pop("case")](**arguments)
