"""Simulate movies of particles in ice, as a direct detector records them.

Particles of an atomic model or a map lie in random poses in a layer of vitreous ice, without overlap. Their
potential shifts the phase of the electrons, the CTF of each particle's own defocus turns that into contrast
(protein dark), on top of the noise of the ice itself. The field drifts, fast at first, and moves locally;
radiation damages the particles from frame to frame; the detector counts electrons (Poisson) with uneven
sensitivity and a few defects. Everything that is true of the movies is in the folder truth. Positions there
count from the middle of the first pixel, rows from the bottom of the image, in the first frame.
"""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from parhelion.jobs._inputs import ModelFile, Symmetry
from parhelion.jobs.simulate._molecule import is_map, molecule_box, molecule_density
from parhelion.registry import Estimate, JobParams, Output, Result, declare, option

if TYPE_CHECKING:
    from parhelion.algorithms.simulate.movies import MovieSimulator
    from parhelion.model.volume import Volume
    from parhelion.run.context import Context

SAMPLE, MOTION, OPTICS, DETECTOR = "Specimen", "Exposure and motion", "Microscope", "Detector"
BOX_PER_DIAMETER = 1.25
BYTES_PER_PIXEL = 100
"""Measured: memory of one movie in the making, per pixel of its field."""
Micrometres = Annotated[float, Field(ge=-1, le=10)]
Edge = Annotated[int, Field(ge=64, le=32768)]


def _one_or_two(value: Any) -> Any:
    """One number stands for both edges."""
    return (value,) if isinstance(value, int | float | str) else value


