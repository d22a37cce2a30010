"""Read the sequences of protein, DNA or RNA out of structure files, PDB and mmCIF (plain, gzip), through gemmi.

gemmi tells polymers from ligands and proteins from nucleic acids in both formats alike, knows the parents of modified residues,
and names the line of a damaged file; Biopython reads sequences of proteins only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ...dna import ALPHABETS, SequenceType
from ...errors import DataError
from ..inputs import STRUCTURES
from ..storage import Location
from .lines import unpacked

try:
    import gemmi
except ImportError as error:
    raise DataError("PDB and mmCIF files need gemmi; pip install 'hyena-glt[sources]'") from error

POLYMERS: dict[SequenceType, tuple[gemmi.PolymerType, ...]] = {
    "protein": (gemmi.PolymerType.PeptideL, gemmi.PolymerType.PeptideD),
    "dna": (gemmi.PolymerType.Dna,),
    "rna": (gemmi.PolymerType.Rna,),
}
_KINDS: dict[SequenceType, tuple[gemmi.ResidueKind, ...]] = {
    "protein": (gemmi.ResidueKind.AA, gemmi.ResidueKind.AAD),
    "dna": (gemmi.ResidueKind.DNA,),
    "rna": (gemmi.ResidueKind.RNA,),
}
UNKNOWN: dict[SequenceType, str] = {"protein": "X", "dna": "N", "rna": "N"}
"""The letter of a residue that is none of the sequence type's and comes from none."""


class Polymer(NamedTuple):
    """A molecule of a structure; chains that are copies of each other are one."""

    name: str
    """The structure's identifier (else the file's name) and the author's name of the first chain: 1ABC_A."""
    letters: str
    """As deposited; where the file does not give that, of the residues with coordinates."""


def read_structure(path: Location, sequence_type: SequenceType) -> list[Polymer]:
    """The polymers of a file that are of the sequence type, with the sequence as deposited where the file gives it.

    A modified residue has its parent's letter (MSE gives M). Of several models the first is read.
    DataError if the file cannot be read or holds no such polymer.
    """
    kind = re.fullmatch(r".*\.(pdb|ent|cif|mmcif)(\.gz)?", path.name, re.IGNORECASE)
    if not kind:
        raise DataError(f"{path}: is none of {' '.join(STRUCTURES)} by its name; rename or convert it")
    with unpacked(path) as file:  # gemmi would read a .pdb.gz that is cut short without a word
        content = file.read()
    try:
        is_pdb = kind[1].lower() in ("pdb", "ent")
        structure = gemmi.read_structure_string(content, format=gemmi.CoorFormat.Pdb if is_pdb else gemmi.CoorFormat.Mmcif)
        structure.setup_entities()
        name = dict(structure.info).get("_entry.id", "").strip() or path.name.split(".")[0]
        polymers = list(_polymers(structure, name, sequence_type))
    except (ValueError, RuntimeError, IndexError) as error:
        raise DataError(f"{path}: is damaged ({_with_line(error)}); correct it, or copy it again from its source") from error
    if not polymers:
        held = sorted({str(entity.polymer_type).rpartition(".")[2] for entity in _entities(structure)})
        raise DataError(
            f"{path}: holds no {sequence_type} ({'its polymers: ' + ', '.join(held) if held else 'no polymer at all'}); "
            "set preprocessing.sequence_type to what it holds, or leave it out"
        )
    return polymers


def _with_line(error: Exception) -> str:
    """gemmi's message, one line; what it writes as `string:7:0(155):` says where."""
    return re.sub(r"string:(\d+):\S*", r"line \1:", next(iter(str(error).splitlines()), type(error).__name__))


def _entities(structure: gemmi.Structure) -> list[gemmi.Entity]:
    return [entity for entity in structure.entities if entity.entity_type == gemmi.EntityType.Polymer]


def _polymers(structure: gemmi.Structure, name: str, sequence_type: SequenceType) -> Iterator[Polymer]:
    """The polymers of the type that have a residue, in the order of the file."""
    letter = _letter_of(structure, sequence_type)
    taken: set[str] = set()
    for entity in _entities(structure):
        chain, observed = _first_chain(structure, entity)
        residues = [gemmi.Entity.first_mon(residue) for residue in entity.full_sequence] or observed
        if not residues or not _is_of_type(entity.polymer_type, residues, sequence_type):
            continue
        # The author's chain names need not be unique in mmCIF, the entities' are.
        unique = f"{name}_{chain}" if chain not in taken else f"{name}_{chain}_{entity.name}"
        taken.add(chain)
        yield Polymer(re.sub(r"\s+", "_", unique), "".join(map(letter, residues)))


def _is_of_type(known: gemmi.PolymerType, residues: list[str], sequence_type: SequenceType) -> bool:
    """What gemmi says; where a PDB file has no atoms to tell it, what most of the residues are."""
    if known != gemmi.PolymerType.Unknown:
        return known in POLYMERS[sequence_type]
    wanted = _KINDS[sequence_type]
    return 2 * sum(gemmi.find_tabulated_residue(residue).kind in wanted for residue in residues) > len(residues)


def _first_chain(structure: gemmi.Structure, entity: gemmi.Entity) -> tuple[str, list[str]]:
    """The author's name of the first chain of an entity in the first model, and its residues with coordinates."""
    for chain in structure[0] if len(structure) else ():
        for part in chain.subchains():
            if part.subchain_id() in entity.subchains:
                return chain.name, part.extract_sequence()
    return entity.name, []


def _letter_of(structure: gemmi.Structure, sequence_type: SequenceType) -> Callable[[str], str]:
    """Residue name -> letter."""
    parents = {modified.res_id.name: modified.parent_comp_id for modified in structure.mod_residues}
    alphabet = ALPHABETS[sequence_type].decode()

    def letter(residue: str) -> str:
        for name in (residue, parents.get(residue, "")):
            known = gemmi.find_tabulated_residue(name)
            # A strand of DNA may hold a residue of RNA and the other way round.
            if known.is_amino_acid() == (sequence_type == "protein") and known.one_letter_code.upper() in alphabet:
                return known.one_letter_code.upper()
        return UNKNOWN[sequence_type]

    return letter
