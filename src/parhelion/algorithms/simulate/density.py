"""The electrostatic potential of an atomic model on a grid, centred and free of aliasing."""

from pathlib import Path

import gemmi
import numpy as np
import torch

from parhelion.algorithms.simulate.atomic_model import atom_positions, centre_of_mass, read_model
from parhelion.algorithms.simulate.splat import splat_points
from parhelion.algorithms.simulate.symmetry_axes import align_symmetry_axes
from parhelion.contracts import Observer, SilentObserver
from parhelion.errors import ParameterError
from parhelion.fourier.fft import irfft3, rfft3
from parhelion.fourier.filters import bfactor_envelope, lowpass_envelope
from parhelion.fourier.grids import rfft_frequencies, rfft_radius
from parhelion.fourier.resample import resize_rfft
from parhelion.geometry.symmetry import SymmetryGroup
from parhelion.model.volume import Volume

MOTT_BETHE_VOLT_ANGSTROM2 = 47.87801  # h²/(2π m e): scattering factor per volume (1/Å²) to potential (V)
ICE_POTENTIAL_VOLT = 4.53  # water at 0.93 g/cm³ with f(0) = 1.983 + 2 · 0.529 Å
# Volume displaced per non-hydrogen atom, hydrogens included (134 Å³ per residue of 7.8 atoms, 301 Å³
# per nucleotide of 22), each atom a Gaussian of that volume (Fraser et al., J. Appl. Cryst. 11, 693, 1978).
PROTEIN_ATOM_VOLUME_ANGSTROM3 = 17.2
NUCLEIC_ATOM_VOLUME_ANGSTROM3 = 13.7
HYDROGEN_FACTOR_ANGSTROM = 0.5288
HYDROGENS_PER_ATOM = 1.0
MARGIN_ANGSTROM = 3.0
FINE_PIXEL_ANGSTROM = 1.2
EXACT_SYMMETRY_ANGSTROM = 0.05
ALIAS_BFACTOR_PER_PIXEL2 = 50.0  # B in units of the fine pixel² that leaves less than 0.2 % of folded density


