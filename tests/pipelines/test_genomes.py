"""The bundled genomes are what their README names, and the script that fetches larger ones explains itself."""

from __future__ import annotations

import hashlib
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GENOMES = ROOT / "pipelines" / "genomes"
SCRIPT = ROOT / "tests" / "data" / "fetch_genomes.sh"
ROWS = re.findall(r"\| `(\S+)` \| (\S+) .*?\| ([\d,]+) bp \| `(\w+)` \|", (GENOMES / "README.md").read_text())


def test_readme_names_every_genome():
    assert sorted(row[0] for row in ROWS) == sorted(path.name for path in GENOMES.glob("*.fa")) == ["lambda.fa", "phix174.fa"]


@pytest.mark.parametrize("file, accession, length, sha256", ROWS)
def test_genome_is_the_one_in_the_readme(file, accession, length, sha256):
    content = (GENOMES / file).read_bytes()
    header, *lines = content.decode().splitlines()
    assert hashlib.sha256(content).hexdigest() == sha256
    assert header.startswith(f">{accession} ")
    assert len("".join(lines)) == int(length.replace(",", "")) and set("".join(lines)) == set("ACGT")


def test_phix174_is_the_reference_sequence():
    """The MD5 by which refget, and SAM headers, know NC_001422.1."""
    letters = b"".join((GENOMES / "phix174.fa").read_bytes().splitlines()[1:])
    assert hashlib.md5(letters).hexdigest() == "3332ed720ac7eaa9b3655c06f6b9e196"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", str(SCRIPT), *arguments], capture_output=True, text=True, check=False)


def test_fetch_script_explains_itself(tmp_path):
    usage = run()
    assert usage.returncode == 2 and usage.stderr.startswith("fetch_genomes.sh DIR [ecoli] [protein]")
    wrong = run(str(tmp_path), "cow")
    assert wrong.returncode == 1 and wrong.stderr == "fetch_genomes.sh: no group 'cow'; there are ecoli and protein\n"
    assert not list(tmp_path.iterdir())
