"""Sequences out of PDB and mmCIF files, real ones, and a few lines where a real file would be long."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from hyena_glt.data.sources.structures import Polymer, read_structure
from hyena_glt.errors import DataError

STRUCTURES = Path(__file__).parents[1] / "structures"
CAPSID = "MDIRQGPKEPFRDYVDRFYKTLRAEQASQEVKNWMTETLLVQNANPDCKTILKALGPGATLEEMMTACQG"
"""1A8O, the C-terminal domain of HIV capsid, as UniProt P12497 has it, after the M that was added; four M are selenomethionine here."""

RNA_CIF = """data_test
_entry.id 9XYZ
loop_
_entity.id
_entity.type
1 polymer
2 polymer
loop_
_entity_poly.entity_id
_entity_poly.type
1 polyribonucleotide
2 'polypeptide(L)'
loop_
_entity_poly_seq.entity_id
_entity_poly_seq.num
_entity_poly_seq.mon_id
1 1 G
1 2 PSU
1 3 ZZZ
2 1 MET
2 2 UNK
2 3 SEC
loop_
_atom_site.group_PDB
_atom_site.id
_atom_site.type_symbol
_atom_site.label_atom_id
_atom_site.label_alt_id
_atom_site.label_comp_id
_atom_site.label_asym_id
_atom_site.label_entity_id
_atom_site.label_seq_id
_atom_site.auth_asym_id
_atom_site.auth_seq_id
_atom_site.Cartn_x
_atom_site.Cartn_y
_atom_site.Cartn_z
_atom_site.occupancy
_atom_site.B_iso_or_equiv
_atom_site.pdbx_PDB_model_num
ATOM 1 P P . G A 1 1 R 1 0 0 0 1 9 1
ATOM 2 C CA . MET B 2 1 Q 1 5 5 5 1 9 1
"""


@pytest.fixture
def write(tmp_path):
    def write(name: str, text: str) -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def refusal(path: Path, sequence_type: str = "protein") -> str:
    with pytest.raises(DataError) as caught:
        read_structure(path, sequence_type)
    return str(caught.value)


@pytest.mark.parametrize("name", ["1A8O.pdb.gz", "1A8O.cif.gz"])
def test_selenomethionine_reads_as_methionine(name):
    assert read_structure(STRUCTURES / name, "protein") == [Polymer("1A8O_A", CAPSID)]


def test_protein_and_dna_of_one_file():
    path = STRUCTURES / "1LCD.pdb.gz"
    (repressor,) = read_structure(path, "protein")
    assert repressor == Polymer("1LCD_A", "MKPVTLYDVAEYAGVSYQTVSRVVNQASHVSAKTREKVEAAMAELNYIPNR")
    assert read_structure(path, "dna") == [Polymer("1LCD_B", "AATTGTGAGCG"), Polymer("1LCD_C", "CGCTCACAATT")]


def test_the_file_names_the_parent_of_a_residue_that_nobody_knows(write):
    with gzip.open(STRUCTURES / "1A8O.pdb.gz", "rt") as file:
        text = file.read().replace("MSE", "ZZZ")
    assert read_structure(write("a.pdb", text), "protein") == [Polymer("1A8O_A", CAPSID)]
    bare = "".join(line for line in text.splitlines(True) if not line.startswith("MODRES"))
    assert read_structure(write("a.pdb", bare), "protein") == [Polymer("1A8O_A", CAPSID.replace("M", "X"))]


def test_residues_without_a_parent_are_unknown():
    """AIB counts as alanine; for PH8 and the cap NH2 no residue is known that they replace."""
    assert read_structure(STRUCTURES / "2N0N.pdb.gz", "protein") == [Polymer("2N0N_A", "HAEGKFTSEFXX")]


def test_rna_selenocysteine_and_the_chains_of_the_author(write):
    path = write("a.cif", RNA_CIF)
    assert read_structure(path, "rna") == [Polymer("9XYZ_R", "GUN")]
    assert read_structure(path, "protein") == [Polymer("9XYZ_Q", "MXU")]


def test_only_what_is_observed_where_the_sequence_is_not_given(write):
    with gzip.open(STRUCTURES / "1A8O.pdb.gz", "rt") as file:
        atoms = [line for line in file if line.startswith(("ATOM", "HETATM", "TER"))]
    observed = "".join(atoms)
    assert read_structure(write("model.pdb", observed), "protein") == [Polymer("model_A", CAPSID)]
    gapped = "".join(line for line in atoms if line[22:26] != " 153")
    (polymer,) = read_structure(write("model.pdb", gapped), "protein")
    assert polymer.letters == CAPSID[:2] + CAPSID[3:]


def test_a_sequence_without_a_single_atom(write):
    with gzip.open(STRUCTURES / "1LCD.pdb.gz", "rt") as file:
        text = "".join(line for line in file if line.startswith(("HEADER", "SEQRES")))
    path = write("a.pdb", text + "ATOM      1  P    DA B   1       1.000   1.000   1.000  1.00  9.00           P\n")
    whole = STRUCTURES / "1LCD.pdb.gz"
    for sequence_type in ("protein", "dna"):
        # Without atoms gemmi does not know the order of chains, nor their names, so the letters are compared.
        assert [p.letters for p in read_structure(path, sequence_type)] == [p.letters for p in read_structure(whole, sequence_type)]


def test_copies_of_a_chain_are_one_polymer(write):
    with gzip.open(STRUCTURES / "1A8O.pdb.gz", "rt") as file:
        lines = [line for line in file if line.startswith(("SEQRES", "ATOM", "HETATM")) and "HOH" not in line]
    both = [line for chain in "AB" for line in (line.replace(" A ", f" {chain} ", 1) for line in lines)]
    both.sort(key=lambda line: not line.startswith("SEQRES"))
    assert read_structure(write("pair.pdb", "".join(both)), "protein") == [Polymer("pair_A", CAPSID)]


def test_a_file_without_the_wanted_polymer(write):
    path = STRUCTURES / "1A8O.pdb.gz"
    assert refusal(path, "rna") == (
        f"{path}: holds no rna (its polymers: PeptideL); set preprocessing.sequence_type to what it holds, or leave it out"
    )
    assert "holds no protein (no polymer at all)" in refusal(write("words.pdb", "not a structure\n"))


def test_files_that_cannot_be_used(write, tmp_path):
    assert "is none of .pdb .pdb.gz .ent .ent.gz .cif .cif.gz .mmcif .mmcif.gz by its name" in refusal(write("a.txt", ""))
    assert "missing.pdb: cannot be read (No such file or directory); correct the path" in refusal(tmp_path / "missing.pdb")
    path = write("a.cif", RNA_CIF.replace("5 5 5", "5 5"))
    assert refusal(path) == (
        f"{path}: is damaged (line 23: Wrong number of values in loop _atom_site.*); correct it, or copy it again from its source"
    )
    assert "is damaged (line 1: expected block header (data_))" in refusal(write("b.cif", "ATOM 1"))


@pytest.mark.parametrize("name", ["1A8O.pdb.gz", "1A8O.cif.gz"])
def test_a_file_that_is_cut_short(tmp_path, name):
    whole = (STRUCTURES / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    assert f"{name}: compressed file is cut short" in refusal(tmp_path / name)
