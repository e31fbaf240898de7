"""Simulate particle images from an atomic model or a map.

Random orientations, shifts and defoci; CTF; noise by signal-to-noise ratio or by dose. truth.star has what is
true of the images. particles.star has what a microscopist would start with: no poses, no beam tilt, trefoil
or magnification, and the defocus that the images' own rings show.
"""

import math
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, model_validator

from parhelion.jobs._inputs import ModelFile, Symmetry
from parhelion.jobs.simulate._molecule import is_map, molecule_box, molecule_density
from parhelion.registry import Estimate, JobParams, Output, Result, declare, option

if TYPE_CHECKING:
    import numpy as np

    from parhelion.algorithms.simulate.particles import SimulatedParticles
    from parhelion.model.particles import ParticleSet
    from parhelion.model.volume import Volume
    from parhelion.run.context import Context

SAMPLE, NOISE, OPTICS = "Molecule and images", "Noise", "Microscope"
DEFAULT_SNR = 0.1
SHOWN = 8
BOX_PER_DIAMETER = 1.6
Micrometres = Annotated[float, Field(ge=-1, le=10)]
Tilt = Annotated[float, Field(ge=-50, le=50)]
Trefoil = Annotated[float, Field(ge=-10000, le=10000)]
Stretch = Annotated[float, Field(ge=-1.25, le=1.25)]
UNDISTORTED = (1.0, 0.0, 0.0, 1.0)


class Params(JobParams):
    """What the job takes."""

    model: ModelFile = option(
        help="atomic model (.cif, .pdb) or map (.mrc) of the molecule", short="m", group=SAMPLE
    )
    count: int = option(1000, help="how many images", unit="particles", ge=1, le=10**7, group=SAMPLE)
    box: int | None = option(
        None,
        help="edge of the images",
        unit="pixels",
        ge=16,
        le=2048,
        default_text="that of the map, or 1.6 times the molecule",
        group=SAMPLE,
    )
    pixel_size: float | None = option(
        None,
        help="pixel size of the images",
        unit="Å",
        ge=0.1,
        le=30,
        default_text="that of the map; needed for an atomic model",
        group=SAMPLE,
    )
    symmetry: Symmetry = option(
        "C1",
        help="point group (RELION's setting) that an atomic model is turned into and averaged over",
        group=SAMPLE,
    )
    resolution: float | None = option(
        None, help="low-pass the molecule", unit="Å", gt=0, le=200, default_text="Nyquist", group=SAMPLE
    )
    shift: float = option(
        5.0, help="largest shift from the centre, along x and y", unit="Å", ge=0, le=200, group=SAMPLE
    )
    snr: float | None = option(
        None,
        help="variance of the noise-free image with CTF over the box, divided by the noise's per pixel",
        unit="1",
        gt=0,
        default_text=f"{DEFAULT_SNR:g}, unless --dose is given",
        group=NOISE,
    )
    dose: float | None = option(
        None,
        help="electrons per area instead: Poisson noise of a weak phase object (atomic models)",
        unit="e⁻/Å²",
        gt=0,
        le=1000,
        default_text="none",
        group=NOISE,
    )
    defocus_range: tuple[Micrometres, Micrometres] = option(
        (0.8, 2.5), help="least and largest underfocus", unit="µm", group=OPTICS
    )
    astigmatism: float = option(
        300.0, help="largest difference of the two defoci", unit="Å", ge=0, le=20000, group=OPTICS
    )
    voltage: float = option(300.0, help="acceleration voltage", unit="kV", ge=60, le=400, group=OPTICS)
    cs: float = option(2.7, help="spherical aberration", unit="mm", ge=0, le=10, group=OPTICS)
    amplitude_contrast: float = option(0.1, help="amplitude contrast", unit="1", ge=0, le=1, group=OPTICS)
    phase_shift: float = option(
        0.0, help="phase shift of a phase plate", unit="degrees", ge=0, le=180, group=OPTICS
    )
    beam_tilt: tuple[Tilt, Tilt] = option(
        (0.0, 0.0), help="beam tilt along x and y (rlnBeamTiltX, rlnBeamTiltY)", unit="mrad", group=OPTICS
    )
    trefoil: tuple[Trefoil, Trefoil] = option(
        (0.0, 0.0),
        help="threefold phase a s³ cos 3θ + b s³ sin 3θ at the frequency s (in rlnOddZernike)",
        unit="rad Å³",
        group=OPTICS,
    )
    magnification: tuple[Stretch, Stretch, Stretch, Stretch] = option(
        (1.0, 0.0, 0.0, 1.0),
        help="images show at k what is at M k: the matrix row by row (rlnMagMat00, 01, 10, 11)",
        unit="1",
        group=OPTICS,
    )

    @model_validator(mode="after")
    def _consistent(self) -> "Params":
        if self.snr is not None and self.dose is not None:
            raise ValueError("--snr and --dose both set the noise; give one")
        if self.defocus_range[0] > self.defocus_range[1]:
            raise ValueError("--defocus-range takes the lower defocus first")
        from_map = is_map(self.model)
        if from_map and self.dose is not None:
            raise ValueError("--dose needs an atomic model: a map's densities have no physical scale")
        if from_map and self.symmetry.lower() != "c1":
            raise ValueError("--symmetry averages atomic models; a map is taken as it is")
        if not from_map and self.pixel_size is None:
            raise ValueError("--pixel-size is needed for an atomic model")
        return self


