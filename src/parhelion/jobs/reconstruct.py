"""Reconstruct a map from particles whose poses are known.

Every particle is inserted at its pose, weighted by its CTF and the noise power of the images' background, by
its occupancy, and where it has one by its score. By default the particles are divided into two half sets (the
table's own where it has them), whose maps give the resolution and the filter of the map of all particles.
With --classes each class gets its own maps, in one pass over the images. With --partial-sums a part of the
particles is summed and written to a file; merge3d makes of such files the maps that one run would have made.
"""

from typing import TYPE_CHECKING, Literal

from pydantic import model_validator

from parhelion.jobs import _reconstruct as shared
from parhelion.jobs._inputs import MapFile, ParticlesFile, Symmetry
from parhelion.jobs._particles import Contrast, contrast_option, particle_pixel_size_option
from parhelion.registry import CommaList, Estimate, Output, Result, declare, option

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from parhelion.algorithms.reconstruct import ReconstructSettings
    from parhelion.algorithms.reconstruct_sums import PartialSums
    from parhelion.model.particles import ParticleSet
    from parhelion.model.volume import Volume
    from parhelion.run.context import Context

HALVES, CHOICE, WEIGHTS, IMAGES = "Half sets", "Which particles", "Weights", "Images"
BLUR, PARTS = "Likelihood blurring", "In parts"


class Params(shared.MapParams):
    """What the job takes."""

    input: ParticlesFile = option(help="table of particles with CTF and poses", short="i")
    symmetry: Symmetry = option("C1", help="point group: C1, C2 …, D2 …, T, O, I1 to I4")
    contrast: Contrast = contrast_option()
    pixel_size: float | None = particle_pixel_size_option()
    diameter: float | None = option(
        None,
        help="diameter of a circle to which images are masked",
        unit="Å",
        gt=0,
        le=5000,
        short="d",
        default_text="the box",
    )
    resolution_limit: float | None = option(
        None, help="use no finer detail than this", unit="Å", gt=0, default_text="Nyquist"
    )
    padding: float = option(
        2.0, help="how much finer than the image's transform the sums are sampled", unit="1", ge=1, le=4
    )
    ewald: Literal["off", "positive", "negative"] = option(
        "off",
        help="correct the curvature of the Ewald sphere; its sign says whether points nearer to the viewer "
        "(positive) are further out of focus, which only a better resolution tells",
    )
    halves: bool = option(True, help="make half maps and state a resolution", group=HALVES)
    split: Literal["auto", "random", "even-odd"] = option(
        "auto",
        help="half sets: the table's own, else at random (auto); at random; odd and even rows",
        group=HALVES,
    )
    first: int = option(1, help="first particle, counted from 1", unit="particles", ge=1, group=CHOICE)
    last: int | None = option(
        None, help="last particle", unit="particles", ge=1, default_text="the last there is", group=CHOICE
    )
    classes: CommaList[str] | None = option(
        None,
        help="make a map of each of these classes, such as 1,3 or all, of their particles by occupancy",
        default_text="one map of all particles",
        group=CHOICE,
    )
    exclude_edges: bool = option(False, help="leave out images with a blank edge", group=CHOICE)
    score_threshold: float = option(
        0.0,
        help="0: use all particles; up to 1: this share of them, those of the best scores; above 1: those of "
        "at least this score",
        unit="1",
        ge=0,
        group=CHOICE,
    )
    occupancy_weights: bool = option(
        True, help="weight particles by their occupancies, where they have any", group=WEIGHTS
    )
    score_weight: float | None = option(
        None,
        help="score to weight constant: B = (score - average) x this x 0.25; 0 does not weight by scores",
        unit="Å²",
        ge=0,
        le=10,
        default_text="2 where the particles have scores",
        group=WEIGHTS,
    )
    adjust_scores: bool = option(
        True, help="take out how scores depend on defocus before they are used", group=WEIGHTS
    )
    exposure_weights: bool = option(
        False,
        help="weight each image by what its exposure leaves of the signal (cisTEM's pre- and total exposure)",
        group=WEIGHTS,
    )
    normalise: bool = option(
        True, help="bring each image's background to variance 1; otherwise it keeps its scale", group=IMAGES
    )
    autocrop: bool = option(
        False, help="crop the images to what --diameter needs: faster, with less background", group=IMAGES
    )
    reference: MapFile | None = option(
        None,
        help="the map that the particles were aligned to: blur each particle over the angles and shifts "
        "around its pose by their likelihood against it",
        default_text="no blurring",
        group=BLUR,
    )
    reference_limit: float | None = option(
        None,
        help="use no finer detail of the reference than this",
        unit="Å",
        gt=0,
        default_text="as far as the map goes",
        group=BLUR,
    )
    threshold_reference: bool = option(
        False, help="raise its densities below minus 0.3 of the highest to that", group=BLUR
    )
    smoothing: float = option(
        1.0, help="weight of the likelihood; less blurs more", unit="1", ge=0.1, le=1, group=BLUR
    )
    partial_sums: bool = option(
        False, help="write the sums of --first to --last to a file for merge3d, and no map", group=PARTS
    )

    @model_validator(mode="after")
    def _fit(self) -> "Params":
        given = self.model_fields_set
        self.check_masks()
        compared = given & {"mask", "auto_mask", "split", "mass", "smooth"}
        if not self.halves and compared:
            raise ValueError(
                f"--{min(compared).replace('_', '-')} serves the comparison of half maps, "
                "--no-halves makes none"
            )
        if self.last is not None and self.last < self.first:
            raise ValueError(f"--last {self.last} comes before --first {self.first}")
        if self.classes is not None and self.classes != ("all",):
            wrong = [name for name in self.classes if not (name.isdigit() and int(name) > 0)]
            if wrong:
                raise ValueError(f"--classes {wrong[0]}: numbers from 1 with commas are expected, or all")
        blur = given & {"reference_limit", "threshold_reference", "smoothing"}
        if blur and self.reference is None:
            raise ValueError(f"--{min(blur).replace('_', '-')} needs --reference, which blurring goes by")
        if self.autocrop and self.diameter is None:
            raise ValueError("--autocrop needs --diameter, to which images are cropped")
        solving = given & set(shared.MapParams.model_fields)
        if self.partial_sums and solving:
            raise ValueError(
                f"--{min(solving).replace('_', '-')} is for merge3d, which makes the maps of --partial-sums"
            )
        return self


