"""Bases per second of preprocessing on one core and on two, beside HyenaDNA's way, savanna's script and the floor, in one run.

    python tests/benchmarks/preprocess.py --input human_chr20 20.fa.gz --input arabidopsis A.fna.gz B.fna.gz \\
        --hyenadna ../hyena-dna --hyenadna-python ../hyenadna-env/bin/python \\
        --savanna ../savanna --savanna-python ../savanna-env/bin/python

Every input is written out as plain FASTA first, which leaves it in the page cache. The cases, each a process bound to as many cores as
it has workers:

- ours: `pipelines.preprocess.preprocess` (char tokenizer, `split.by: tail`, all else default), from the call to the finished manifest, on
  a local Ray that stands and whose workers have done a small run. Driver and Ray's own processes share the cores of the workers.
- HyenaDNA's way: pyfaidx fetches each window and the clone's `CharacterTokenizer` makes a list of ids; nothing is written, the index is
  there already. The tokenizer's class runs under the transformers that the clone's requirements name, 4.26.1; from 4.34 on it fails.
  Its environment: Python 3.8 to 3.11 with transformers==4.26.1 and pyfaidx.
- savanna: the clone's tools/preprocess_data.py with its CharLevelTokenizer, one document a window, from JSON Lines made before, two
  bytes an id; time from its line `Output prefix` to the finished index file, so without its imports. Its environment: torch, deepspeed,
  numpy<2.3 (it uses `numpy.fromstring` on text, which later ones refuse), tokenizers, sentencepiece, lazy_import_plus, lm_dataformat,
  ftfy, einops, regex, pyyaml, requests, tqdm; no GPU and nothing compiled.
- the floor: read, strip newlines, look each letter up, write; with NumPy and with `bytes.translate`, the fastest that simple code gets.

Clones and environments are the user's own, outside this repository; without them the cases are left out. Cases take turns, so that other
load meets them alike; medians are kept. Dirty pages are written back between cases, and only what a case itself syncs is in its time.
Results go to preprocess_cpu.{json,md} below --out; preprocess_scale.py measures memory, and records that are long, alike or many.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from meters import Meter, Peaks
from preprocess_report import Row, machine_facts, write

ROOT = Path(__file__).parents[2]
CASES = Path(__file__).with_name("preprocess_cases.py")
WINDOWS = (1024, 32768)
DEFAULTS = ["tokenization.kind=char", "preprocessing.split.by=tail"]
LINE = 80
STARTS = ("ready", "Output prefix")
"""How the line begins with which a case's work begins: ours, savanna's."""
RESULTS = Path(__file__).parent / "results"
OURS = {"hyena-glt": (ROOT, Path(sys.executable), ("ray", "pyarrow", "numpy"))}
"""Clone, Python, and the packages whose versions matter."""


@dataclass(frozen=True)
class Genomes:
    """One data set: plain FASTA files, and the same as JSON Lines by window where savanna runs."""

    name: str
    files: list[Path]
    bases: int
    documents: dict[int, Path]


@dataclass(frozen=True)
class Case:
    """What is timed; `arguments` go to `script`, and are empty for savanna."""

    what: str
    data: Genomes
    arguments: Row
    window: int | None = None
    compress: bool | None = None
    workers: int = 1
    script: Path = CASES

    @property
    def key(self) -> Row:
        return {"what": self.what, "data": self.data.name, "window": self.window, "compress": self.compress, "workers": self.workers}


def plain_genomes(name: str, packed: list[str], work: Path, *, savanna: bool) -> Genomes:
    """Write the files out as plain FASTA, count their bases, and make savanna's documents."""
    folder, files, bases = work / name, [], 0
    folder.mkdir()
    for path in map(Path, packed):
        files.append(folder / path.name.removesuffix(".gz"))
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as source, files[-1].open("wb") as sink:
            for line in source:
                sink.write(line)
                bases += 0 if line.startswith(b">") else len(line.rstrip())
    documents = {window: write_documents(files, window, folder / f"{window}.jsonl") for window in WINDOWS} if savanna else {}
    return Genomes(name, files, bases, documents)


