"""The molecule that simulations show: from an atomic model or a map, on the pixel size they need."""

from pathlib import Path
from typing import TYPE_CHECKING

from parhelion.jobs._inputs import MAP_SUFFIXES

if TYPE_CHECKING:
    from parhelion.contracts import Observer
    from parhelion.model.volume import Volume


def is_map(model: Path) -> bool:
    """Whether a model is given as a map."""
    return model.suffix.lower() in MAP_SUFFIXES


def molecule_box(model: Path, pixel_size: float | None, share: float) -> tuple[int, float]:
    """Edge in pixels of a box for the molecule, and its pixel size in Å (default: that of the map).

    A map keeps its extent; an atomic model gets ``share`` of the diameter that it has about its centre.
    """
    from parhelion.io import mrc

    if is_map(model):
        header = mrc.read_header(model)
        pixel = pixel_size or header.pixel_size_angstrom or mrc.read_volume(model).pixel_size_angstrom
        extent = max(header.shape) * (header.pixel_size_angstrom or pixel)
        return max(16, 2 * round(extent / pixel / 2)), pixel
    import numpy as np

    from parhelion.algorithms.simulate.density import atom_positions, centre_of_mass, read_model

    pixel = pixel_size or 1.0
    structure = read_model(model)
    positions, _ = atom_positions(structure)
    radius = float(np.linalg.norm(positions - centre_of_mass(structure), axis=1).max())
    return max(16, 8 * int(np.ceil(2 * share * radius / pixel / 8))), pixel


def molecule_density(
    observer: "Observer",
    model: Path,
    box: int,
    pixel_size: float,
    *,
    symmetry: str = "C1",
    resolution_angstrom: float | None = None,
) -> "Volume":
    """The density of the molecule: a potential in V from an atomic model, a map's own values (resampled
    where its box or pixel size differ, with a notice)."""
    from parhelion.algorithms.simulate.density import density_from_model
    from parhelion.fourier.filters import lowpass
    from parhelion.fourier.resample import resample_volume
    from parhelion.geometry.symmetry import symmetry_group
    from parhelion.io import mrc

    if not is_map(model):
        return density_from_model(
            model,
            box,
            pixel_size,
            resolution_angstrom=resolution_angstrom,
            symmetry=symmetry_group(symmetry),
            observer=observer,
        )
    header = mrc.read_header(model)
    volume = mrc.read_volume(model, None if header.pixel_size_angstrom else pixel_size)
    if volume.data.shape != (box, box, box) or abs(volume.pixel_size_angstrom / pixel_size - 1) > 1e-4:
        shape = " x ".join(str(n) for n in volume.data.shape)
        observer.notice(
            f"the map ({shape} at {volume.pixel_size_angstrom:.4g} Å) was resampled to {box} "
            f"at {pixel_size:.4g} Å"
        )
        volume = resample_volume(volume, box, pixel_size)
    return lowpass(volume, resolution_angstrom) if resolution_angstrom else volume