OUTPUTS = (
    *shared.OUTPUTS,
    Output(
        name="particles", file="particles.star", help="with --centre: the particles, moved", optional=True
    ),
    Output(name="sums", file="sums.npz", help="with --partial-sums: what merge3d adds up", optional=True),
)


def estimate(params: Params) -> Estimate:
    """What ``engine.memory`` plans for the table's particles."""
    from parhelion.algorithms.reconstruct import memory_plan
    from parhelion.engine.memory import volume_bytes
    from parhelion.io.particles import read_particles
    from parhelion.jobs._particles import box_of, require_poses

    particles = read_particles(params.input, pixel_size_angstrom=params.pixel_size)
    require_poses(params.input, particles)
    count, box, pixel = len(particles), box_of(particles), particles.optics[0].pixel_size_angstrom
    settings = _settings(params, 0, particles)
    plan = memory_plan(count, box, pixel, settings, None, params.reference is not None)
    maps = len(settings.weights.classes or (1,))
    volumes = 4 * box**3 * (4 if params.halves else 1)
    if params.partial_sums:
        volumes = volume_bytes(box, box // 2 - 1)[1] * (2 if params.halves else 1)
    return Estimate(
        memory_bytes=plan.fixed_bytes, per_thread_bytes=plan.per_thread_bytes, disk_bytes=maps * volumes
    )


def run(context: "Context", params: Params) -> Result:
    """Insert the particles; write the maps, or the sums."""
    from parhelion.algorithms import preparation as prepare
    from parhelion.algorithms.reconstruct import sum_particles
    from parhelion.algorithms.reconstruct_solve import solve_maps
    from parhelion.jobs._particles import read_with_images, require_poses

    particles, source = read_with_images(
        params.input, context, contrast=params.contrast, pixel_size=params.pixel_size
    )
    require_poses(params.input, particles)
    pixel = particles.optics[0].pixel_size_angstrom
    mask = shared.mask_of(params, source.box, pixel, params.input)
    sums = sum_particles(
        particles,
        source,
        _settings(params, context.seed, particles),
        reference=_reference(params),
        executor=context.executor,
        observer=context,
        cancel=context,
        device=context.device,
    )
    if particles.rotation is not None:
        context.report.angular_distribution(particles.rotation)
    if params.partial_sums:
        return _write_sums(context, sums)
    if mask is not None:
        mask = prepare.on_grid_of(mask, sums.full_box, pixel, context, "mask")
    settings = shared.solve_settings(params, context.seed)
    found = solve_maps(sums, settings, executor=context.executor, observer=context, mask=mask)
    figures, outputs = shared.finish(context, params, found)
    figures["used_particles"] = sums.inserted
    if params.centre and len(found) == 1:
        outputs["particles"] = _write_moved(context, particles, found[0].shift_xyz_angstrom)
    return Result(figures=figures, outputs=outputs)


def _settings(params: Params, seed: int, particles: "ParticleSet") -> "ReconstructSettings":
    from parhelion.algorithms.particle_weights import WeightSettings
    from parhelion.algorithms.reconstruct import ReconstructSettings

    return ReconstructSettings(
        symmetry=params.symmetry,
        diameter_angstrom=params.diameter,
        resolution_limit_angstrom=params.resolution_limit,
        halves=params.halves,
        split=params.split,
        weights=WeightSettings(
            classes=_classes(params, particles),
            occupancy=params.occupancy_weights,
            score_constant_angstrom2=params.score_weight,
            adjust_scores=params.adjust_scores,
            score_threshold=params.score_threshold,
            exposure=params.exposure_weights,
        ),
        normalise=params.normalise,
        exclude_edges=params.exclude_edges,
        crop=params.autocrop,
        padding=params.padding,
        ewald=params.ewald,
        blur_resolution_angstrom=params.reference_limit,
        smoothing=params.smoothing,
        first=params.first,
        last=params.last,
        seed=seed,
    )


def _classes(params: Params, particles: "ParticleSet") -> tuple[int, ...] | None:
    """The numbers of the classes asked for, each once."""
    from parhelion.errors import MetadataError
    from parhelion.model.occupancy import occupancies

    if params.classes is None:
        return None
    if params.classes != ("all",):
        return tuple(sorted({int(name) for name in params.classes}))
    percent = occupancies(particles)
    if percent is not None:
        return tuple(range(1, percent.shape[1] + 1))
    if particles.class_number is None:
        raise MetadataError(f"{params.input} has neither classes (rlnClassNumber) nor occupancies")
    return tuple(sorted({int(k) for k in particles.class_number if k > 0}))


def _reference(params: Params) -> "Volume | None":
    import numpy as np

    from parhelion.io import mrc
    from parhelion.model.volume import Volume

    if params.reference is None:
        return None
    volume = mrc.read_volume(params.reference)
    if not params.threshold_reference:
        return volume
    raised = np.maximum(volume.data, -0.3 * float(volume.data.max()))
    return Volume(data=raised, pixel_size_angstrom=volume.pixel_size_angstrom)


def _write_sums(context: "Context", sums: "PartialSums") -> Result:
    from parhelion.algorithms.reconstruct_sums import as_arrays
    from parhelion.io.partial_sums import write_partial_sums

    header, arrays = as_arrays(sums)
    write_partial_sums(context.path("sums"), header, arrays)
    first, last = sums.ranges[0]
    figures = {"first_particle": first + 1, "last_particle": last + 1, "used_particles": sums.inserted}
    return Result(figures=figures, outputs={"sums": context.path("sums")})


def _write_moved(context: "Context", particles: "ParticleSet", shift: "np.ndarray") -> "Path":
    import numpy as np

    from parhelion.algorithms.frame_change import particles_in_frame
    from parhelion.io.particles import write_particles

    write_particles(context.path("particles"), particles_in_frame(particles, np.eye(3), shift))
    return context.path("particles")


JOB = declare(__name__, __doc__, params=Params, run=run, estimate=estimate, outputs=OUTPUTS)
