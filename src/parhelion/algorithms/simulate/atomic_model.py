"""Atomic models: reading, biological assembly, positions and masses."""

from pathlib import Path

import gemmi
import numpy as np

from parhelion.contracts import Observer, SilentObserver
from parhelion.errors import FormatError


def read_model(path: Path, observer: Observer | None = None) -> gemmi.Structure:
    """The first model of a .cif, .pdb or .ent file as its first biological assembly, without water.

    What was done (assembly built, water removed) is told to the observer. Raises FormatError when
    the file cannot be read or holds no atoms.
    """
    observer = observer or SilentObserver()
    try:
        structure = _read(Path(path))
    except (RuntimeError, ValueError, OSError) as error:
        raise FormatError(f"{path}: not a readable atomic model (.cif, .pdb expected): {error}") from error
    if not len(structure) or not structure[0].count_atom_sites():
        raise FormatError(f"{path}: the file holds no atoms; an atomic model (.cif or .pdb) is needed")
    while len(structure) > 1:
        del structure[len(structure) - 1]
    structure.setup_entities()
    if len(structure.assemblies):
        _build_assembly(structure, path, observer)
    else:
        observer.notice(
            f"{Path(path).name}: no biological assembly is recorded; all atoms are used as deposited"
        )
    before = structure[0].count_atom_sites()
    structure.remove_waters()
    structure.remove_empty_chains()
    removed = before - structure[0].count_atom_sites()
    if removed:
        observer.notice(f"{Path(path).name}: {removed} water atoms left out")
    if not len(structure) or not structure[0].count_atom_sites():
        raise FormatError(f"{path}: nothing but water in the file; an atomic model of a molecule is needed")
    return structure


def _read(path: Path) -> gemmi.Structure:
    """Any model file; in old PDB files the chain list of REMARK 350 goes on without "AND CHAINS:",
    which gemmi would cut, leaving chains out of the assembly."""
    if not path.name.lower().endswith((".pdb", ".ent")):
        return gemmi.read_structure(str(path))
    lines: list[str] = []
    goes_on = False
    for line in path.read_text(errors="replace").splitlines():
        body = line[10:].strip() if line.startswith("REMARK 350") else ""
        if goes_on and body and ":" not in body and "BIOMT" not in body:
            names = [name.strip() for name in body.split(",") if name.strip()]
            # Few names per line: a line of this format ends at column 80.
            lines += [
                f"REMARK 350                    AND CHAINS: {', '.join(names[i : i + 8])},"
                for i in range(0, len(names), 8)
            ]
        else:
            lines.append(line)
        goes_on = body.endswith(",") and (":" in body or goes_on)
    return gemmi.read_pdb_string("\n".join(lines) + "\n")


def _build_assembly(structure: gemmi.Structure, path: Path, observer: Observer) -> None:
    name = structure.assemblies[0].name
    before = structure[0].count_atom_sites()
    structure.transform_to_assembly(name, gemmi.HowToNameCopiedChain.AddNumber)
    after = structure[0].count_atom_sites()
    if after == before:
        observer.notice(f"{Path(path).name}: the deposited atoms are biological assembly {name}")
    else:
        observer.notice(f"{Path(path).name}: biological assembly {name} built ({before} to {after} atoms)")


def atom_positions(structure: gemmi.Structure) -> tuple[np.ndarray, np.ndarray]:
    """Positions ``(n, 3)`` in Å (x, y, z) and masses ``(n,)`` in Da, weighted by occupancy."""
    rows = [
        (a.atom.pos.x, a.atom.pos.y, a.atom.pos.z, a.atom.element.weight * a.atom.occ)
        for a in structure[0].all()
    ]
    table = np.array(rows, dtype=np.float64)
    return table[:, :3], table[:, 3]


def centre_of_mass(structure: gemmi.Structure) -> np.ndarray:
    """Centre of mass ``(3,)`` in Å (x, y, z)."""
    positions, masses = atom_positions(structure)
    if masses.sum() <= 0:
        raise FormatError("all atoms of the model have occupancy 0; nothing to compute a density from")
    return np.asarray(masses @ positions / masses.sum())