OUTPUTS = (
    Output(name="images", file="particles.mrcs", help="the images, protein white"),
    Output(name="particles", file="particles.star", help="CTF of each image, no poses nor aberrations"),
    Output(name="truth", file="truth.star", help="the same with the true poses and aberrations"),
    Output(name="reference", file="reference.mrc", help="the molecule's density on the images' grid"),
)


def estimate(params: Params) -> Estimate:
    """The density on its fine grid, then the padded transform for projecting and chunks of images."""
    from parhelion.jobs._maps import projecting

    box, pixel = _frame(params)
    from_map = is_map(params.model)
    fine = box if from_map else box * max(2, math.ceil(pixel / 1.2))
    return projecting(box, params.count, memory_before=26 * fine**3)


def run(context: "Context", params: Params) -> Result:
    """Make the density, then the images chunk by chunk."""
    from parhelion.algorithms.simulate.particles import Microscope, simulate_particles
    from parhelion.io import mrc

    volume = _density(context, params)
    simulated = simulate_particles(
        volume,
        params.count,
        snr=None if params.dose else params.snr or DEFAULT_SNR,
        dose_per_angstrom2=params.dose,
        microscope=Microscope(
            voltage_kv=params.voltage,
            spherical_aberration_mm=params.cs,
            amplitude_contrast=params.amplitude_contrast,
            phase_shift_deg=params.phase_shift,
            defocus_range_um=params.defocus_range,
            astigmatism_angstrom=params.astigmatism,
            beam_tilt_xy_mrad=params.beam_tilt,
            trefoil_rad_angstrom3=params.trefoil,
            magnification=params.magnification,
        ),
        shift_angstrom=params.shift,
        seed=context.seed,
    )
    mrc.write_volume(context.path("reference"), volume)
    first = _write_images(context, simulated)
    _write_tables(context, simulated)
    context.report.gallery(first, [f"particle {i + 1}" for i in range(len(first))], "First images")
    clean = simulated.signal(_rows(len(first)))
    context.report.gallery(clean, [f"particle {i + 1}" for i in range(len(first))], "The same without noise")
    context.report.surface(volume, "Reference")
    context.report.projections(volume, "Projections of the reference")
    return Result(
        figures={
            "particles": params.count,
            "box": simulated.box,
            "pixel_size_angstrom": simulated.pixel_size_angstrom,
            "snr": simulated.snr,
        },
        outputs={output.name: context.path(output.name) for output in OUTPUTS},
    )


def _rows(count: int) -> "np.ndarray":
    import numpy as np

    return np.arange(count)


def _frame(params: Params) -> tuple[int, float]:
    """Box and pixel size of the images."""
    if params.box is not None and not is_map(params.model):
        return params.box, params.pixel_size or 1.0
    box, pixel = molecule_box(params.model, params.pixel_size, BOX_PER_DIAMETER)
    return params.box or box, pixel


def _density(context: "Context", params: Params) -> "Volume":
    box, pixel = _frame(params)
    return molecule_density(
        context, params.model, box, pixel, symmetry=params.symmetry, resolution_angstrom=params.resolution
    )


def _write_images(context: "Context", simulated: "SimulatedParticles") -> "np.ndarray":
    """Write all images; the first few come back for the report."""
    import numpy as np

    from parhelion.io.mrc import StackWriter
    from parhelion.jobs._maps import images_at_once

    count, box = simulated.particles.count, simulated.box
    step = images_at_once(box)
    chunks = [np.arange(start, min(start + step, count)) for start in range(0, count, step)]
    first = np.zeros((0, box, box), np.float32)
    with StackWriter(context.path("images"), count, (box, box), simulated.pixel_size_angstrom) as writer:
        for index, images in zip(chunks, context.executor.map(simulated.images, chunks)):
            writer.write(int(index[0]), images)
            first = images[:SHOWN].copy() if index[0] == 0 else first
            context.progress("simulate images", int(index[-1]) + 1, count)
    return first


def _write_tables(context: "Context", simulated: "SimulatedParticles") -> None:
    from dataclasses import replace

    from parhelion.io.particles import write_particles

    views = replace(simulated.particles.views, image_path=(context.path("images"),))
    truth = replace(simulated.particles, views=views)
    write_particles(context.path("truth"), truth)
    blind = replace(_measured(truth), rotation=None, shift_xyz_angstrom=None)
    write_particles(context.path("particles"), blind)


def _measured(truth: "ParticleSet") -> "ParticleSet":
    """The particles as they are known before any refinement: only what a fit to power spectra tells."""
    from dataclasses import replace

    from parhelion.optics.astigmatism import defoci, quadratic_form, seen_through

    (group,) = truth.optics
    plain = replace(group, beam_tilt_xy_mrad=(0.0, 0.0), odd_zernike=(), magnification=UNDISTORTED)
    views = truth.views
    if group.magnification != UNDISTORTED:
        form = quadratic_form(views.defocus_u_angstrom, views.defocus_v_angstrom, views.defocus_angle_deg)
        u, v, angle = defoci(seen_through(form, group.magnification))
        views = replace(views, defocus_u_angstrom=u, defocus_v_angstrom=v, defocus_angle_deg=angle)
    return replace(truth, optics=(plain,), views=views)


JOB = declare(__name__, __doc__, params=Params, run=run, estimate=estimate, outputs=OUTPUTS)
