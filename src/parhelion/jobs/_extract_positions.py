"""Where ``extract`` takes its boxes: picked coordinates, or particles that were extracted before."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from parhelion.algorithms.extraction import box_centres
from parhelion.contracts import Observer
from parhelion.errors import MetadataError, ParameterError
from parhelion.io.coordinates import read_coordinates, rows_of_names, without_duplicates
from parhelion.io.particles import read_particles
from parhelion.io.relion import ORIGIN_ANGSTROM, ORIGIN_PIXELS
from parhelion.io.star import read_star
from parhelion.model.micrographs import Coordinates, Micrographs
from parhelion.model.particles import ParticleSet
from parhelion.model.table import Table

X, Y, MERIT, MICROGRAPH = "rlnCoordinateX", "rlnCoordinateY", "rlnAutopickFigureOfMerit", "rlnMicrographName"

WHOLE = 1e-4
"""So near below a whole pixel a coordinate is that pixel."""


@dataclass(frozen=True, kw_only=True)
class Positions:
    """Where particles are: ``xy_px`` ``(n, 2)`` in micrographs, and the rows of the table they come from.

    ``shift_xy_angstrom`` is what is left to carry each particle to the centre of its box, for particles
    that had been aligned.
    """

    micrograph: np.ndarray
    xy_px: np.ndarray
    row: np.ndarray
    coordinates: Coordinates | None = None
    particles: ParticleSet | None = None
    shift_xy_angstrom: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.row)

    def of(self, micrograph: int) -> np.ndarray:
        """Numbers of the positions in this micrograph."""
        return np.flatnonzero(self.micrograph == micrograph)

    def at(self, index: np.ndarray) -> "Positions":
        """The positions at ``index``."""
        shift = self.shift_xy_angstrom
        return replace(
            self,
            micrograph=self.micrograph[index],
            xy_px=self.xy_px[index],
            row=self.row[index],
            shift_xy_angstrom=None if shift is None else shift[index],
        )


def holds_particles(paths: Sequence[Path]) -> bool:
    """Whether the input is a table of particles that were extracted before."""
    if len(paths) != 1 or paths[0].suffix.lower() != ".star":
        return False
    return any("rlnImageName" in table for name, table in read_star(paths[0]).items() if name != "optics")


def positions_from_coordinates(
    paths: Sequence[Path],
    micrographs: Micrographs,
    observer: Observer,
    *,
    coordinates_pixel_size: float | None,
    min_merit: float | None,
) -> Positions:
    """Picked positions in pixels of the micrographs."""
    notes: list[str] = []
    pixel = np.array([g.pixel_size_angstrom for g in micrographs.optics])[micrographs.optics_group]
    found = read_coordinates(
        paths,
        names=micrographs.name,
        pixel_size_angstrom=pixel.tolist() if coordinates_pixel_size is None else coordinates_pixel_size,
        notes=notes,
    )
    for note in notes:
        observer.notice(note)
    if not len(found):
        raise MetadataError(f"{paths[0]} holds no coordinates of these micrographs; look at the picking job")
    xy = found.xy_px
    if coordinates_pixel_size is not None:
        xy = xy * (coordinates_pixel_size / pixel[found.micrograph])[:, None]
    # what is written is the pixel that the box is centred on, about which no program can be mistaken
    xy = box_centres(xy).astype(np.float64)
    kept = np.arange(len(found))
    if min_merit is not None:
        if found.figure_of_merit is None:
            raise MetadataError(f"{paths[0]} has no {MERIT}; --min-merit needs it")
        kept = np.flatnonzero(found.figure_of_merit >= min_merit)
        if not len(kept):
            best = float(np.nanmax(found.figure_of_merit))
            raise ParameterError(
                f"no position reaches --min-merit {min_merit:g}; the highest figure of merit in {paths[0]} "
                f"is {best:g}"
            )
        observer.notice(
            f"{len(kept)} of {len(found)} positions have a figure of merit of {min_merit:g} or more"
        )
    return Positions(micrograph=found.micrograph[kept], xy_px=xy[kept], row=kept, coordinates=found)


def positions_from_particles(
    path: Path,
    micrographs: Micrographs,
    observer: Observer,
    *,
    coordinates_pixel_size: float | None,
    refined: bool | None,
) -> Positions:
    """Positions of particles that were extracted before; ``refined`` moves boxes to where they were found."""
    notes: list[str] = []
    particles = read_particles(path, notes=notes)
    for note in notes:
        observer.notice(note)
    lacking = [label for label in (X, Y, MICROGRAPH) if label not in particles.extra]
    if lacking:
        raise MetadataError(f"{path} lacks {', '.join(lacking)}: it does not say where its particles are")
    rows = rows_of_names([str(name) for name in particles.extra[MICROGRAPH]], micrographs.name)
    xy = np.stack([np.asarray(particles.extra[label], dtype=np.float64) for label in (X, Y)], axis=1)
    kept = np.flatnonzero((rows >= 0) & np.isfinite(xy).all(axis=1))
    if not len(kept):
        raise MetadataError(
            f"no particle of {path} lies in these micrographs: the first is in "
            f"{particles.extra[MICROGRAPH][0]}, the first micrograph is {micrographs.name[0]}"
        )
    if len(kept) < len(particles):
        observer.notice(
            f"{len(particles) - len(kept)} of {len(particles)} particles of {path.name} are left out: their "
            "micrographs are not in the table, or their coordinates are not finite"
        )
    pixel = np.array([g.pixel_size_angstrom for g in micrographs.optics])[micrographs.optics_group][
        rows[kept]
    ]
    # the pixel that the box was centred on, in the micrograph it was cut from: RELION, which most of these
    # tables come from, cuts decimals off
    scale = (coordinates_pixel_size or pixel) / pixel
    centre = np.floor(xy[kept] + WHOLE) * np.broadcast_to(scale, pixel.shape)[:, None]
    xy = box_centres(centre).astype(np.float64)
    shift = _shifts(particles)
    if shift is None:
        if refined:
            raise ParameterError(f"{path} has no shifts; --centres refined needs aligned particles")
        return Positions(micrograph=rows[kept], xy_px=xy, row=kept, particles=particles)
    # the shift counts from the box's centre and points there: the particle lies opposite
    exact = centre - shift[kept] / pixel[:, None]
    if refined is None or refined:
        xy = box_centres(exact).astype(np.float64)
    shift = (xy - exact) * pixel[:, None]
    return Positions(micrograph=rows[kept], xy_px=xy, row=kept, particles=particles, shift_xy_angstrom=shift)


def _shifts(particles: ParticleSet) -> np.ndarray | None:
    """Shifts ``(n, 2)`` in Å of particles aligned in 3D, or in 2D only; None where there are none."""
    if particles.shift_xyz_angstrom is not None:
        return particles.shift_xyz_angstrom[:, :2].copy()
    extra = particles.extra
    pixel = np.array([g.pixel_size_angstrom for g in particles.optics])[particles.views.optics_group]
    for labels, unit in ((ORIGIN_ANGSTROM[:2], np.ones_like(pixel)), (ORIGIN_PIXELS[:2], pixel)):
        if all(label in extra for label in labels):
            found = np.stack([np.asarray(extra[label], dtype=np.float64) * unit for label in labels], axis=1)
            return found if np.isfinite(found).all() else None
    return None


def without_near_ones(positions: Positions, micrographs: Micrographs, distance_angstrom: float) -> Positions:
    """The positions that are further than this from every better (or, without merits, earlier) one."""
    pixel = np.array([g.pixel_size_angstrom for g in micrographs.optics])[micrographs.optics_group]
    merit = positions.coordinates.figure_of_merit if positions.coordinates is not None else None
    left = without_duplicates(
        Coordinates(
            names=micrographs.name,
            micrograph=positions.micrograph,
            # in Å, since pixel sizes may differ
            xy_px=positions.xy_px * pixel[positions.micrograph, None],
            figure_of_merit=None if merit is None else merit[positions.row],
            extra=Table({"number": np.arange(len(positions))}),
        ),
        distance_angstrom,
    )
    return positions.at(left.extra["number"])
