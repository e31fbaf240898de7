"""Project a map into images.

The directions are the poses of a particle table, or a regular grid over the sphere. With a table, the images
are what its particles would look like without noise, unless noise is asked for; the map is brought to their
pixel size and box. Without one, the table that is written has pure amplitude contrast and no defocus: no CTF.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import model_validator

from parhelion.errors import InputError
from parhelion.jobs._inputs import MapFile, ParticlesFile, Symmetry
from parhelion.jobs._maps import images_at_once, pixel_size_option, projecting, voxels
from parhelion.jobs._particles import require_poses
from parhelion.registry import Estimate, JobParams, Output, Result, declare, option

if TYPE_CHECKING:
    import numpy as np

    from parhelion.model.particles import ParticleSet
    from parhelion.model.volume import Volume
    from parhelion.run.context import Context

SHOWN = 12
EDGE_PIXELS = 4


class Params(JobParams):
    """What the job takes."""

    input: MapFile = option(help="the map", short="i")
    pixel_size: float | None = pixel_size_option()
    particles: ParticlesFile | None = option(
        None, help="table of particles whose poses are used", short="p", default_text="none"
    )
    step: float | None = option(
        None,
        help="largest spacing of a regular grid of directions over the sphere (HEALPix)",
        unit="degrees",
        ge=1,
        le=60,
        default_text="none",
    )
    symmetry: Symmetry = option(
        "C1",
        help="point group (C1, D2, O, I1 …) to impose on the map before it is projected; a regular grid "
        "keeps to views that differ by it",
    )
    ctf: bool = option(False, help="apply the CTF of each particle")
    padding: int = option(
        2,
        help="images are made this many times larger for the CTF and the shifts, and cut; with 1 what the "
        "CTF spreads beyond the box wraps around",
        unit="1",
        ge=1,
        le=4,
    )
    shifts: bool = option(True, help="shift the projections as the particles are; without, they are centred")
    first: int = option(1, help="first view to project, counted from 1", unit="views", ge=1)
    last: int | None = option(
        None, help="last view to project", unit="views", ge=1, default_text="the last there is"
    )
    mask_radius: float | None = option(
        None,
        help="mask the projections by a soft circle of this radius",
        unit="Å",
        gt=0,
        le=10_000,
        default_text="no mask",
    )
    snr: float | None = option(
        None,
        help="add white noise: variance of each projection over that of its noise",
        unit="1",
        gt=0,
        le=1e6,
        default_text="no noise",
    )

    @model_validator(mode="after")
    def _one_source(self) -> "Params":
        if (self.particles is None) == (self.step is None):
            raise ValueError("give --particles for the poses of a table, or --step for a regular grid")
        if self.ctf and self.particles is None:
            raise ValueError("--ctf needs --particles, which say the defocus")
        if not self.shifts and self.particles is None:
            raise ValueError("--no-shifts needs --particles, which have some")
        if "padding" in self.model_fields_set and self.particles is None:
            raise ValueError("--padding is for CTF and shifts, which need --particles")
        if self.last is not None and self.last < self.first:
            raise ValueError(f"--last {self.last} comes before --first {self.first}")
        return self


OUTPUTS = (
    Output(name="images", file="projections.mrcs", help="the projections"),
    Output(name="particles", file="projections.star", help="the poses, with the names of the new images"),
)


def estimate(params: Params) -> Estimate:
    """The padded transform of the map, and chunks of images."""
    return projecting(round(voxels(params.input) ** (1 / 3)), _how_many(params))


def run(context: "Context", params: Params) -> Result:
    """Project chunk by chunk and write stack and table."""
    import numpy as np

    from parhelion.algorithms.simulate.project import Projector
    from parhelion.algorithms.simulate.views import images_of_particles
    from parhelion.algorithms.symmetry_search import impose_symmetry
    from parhelion.geometry.symmetry import symmetry_group
    from parhelion.io import mrc

    volume = mrc.read_volume(params.input, params.pixel_size)
    if not np.ptp(volume.data):
        raise InputError(f"{params.input} has the same density everywhere; there is nothing to project")
    group = symmetry_group(params.symmetry)
    if len(group) > 1:
        volume = impose_symmetry(volume, group)
    particles, volume = _poses(context, params, volume)
    particles = _chosen(params, particles)
    if params.particles is not None and not params.ctf:
        context.notice(
            "the images have no CTF, while the table keeps the particles' defocus; --ctf applies it"
        )
    projector = Projector(volume.data)
    count, box, pixel = len(particles), volume.box, volume.pixel_size_angstrom

    def images(index: np.ndarray) -> np.ndarray:
        clean = images_of_particles(
            projector, particles, index, box, pixel, with_ctf=params.ctf, padding=params.padding
        )
        return _finished(clean, index, params, pixel, context.seed)

    step = images_at_once(box)
    chunks = [np.arange(start, min(start + step, count)) for start in range(0, count, step)]
    shown: list[np.ndarray] = []
    with mrc.StackWriter(context.path("images"), count, (box, box), pixel) as writer:
        for index, made in zip(chunks, context.executor.map(images, chunks)):
            writer.write(int(index[0]), made)
            shown += list(made[: SHOWN - len(shown)].copy())
            context.progress("project", int(index[-1]) + 1, count)
    _write_table(context, particles)
    context.report.gallery(shown, [f"projection {i + 1}" for i in range(len(shown))], "First projections")
    if particles.rotation is not None:
        context.report.angular_distribution(particles.rotation)
    return Result(
        figures={"projections": count, "box": box, "pixel_size_angstrom": pixel},
        outputs={"images": context.path("images"), "particles": context.path("particles")},
    )


def _how_many(params: Params) -> int:
    from parhelion.io.particles import read_particles

    whole = len(_grid(params.step or 60.0, params.symmetry))
    if params.particles is not None:
        particles = read_particles(params.particles)
        require_poses(params.particles, particles)
        whole = len(particles)
    return max(0, min(whole, params.last or whole) - params.first + 1)


def _chosen(params: Params, particles: "ParticleSet") -> "ParticleSet":
    """The views asked for, centred if so wanted."""
    import numpy as np

    count = len(particles)
    if params.first > count:
        raise InputError(f"--first {params.first} is beyond the last of {count} views")
    rows = np.arange(params.first - 1, min(count, params.last or count))
    if len(rows) < count:
        particles = particles.take(rows)
    if not params.shifts and particles.rotation is not None:
        particles = particles.with_poses(particles.rotation, np.zeros((len(particles), 3)))
    return particles


def _finished(
    images: "np.ndarray", index: "np.ndarray", params: Params, pixel: float, seed: int
) -> "np.ndarray":
    """The projections inside the mask, and with their noise; that of an image depends on its number only."""
    import numpy as np

    from parhelion.images.masks import circular_mask

    box = images.shape[1]
    if params.mask_radius is not None:
        images = images * circular_mask(box, pixel, params.mask_radius, max(EDGE_PIXELS * pixel, 5.0))
    if params.snr is not None:
        deviation = images.std(axis=(1, 2)) / np.sqrt(params.snr)
        for image, number, sigma in zip(images, index.tolist(), deviation.tolist()):
            image += sigma * np.random.default_rng([seed, 17, number]).normal(size=(box, box))
    return np.asarray(images, np.float32)


def _grid(step_deg: float, symmetry: str) -> "np.ndarray":
    """Orientations that look from the points of a HEALPix grid in the asymmetric unit, without in-plane
    turns."""
    import numpy as np

    from parhelion.geometry.rotations import from_relion
    from parhelion.geometry.so3 import MAX_ORDER, grid_spacing_deg, sphere_grid
    from parhelion.geometry.symmetry import asymmetric_unit_mask, symmetry_group

    order = next(k for k in range(MAX_ORDER + 1) if grid_spacing_deg(k) <= step_deg or k == MAX_ORDER)
    directions = sphere_grid(order)
    x, y, z = directions[asymmetric_unit_mask(directions, symmetry_group(symmetry))].T
    return from_relion(np.degrees(np.arctan2(y, x)), np.degrees(np.arccos(z)), np.zeros_like(x))


def _poses(context: "Context", params: Params, volume: "Volume") -> tuple["ParticleSet", "Volume"]:
    """The poses to project at, and the map on the grid of their images."""
    from parhelion.fourier.resample import resample_volume
    from parhelion.io.particles import read_particles

    if params.particles is None:
        return _regular(params.step or 60.0, volume, params.symmetry), volume
    notes: list[str] = []
    particles = read_particles(params.particles, notes=notes)
    for note in notes:
        context.notice(note)
    grids = {(group.box or volume.box, round(group.pixel_size_angstrom, 4)) for group in particles.optics}
    if len(grids) > 1:
        raise InputError(f"{params.particles} has images of several boxes or pixel sizes: {sorted(grids)}")
    box, pixel = particles.optics[0].box or volume.box, particles.optics[0].pixel_size_angstrom
    if volume.data.shape != (box, box, box) or abs(volume.pixel_size_angstrom / pixel - 1) > 1e-3:
        context.notice(
            f"the map was resampled to the particles' grid, {box} pixels of {pixel:.4g} Å "
            f"(it had {volume.pixel_size_angstrom:.4g} Å)"
        )
        volume = resample_volume(volume, box, pixel)
    return particles, volume


def _regular(step_deg: float, volume: "Volume", symmetry: str) -> "ParticleSet":
    """Particles that look at the map from a regular grid; they have no CTF."""
    import numpy as np

    from parhelion.model.particles import OpticsGroup, ParticleSet, Views

    rotation = _grid(step_deg, symmetry)
    count = len(rotation)
    zeros, none = np.zeros(count), np.zeros(count, np.int64)
    group = OpticsGroup(
        name="projections",
        pixel_size_angstrom=volume.pixel_size_angstrom,
        voltage_kv=300.0,
        spherical_aberration_mm=0.0,
        amplitude_contrast=1.0,
        box=volume.box,
    )
    views = Views(
        image_path=(Path("projections.mrcs"),),
        path_id=none,
        image_index=np.arange(count),
        particle=np.arange(count),
        optics_group=none,
        defocus_u_angstrom=zeros,
        defocus_v_angstrom=zeros,
        defocus_angle_deg=zeros,
        phase_shift_deg=zeros,
        ctf_bfactor_angstrom2=zeros,
        ctf_scale=np.ones(count),
        noise_group=none,
    )
    return ParticleSet(
        optics=(group,), views=views, count=count, rotation=rotation, shift_xyz_angstrom=np.zeros((count, 3))
    )


def _write_table(context: "Context", particles: "ParticleSet") -> None:
    """The poses beside the new images, one image per row in their order."""
    from dataclasses import replace

    import numpy as np

    from parhelion.io.particles import write_particles

    count = len(particles)
    views = replace(
        particles.views,
        image_path=(context.path("images"),),
        path_id=np.zeros(count, np.int64),
        image_index=np.arange(count),
    )
    write_particles(context.path("particles"), replace(particles, views=views))


JOB = declare(__name__, __doc__, params=Params, run=run, estimate=estimate, outputs=OUTPUTS)