def density_from_model(
    path: Path,
    box: int,
    pixel_size_angstrom: float,
    *,
    resolution_angstrom: float | None = None,
    extra_bfactor_angstrom2: float = 0.0,
    solvent: bool = True,
    symmetry: SymmetryGroup | None = None,
    observer: Observer | None = None,
) -> Volume:
    """The potential in V of an atomic model, centre of mass on voxel ``box // 2``.

    Electron scattering factors (five Gaussians) and the deposited B-factors; with ``solvent`` the
    vitreous ice that the atoms displace is subtracted and riding hydrogens are added where the model has
    none. The density is computed on a grid of about 1.2 Å and cropped in Fourier space, so that nothing
    beyond Nyquist folds back; ``extra_bfactor_angstrom2`` dampens all of it, ``resolution_angstrom`` adds
    a soft low-pass. With ``symmetry`` the model is turned so that its axes lie in the group's setting,
    and averaged over the group where its subunits differ. Raises FormatError for an unreadable model,
    ParameterError when the model does not fit into the box, InputError when it lacks the symmetry.
    """
    if box < 8 or pixel_size_angstrom <= 0:
        raise ParameterError(
            f"a box of at least 8 voxels of positive size is needed, found {box} of {pixel_size_angstrom} Å"
        )
    observer = observer or SilentObserver()
    structure = read_model(Path(path), observer)
    centre = centre_of_mass(structure)
    _check_fits(structure, centre, box, pixel_size_angstrom, Path(path))
    fine_box, fine_pixel = _fine_grid(box, pixel_size_angstrom)
    # Atoms narrower than the fine grid would alias on it: they are computed blurred and sharpened after.
    blur = max(0.0, ALIAS_BFACTOR_PER_PIXEL2 * fine_pixel**2 - _smallest_bfactor(structure))
    radius = rfft_radius((box,) * 3, pixel_size_angstrom)
    turns = _turns(structure, symmetry, observer)
    offset = np.full(3, (fine_box // 2) * fine_pixel)
    total = torch.zeros((box, box, box // 2 + 1), dtype=torch.complex64)
    for turn in turns:
        model = _placed(structure, centre, turn, offset)
        density = _atom_grid(model, fine_box, fine_pixel, blur)
        transform = resize_rfft(rfft3(density), density.shape, box)
        total += transform * bfactor_envelope(radius, -blur)
        if solvent:
            displaced = _displacement_grids(model, fine_box, fine_pixel)
            for grid, width in displaced:
                part = resize_rfft(rfft3(grid), grid.shape, box)
                total -= part * _point_envelope((box,) * 3, pixel_size_angstrom, fine_pixel, width, radius)
    total *= bfactor_envelope(radius, extra_bfactor_angstrom2) / len(turns)
    if resolution_angstrom is not None:
        total *= lowpass_envelope(radius, resolution_angstrom, 2.0 / (box * pixel_size_angstrom))
    data = irfft3(total, (box,) * 3).numpy()
    return Volume(data=data, pixel_size_angstrom=float(pixel_size_angstrom))


def _turns(structure: gemmi.Structure, symmetry: SymmetryGroup | None, observer: Observer) -> np.ndarray:
    """The rotations ``(m, 3, 3)`` about the centre whose average is the density."""
    if symmetry is None or len(symmetry) == 1:
        return np.eye(3)[None]
    frame = align_symmetry_axes(structure, symmetry)
    alike = frame.deviation_angstrom < EXACT_SYMMETRY_ANGSTROM and frame.matched_share > 0.999
    how = "needs no averaging" if alike else f"averaged over the {len(symmetry)} operators"
    observer.notice(
        f"turned by {frame.turn_deg:.1f} degrees into the setting of {symmetry.name}; symmetry-related "
        f"backbone atoms differ by {frame.deviation_angstrom:.2f} Å: {how}"
    )
    return frame.rotation[None] if alike else symmetry.operators @ frame.rotation


def _fine_grid(box: int, pixel_size_angstrom: float) -> tuple[int, float]:
    """Box and pixel size of the grid on which atoms are drawn: the same extent, at least twice as fine
    unless the pixels are already finer than the atoms."""
    factor = (
        1 if pixel_size_angstrom <= 0.6 else max(2, int(np.ceil(pixel_size_angstrom / FINE_PIXEL_ANGSTROM)))
    )
    return factor * box, pixel_size_angstrom / factor


def _smallest_bfactor(structure: gemmi.Structure) -> float:
    return max(0.0, min(a.atom.b_iso for a in structure[0].all()))


def _check_fits(
    structure: gemmi.Structure, centre: np.ndarray, box: int, pixel_size_angstrom: float, path: Path
) -> None:
    """ParameterError unless the model, turned about its centre in any way, stays inside the box."""
    positions, _ = atom_positions(structure)
    radius = float(np.linalg.norm(positions - centre, axis=1).max()) + MARGIN_ANGSTROM
    half = 0.5 * box * pixel_size_angstrom
    if radius > half:
        needed = 2 * int(np.ceil(radius / pixel_size_angstrom))
        raise ParameterError(
            f"{path}: the model reaches {radius:.0f} Å from its centre of mass, the box of {box} voxels of "
            f"{pixel_size_angstrom:g} Å only {half:.0f} Å; use a box of at least {needed} or larger voxels"
        )


def _placed(
    structure: gemmi.Structure, centre: np.ndarray, turn: np.ndarray, offset: np.ndarray
) -> gemmi.Model:
    """A copy of the model turned about ``centre``, which is moved to ``offset`` (Å)."""
    model = structure[0].clone()
    transform = gemmi.Transform()
    transform.mat.fromlist(turn.tolist())
    transform.vec.fromlist((offset - turn @ centre).tolist())
    model.transform_pos_and_adp(transform)
    return model


def _atom_grid(model: gemmi.Model, box: int, pixel: float, blur: float) -> torch.Tensor:
    """Potential ``(z, y, x)`` in V of the atoms in a periodic cubic cell."""
    calculator = gemmi.DensityCalculatorE()
    calculator.blur = blur
    edge = box * pixel
    calculator.grid.spacegroup = gemmi.SpaceGroup("P1")
    calculator.grid.set_unit_cell(gemmi.UnitCell(edge, edge, edge, 90, 90, 90))
    calculator.grid.set_size(box, box, box)
    calculator.d_min = 2 * pixel
    calculator.add_model_density_to_grid(model)
    grid = np.ascontiguousarray(calculator.grid.array.transpose(2, 1, 0))
    return torch.from_numpy(grid) * MOTT_BETHE_VOLT_ANGSTROM2


def _displacement_grids(model: gemmi.Model, box: int, pixel: float) -> list[tuple[torch.Tensor, float]]:
    """Point densities of what the atoms displace (V), less missing hydrogens, with their B-factors (Å²)."""
    protein: list[tuple[float, ...]] = []
    nucleic: list[tuple[float, ...]] = []
    hydrogens = 0
    for chain in model:
        for residue in chain:
            rows = nucleic if gemmi.find_tabulated_residue(residue.name).is_nucleic_acid() else protein
            for atom in residue:
                if atom.is_hydrogen():
                    hydrogens += 1
                else:
                    rows.append((atom.pos.x, atom.pos.y, atom.pos.z, atom.occ))
    riding = 0.0 if hydrogens else HYDROGENS_PER_ATOM * HYDROGEN_FACTOR_ANGSTROM * MOTT_BETHE_VOLT_ANGSTROM2
    grids = []
    for rows, volume in ((protein, PROTEIN_ATOM_VOLUME_ANGSTROM3), (nucleic, NUCLEIC_ATOM_VOLUME_ANGSTROM3)):
        if rows:
            weight = ICE_POTENTIAL_VOLT * volume - riding
            points = splat_points(np.array(rows), box, pixel) * (weight / pixel**3)
            grids.append((points, 4 * np.pi * volume ** (2 / 3)))
    return grids


def _point_envelope(
    shape: tuple[int, ...], pixel: float, fine_pixel: float, bfactor: float, radius: torch.Tensor
) -> torch.Tensor:
    """Gaussian of the displaced volume, divided by the transform of the trilinear share (sinc² per axis)."""
    envelope = bfactor_envelope(radius, bfactor)
    for frequency in rfft_frequencies(shape, pixel):
        envelope = envelope / torch.sinc(frequency * fine_pixel) ** 2
    return envelope