def write_documents(files: list[Path], window: int, path: Path) -> Path:
    """Every window of every record as one JSON line."""
    with path.open("w") as sink:
        for text in (file.read_text() for file in files):
            for record in f"\n{text}".split("\n>")[1:]:
                letters = record.partition("\n")[2].replace("\n", "")
                for start in range(0, len(letters), window):
                    sink.write(json.dumps({"text": letters[start : start + window]}) + "\n")
    return path


def synthetic(path: Path, bases: int) -> Path:
    """One record of random letters; `bases` fill whole lines."""
    rng, letters = np.random.default_rng(0), np.frombuffer(b"ACGT", np.uint8)
    with path.open("wb") as sink:
        sink.write(b">synthetic\n")
        for begin in range(0, bases, 8_000_000):
            lines = letters[rng.integers(0, 4, (min(8_000_000, bases - begin) // LINE, LINE))]
            sink.write(np.pad(lines, ((0, 0), (0, 1)), constant_values=ord("\n")).tobytes())
    return path


def our_case(
    data: Genomes, work: Path, window: int, *, compress: bool = True, workers: int, settings: Sequence[str] = DEFAULTS
) -> Case:
    settings = [*settings, f"preprocessing.max_length={window}", f"output.compress={str(compress).lower()}"]
    arguments = {"case": "ours", "settings": settings, "cpus": workers, "warm_up": str(work / "warm_up.fa"), "output": str(work / "ours")}
    return Case("ours", data, arguments, window, compress, workers)


def cases(data: Genomes, work: Path, args: argparse.Namespace, *, peers: bool) -> Iterator[Case]:
    """All cases on one data set, once."""
    for look_up in ("numpy", "translate"):
        yield Case(f"floor, {look_up}", data, {"case": "floor", "look_up": look_up, "output": str(work / "floor")})
    for window in WINDOWS:
        for compress, workers in ((True, 1), (False, 1), (True, 2)):
            yield our_case(data, work, window, compress=compress, workers=workers)
        if peers and args.hyenadna:
            arguments = {"case": "hyenadna", "clone": str(args.hyenadna), "index": str(work / f"{data.name}.fai"), "window": window}
            yield Case("HyenaDNA's way", data, arguments, window)
        if peers and args.savanna:
            yield Case("savanna", data, {}, window)


def command_of(case: Case, work: Path, args: argparse.Namespace) -> list[str]:
    if case.what == "savanna":
        documents, prefix = str(case.data.documents[case.window]), str(work / "savanna")
        script = [str(args.savanna_python), "-u", str(args.savanna / "tools" / "preprocess_data.py")]
        return [*script, "--input", documents, "--output-prefix", prefix, "--tokenizer-type", "CharLevelTokenizer"]
    python = args.hyenadna_python if case.what == "HyenaDNA's way" else sys.executable
    return [str(python), str(case.script), json.dumps(case.arguments | {"inputs": list(map(str, case.data.files))})]


def run(case: Case, work: Path, args: argparse.Namespace, *, memory: bool = False) -> Row:
    """Run one case and remove what it wrote; its figures, with the load by others and, if asked, the peak memory of its processes."""
    os.sync()
    process = start(command_of(case, work, args), case.workers, work)
    meter, row = Meter(process.pid), {}
    peaks = Peaks(process.pid) if memory else None
    for line in process.stdout:
        if line.startswith(STARTS):
            meter = Meter(process.pid)
        elif line.startswith("{"):
            row = json.loads(line) | meter.read()
    if case.what == "savanna":
        row = savanna_figures(work, meter)
    row |= {"peak_mib": peaks.stop()} if peaks else {}
    if process.wait() or row.get("bases") != case.data.bases:
        log = (work / "stderr").read_text()[-4000:]
        raise SystemExit(f"{case.key} failed or worked on {row.get('bases')} of {case.data.bases} bases:\n{log}")
    for left in [*work.glob("ours*"), *work.glob("floor*"), *work.glob("savanna*")]:
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    return row


def start(command: list[str], cores: int, work: Path) -> subprocess.Popen:
    """Start a process that has the first cores of ours to itself and its children; its standard error goes to a file."""
    ours, path = os.sched_getaffinity(0), os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    env = os.environ | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    os.sched_setaffinity(0, sorted(ours)[:cores])  # a child begins with what its parent has
    with (work / "stderr").open("w") as log:
        process = subprocess.Popen(command, cwd=work, env=env, stdout=subprocess.PIPE, stderr=log, text=True)
    os.sched_setaffinity(0, ours)
    return process


def savanna_figures(work: Path, meter: Meter) -> Row:
    """Its files stand when the index does; the process takes another second to end."""
    ids, index = next(work.glob("savanna*.bin")), next(work.glob("savanna*.idx"))
    bases = ids.stat().st_size // 2
    size = ids.stat().st_size + index.stat().st_size
    return meter.read() | {"seconds": index.stat().st_mtime - meter.clock, "bases": bases, "row_bases": bases, "output_bytes": size}


def measure_all(args: argparse.Namespace, work: Path) -> Row:
    """The whole report."""
    facts = machine_facts(clones(args))
    synthetic(work / "warm_up.fa", 1_000_000)
    data = [plain_genomes(name, files, work, savanna=bool(args.savanna)) for name, *files in args.input]
    measured: dict[str, Row] = {}
    for repeat in range(args.repeats):
        for case in (case for genomes in data for case in cases(genomes, work, args, peers=repeat < args.peer_repeats)):
            note(measured, case, run(case, work, args))
    return facts | {"rows": [case | summary(case) for case in measured.values()]}


def note(measured: dict[str, Row], case: Case, figures: Row) -> None:
    measured.setdefault(json.dumps(case.key), case.key | {"bases": case.data.bases, "runs": []})["runs"].append(figures)
    print(f"{json.dumps(case.key)}: {figures['seconds']:.2f} s, {figures['bases'] / figures['seconds'] / 1e6:.1f} Mbp/s, "
          f"{figures['cpu_s']:.2f} CPU s, {figures['other_cores']:.2f} cores busy with other things", flush=True)


def summary(row: Row) -> Row:
    """Medians over the runs of one case."""
    seconds, first = [one["seconds"] for one in row["runs"]], row["runs"][0]
    return {
        "mbp_per_s": row["bases"] / statistics.median(seconds) / 1e6, "slowest": row["bases"] / max(seconds) / 1e6,
        "fastest": row["bases"] / min(seconds) / 1e6, "cpu_s": statistics.median(one["cpu_s"] for one in row["runs"]),
        "bytes_per_base": first["output_bytes"] / first["row_bases"] if "output_bytes" in first else None,
    }


def clones(args: argparse.Namespace) -> dict[str, tuple[Path, Path, tuple[str, ...]]]:
    """As OURS, of each that takes part."""
    found = dict(OURS)
    if args.hyenadna:
        found["hyena-dna"] = (args.hyenadna, args.hyenadna_python, ("transformers", "tokenizers", "pyfaidx"))
    if args.savanna:
        found["savanna"] = (args.savanna, args.savanna_python, ("torch", "deepspeed", "numpy", "lm_dataformat"))
    return found


def absolute(path: str) -> Path:
    """Cases run elsewhere; links stay, because a virtual environment's Python is one."""
    return Path(os.path.abspath(path))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", nargs="+", action="append", required=True, metavar=("NAME", "FASTA"), help="plain, gzip or bgzip")
    parser.add_argument("--hyenadna", type=absolute, help="a clone of github.com/HazyResearch/hyena-dna")
    parser.add_argument("--hyenadna-python", type=absolute, default=Path(sys.executable))
    parser.add_argument("--savanna", type=absolute, help="a clone of github.com/Zymrael/savanna")
    parser.add_argument("--savanna-python", type=absolute, default=Path(sys.executable))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peer-repeats", type=int, default=1, help="of HyenaDNA's way and savanna, minutes each")
    parser.add_argument("--work", help="where a temporary folder of some GB is made")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="preprocess_", dir=args.work) as work:
        write(measure_all(args, Path(work)), args.out)


if __name__ == "__main__":
    main()