class Params(JobParams):
    """What the job takes."""

    model: ModelFile = option(
        help="atomic model (.cif, .pdb), or a map (.mrc) whose densities are in volts",
        short="m",
        group=SAMPLE,
    )
    count: int = option(1, help="how many movies", unit="movies", ge=1, le=100_000, group=SAMPLE)
    particles_per_micrograph: int | None = option(
        None,
        help="how many particles in each",
        unit="particles",
        ge=0,
        le=100_000,
        default_text="half as many as fit",
        group=SAMPLE,
    )
    symmetry: Symmetry = option(
        "C1",
        help="point group (RELION's setting) that an atomic model is turned into and averaged over",
        group=SAMPLE,
    )
    ice_thickness: float | None = option(
        None,
        help="thickness of the ice, in which particles lie at any height",
        unit="Å",
        ge=10,
        le=10_000,
        default_text="the molecule's diameter and 200 Å",
        group=SAMPLE,
    )
    ice_noise: float = option(
        1.0,
        help="amplitude of the ice's structural noise, relative to that of vitreous ice",
        unit="1",
        ge=0,
        le=100,
        group=SAMPLE,
    )
    edge_distance: float | None = option(
        None,
        help="how far particle centres keep from the edge of the field",
        unit="Å",
        ge=0,
        le=100_000,
        default_text="the molecule's radius",
        group=SAMPLE,
    )
    tilt: float = option(
        0.0,
        help="tilt of the specimen about a random axis, for a plane of defocus",
        unit="degrees",
        ge=0,
        le=70,
        group=SAMPLE,
    )
    frames: int = option(20, help="frames of each movie", unit="frames", ge=1, le=10_000, group=MOTION)
    dose_per_frame: float = option(
        2.0, help="electrons per area in each frame", unit="e⁻/Å²", gt=0, le=1000, group=MOTION
    )
    pre_exposure: float = option(
        0.0, help="electrons that the specimen received before", unit="e⁻/Å²", ge=0, le=1000, group=MOTION
    )
    drift: float = option(
        20.0, help="way of the field from the first frame to the last", unit="Å", ge=0, le=1000, group=MOTION
    )
    local_motion: float = option(
        4.0, help="greatest additional local motion", unit="Å", ge=0, le=100, group=MOTION
    )
    pixel_size: float | None = option(
        None,
        help="pixel size of the movies",
        unit="Å",
        ge=0.1,
        le=30,
        default_text="that of the map; 1 for an atomic model",
        group=OPTICS,
    )
    defocus_range: tuple[Micrometres, Micrometres] = option(
        (0.8, 2.5), help="least and largest underfocus of a movie", unit="µm", group=OPTICS
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
    size: Annotated[tuple[Edge, ...], BeforeValidator(_one_or_two)] = option(
        (2048,), help="edge of the field, or width and height", unit="pixels", group=DETECTOR
    )
    format: Literal["tif", "mrc"] = option(
        "tif", help="movies as compressed TIFF (8- or 16-bit) or as MRC files (16-bit)", group=DETECTOR
    )
    gain_variation: float = option(
        0.05, help="standard deviation of the pixels' sensitivity", unit="1", ge=0, le=0.3, group=DETECTOR
    )
    dead_pixels: int = option(
        20, help="pixels that count nothing", unit="pixels", ge=0, le=10**6, group=DETECTOR
    )
    hot_pixels: int = option(
        20, help="pixels that count too much", unit="pixels", ge=0, le=10**6, group=DETECTOR
    )
    mtf_nyquist: float = option(
        0.6, help="modulation transfer at Nyquist", unit="1", ge=0.01, le=1, group=DETECTOR
    )
    detection_efficiency: float = option(
        1.0, help="share of the electrons that is counted", unit="1", ge=0.01, le=1, group=DETECTOR
    )

    @model_validator(mode="after")
    def _consistent(self) -> "Params":
        if len(self.size) > 2:
            raise ValueError("--size takes one edge, or width and height")
        if self.defocus_range[0] > self.defocus_range[1]:
            raise ValueError("--defocus-range takes the lower defocus first")
        if is_map(self.model) and self.symmetry.lower() != "c1":
            raise ValueError("--symmetry averages atomic models; a map is taken as it is")
        return self

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the field in pixels."""
        return self.size[-1], self.size[0]


OUTPUTS = (
    Output(name="movie", file="movies/movie_*.*", help="the movies, raw counts"),
    Output(name="movies", file="movies.star", help="the movies' table (RELION 3.1)"),
    Output(name="gain", file="gain.mrc", help="gain reference: corrected = raw times gain, 0 where dead"),
    Output(name="micrographs", file="truth/micrographs.star", help="true defoci of the movies"),
    Output(
        name="shifts", file="truth/movie_*_shifts.star", help="true motion of each movie, global and local"
    ),
    Output(name="particles", file="truth/particles.star", help="true positions, poses and defoci"),
    Output(name="defects", file="truth/defects.txt", help="dead and hot pixels"),
    Output(name="reference", file="truth/reference.mrc", help="the molecule's potential"),
)


def estimate(params: Params) -> Estimate:
    """The density on its fine grid, then the padded transform for projecting and one movie per thread."""
    from parhelion.jobs._maps import projecting

    box, pixel = molecule_box(params.model, params.pixel_size, BOX_PER_DIAMETER)
    fine = box if is_map(params.model) else box * max(2, math.ceil(pixel / 1.2))
    field = math.prod(n + 2 * (params.drift + params.local_motion) / pixel + 32 for n in params.shape)
    several = (
        1
        + (params.tilt > 0)
        * 0.1
        * math.hypot(*params.shape)
        * pixel
        * math.tan(math.radians(params.tilt))
        / 10
    )
    base = projecting(box, 0, memory_before=26 * fine**3)
    return Estimate(
        memory_bytes=base.memory_bytes,
        per_thread_bytes=int((BYTES_PER_PIXEL + 2 * (several - 1)) * field),
        disk_bytes=2 * params.count * params.frames * math.prod(params.shape),
    )


def run(context: "Context", params: Params) -> Result:
    """Make the density, then the movies, each on one thread."""
    from parhelion.io import mrc
    from parhelion.jobs._micrographs import each

    box, pixel = molecule_box(params.model, params.pixel_size, BOX_PER_DIAMETER)
    volume = molecule_density(context, params.model, box, pixel, symmetry=params.symmetry)
    simulator = _simulator(context, params, volume)
    mrc.write_volume(context.path("reference"), volume)
    movies = [context.path("movie", f"{i + 1:04d}", params.format) for i in range(params.count)]

    def make(i: int) -> dict[str, Any]:
        return _make(context, simulator, i, movies[i])

    made = each(context, [path.name for path in movies], make, "simulate movies")
    return _finish(context, simulator, volume, movies, made.done())


def _simulator(context: "Context", params: Params, volume: "Volume") -> "MovieSimulator":
    import numpy as np

    from parhelion.algorithms.simulate.detector import random_detector
    from parhelion.algorithms.simulate.movies import DETECTOR_STREAM, MovieSettings, MovieSimulator
    from parhelion.algorithms.simulate.particles import Microscope
    from parhelion.algorithms.simulate.placement import molecule_diameter_angstrom

    thickness = params.ice_thickness or molecule_diameter_angstrom(volume) + 200.0
    simulator = MovieSimulator(
        volume,
        MovieSettings(
            shape=params.shape,
            pixel_size_angstrom=volume.pixel_size_angstrom,
            frames=params.frames,
            dose_per_frame=params.dose_per_frame,
            pre_exposure=params.pre_exposure,
            particles=params.particles_per_micrograph,
            edge_angstrom=params.edge_distance,
            ice_thickness_angstrom=thickness,
            ice_noise=params.ice_noise,
            tilt_deg=params.tilt,
            drift_angstrom=params.drift,
            local_motion_angstrom=params.local_motion,
        ),
        Microscope(
            voltage_kv=params.voltage,
            spherical_aberration_mm=params.cs,
            amplitude_contrast=params.amplitude_contrast,
            phase_shift_deg=params.phase_shift,
            defocus_range_um=params.defocus_range,
            astigmatism_angstrom=params.astigmatism,
        ),
        detector=random_detector(
            params.shape,
            np.random.default_rng([context.seed, DETECTOR_STREAM, 0]),
            gain_variation=params.gain_variation,
            dead_pixels=params.dead_pixels,
            hot_pixels=params.hot_pixels,
            mtf_at_nyquist=params.mtf_nyquist,
            efficiency=params.detection_efficiency,
        ),
        seed=context.seed,
    )
    if params.particles_per_micrograph is None:
        context.notice(
            f"{simulator.particles} particles of {simulator.diameter_angstrom:.0f} Å in each movie"
        )
    if is_map(params.model):
        context.notice(
            "the map's densities are taken for volts: phase shifts reach "
            f"{simulator.largest_phase_radian:.2g} rad"
        )
    return simulator


def _make(context: "Context", simulator: "MovieSimulator", i: int, path: Path) -> dict[str, Any]:
    """Write one movie."""
    from collections.abc import Iterator

    import numpy as np

    from parhelion.io.movie_writer import write_movie

    settings = simulator.settings
    truth = simulator.truth(i)
    total = 0

    def frames() -> Iterator[np.ndarray]:
        nonlocal total
        for frame in simulator.frames(truth):
            context.check()
            total += int(frame.sum(dtype=np.int64))
            yield frame

    write_movie(
        path, frames(), settings.frames, settings.shape, simulator.count_type, settings.pixel_size_angstrom
    )
    return {"counts_per_pixel": total / (settings.frames * math.prod(settings.shape))}


def _finish(
    context: "Context",
    simulator: "MovieSimulator",
    volume: "Volume",
    movies: list[Path],
    rows: list[dict[str, Any]],
) -> Result:
    """Write the tables and the report."""
    from parhelion.io.mrc_writer import StackWriter
    from parhelion.io.relion_micrographs import write_micrographs
    from parhelion.jobs.simulate import _movie_pictures, _truth

    settings = simulator.settings
    truths = [simulator.truth(i) for i in range(len(movies))]
    gain = simulator.detector.gain()
    with StackWriter(context.path("gain"), 1, settings.shape, settings.pixel_size_angstrom) as writer:
        writer.write(0, gain[None])
    table = _truth.movies_table(simulator, movies, context.path("gain"))
    write_micrographs(context.path("movies"), table)
    _truth.write_true_micrographs(context.path("micrographs"), simulator, table, truths)
    for truth, movie, name in zip(truths, movies, _truth.names_of(movies), strict=True):
        path = context.path("shifts", movie.stem.removeprefix("movie_"))
        _truth.write_shifts(path, simulator, name, truth)
    _truth.write_true_particles(context.path("particles"), simulator, movies, truths)
    _truth.write_defects(context.path("defects"), simulator.detector)
    counts = [row["counts_per_pixel"] for row in rows]
    _movie_pictures.show(context.report, simulator, volume, movies, truths, counts)
    outputs: dict[str, Path | list[Path]] = {
        o.name: context.path(o.name) for o in OUTPUTS if "*" not in o.file
    }
    outputs["movie"] = movies
    outputs["shifts"] = [context.path("shifts", m.stem.removeprefix("movie_")) for m in movies]
    return Result(
        figures={
            "movies": len(movies),
            "particles": sum(len(t.placement) for t in truths),
            "pixel_size_angstrom": settings.pixel_size_angstrom,
            "total_dose": settings.frames * settings.dose_per_frame,
            "counts_per_pixel_and_frame": sum(counts) / len(counts),
            "molecule_diameter_angstrom": simulator.diameter_angstrom,
        },
        outputs=outputs,
    )


JOB = declare(__name__, __doc__, params=Params, run=run, estimate=estimate, outputs=OUTPUTS, resumable=True)
