"""Refine defocus, aberrations and magnification of particles that have poses.

One least-squares model of the images is fitted against a reference: defocus per particle or micrograph,
astigmatism per micrograph or optics group, and per optics group beam tilt, trefoil, tetrafoil, spherical
aberration and anisotropic magnification. With two half maps every particle is compared with the map that it
did not go into. Each parameter comes with its standard error, as far as the images' noise makes one. Maps
that were made with a wrong CTF are blurred by it, and their own errors come on top: reconstruct with what was
found and refine again, until changes are as small as their errors. A change that is not significant is not
made, except to what the table corrects already, which takes its best value. refine, classify3d and
reconstruct apply what is found.
"""

import re
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, model_validator

from parhelion.errors import InputError
from parhelion.jobs._inputs import MapFile, Maps, ParticlesFile
from parhelion.jobs._particles import Contrast, contrast_option, particle_pixel_size_option
from parhelion.registry import Estimate, JobParams, Output, Result, declare, option

if TYPE_CHECKING:
    from pathlib import Path

    from parhelion.algorithms.ctf_refine.settings import CtfRefineSettings
    from parhelion.model.volume import Volume
    from parhelion.run.context import Context

REFINED, RANGE = "What is refined", "Range"


def _one_or_two(paths: "tuple[Path, ...]") -> "tuple[Path, ...]":
    if len(paths) > 2:
        raise InputError(f"one map or two half maps are expected, found {len(paths)}")
    if len(paths) == 2 and paths[0].samefile(paths[1]):
        raise InputError(f"both half maps are the same file, {paths[0]}; give it once, or two different ones")
    if len(paths) == 2 and _half(paths[0]) == 2 and _half(paths[1]) == 1:
        raise InputError(
            f"{paths[0].name} and {paths[1].name} look like half maps in the wrong order, in which every "
            "particle would meet its own map; give that of half set 1 first"
        )
    return paths


def _half(path: "Path") -> int | None:
    """The half set that the name of a map speaks of, as RELION and cryoSPARC name theirs."""
    found = re.search(r"half[_-]?(map)?[_-]?([12ab])(?![0-9a-z])", path.name.lower())
    return None if found is None else {"1": 1, "a": 1}.get(found.group(2), 2)


class Params(JobParams):
    """What the job takes."""

    input: ParticlesFile = option(help="table of particles with CTF and poses", short="i")
    reference: Annotated[Maps, AfterValidator(_one_or_two)] = option(
        help="a map, or the two half maps of the refinement (half1.mrc half2.mrc), protein white", short="r"
    )
    mask: MapFile | None = option(
        None, help="mask (0 to 1) in the frame of the reference", default_text="made automatically"
    )
    contrast: Contrast = contrast_option()
    pixel_size: float | None = particle_pixel_size_option()
    defocus: Literal["particle", "micrograph", "no"] = option(
        "particle", help="refine the defocus of each particle, or one change per micrograph", group=REFINED
    )
    astigmatism: Literal["micrograph", "group", "no"] = option(
        "no", help="refine the astigmatism of each micrograph or optics group", group=REFINED
    )
    beam_tilt: bool = option(True, help="refine the beam tilt of each optics group", group=REFINED)
    trefoil: bool = option(True, help="refine the trefoil of each optics group", group=REFINED)
    tetrafoil: bool = option(False, help="refine the tetrafoil of each optics group", group=REFINED)
    cs: bool = option(False, help="refine the spherical aberration of each optics group", group=REFINED)
    magnification: bool = option(
        False, help="refine the anisotropic magnification of each optics group", group=REFINED
    )
    defocus_range: float = option(
        500.0,
        help="search defoci this far to both sides; also the width of their prior",
        unit="Å",
        gt=0,
        le=20000,
        group=RANGE,
    )
    defocus_step: float = option(
        50.0, help="step of that search, before least squares", unit="Å", gt=0, le=5000, group=RANGE
    )
    resolution_limit: float | None = option(
        None,
        help="use no finer detail than this",
        unit="Å",
        gt=0,
        default_text="where the half maps' FSC is 0.143; with one map, Nyquist as far as there is signal",
        group=RANGE,
    )

    @model_validator(mode="after")
    def _fit(self) -> "Params":
        given = self.model_fields_set
        wanted = (self.beam_tilt, self.trefoil, self.tetrafoil, self.cs, self.magnification)
        if self.defocus == "no" and {"defocus_range", "defocus_step"} & given:
            raise ValueError("--defocus-range and --defocus-step belong to --defocus particle or micrograph")
        if self.defocus == "no" and self.astigmatism == "no" and not any(wanted):
            raise ValueError(
                "nothing is left to refine; ask for at least one of --defocus, --astigmatism, --beam-tilt, "
                "--trefoil, --tetrafoil, --cs and --magnification"
            )
        if self.defocus_step > self.defocus_range:
            raise ValueError(
                f"--defocus-step {self.defocus_step:g} is larger than --defocus-range {self.defocus_range:g}"
            )
        return self


OUTPUTS = (
    Output(name="particles", file="particles.star", help="the particles with refined CTF and optics groups"),
    Output(
        name="parameters", file="parameters.star", help="changes and standard errors of each optics group"
    ),
    Output(name="changes", file="changes.star", help="changes of each particle and micrograph"),
    Output(name="shells", file="shells.star", help="correlation with the reference per shell"),
    Output(
        name="phases",
        file="phases.mrcs",
        help="phase differences, observed and fitted: odd, then even, of the 50 largest optics groups",
    ),
)

SECONDS_PER_MEGAPOINT = 7.0
"""CPU time per million Fourier points of all images (measured, with all parameters)."""


def estimate(params: Params) -> Estimate:
    """What the algorithm plans for the table's particles."""
    from parhelion.algorithms.ctf_refine.memory import memory_plan
    from parhelion.engine.memory import COMPLEX, transform_bytes
    from parhelion.jobs._particles import size_of
    from parhelion.run.memory import available_bytes

    count, box, pixel = size_of(params.input, params.pixel_size, poses=True)
    plan = memory_plan(count, box, pixel, settings_of(params, 0), len(params.reference), available_bytes())
    points = transform_bytes(box, box // 2 - 1) / COMPLEX
    return Estimate(
        memory_bytes=plan.shared_bytes,
        per_thread_bytes=plan.per_thread_bytes,
        seconds=SECONDS_PER_MEGAPOINT * count * points / 1e6,
        disk_bytes=900 * count + 16 * box**2,
    )


def run(context: "Context", params: Params) -> Result:
    """Refine, write and show."""
    from parhelion.algorithms.ctf_refine.memory import memory_plan
    from parhelion.algorithms.ctf_refine.refine import refine_ctf
    from parhelion.io import mrc
    from parhelion.jobs._particles import read_with_images, require_poses
    from parhelion.jobs._refine_ctf import figures_of, show, write
    from parhelion.run.memory import available_bytes

    particles, source = read_with_images(
        params.input, context, contrast=params.contrast, pixel_size=params.pixel_size
    )
    require_poses(params.input, particles)
    maps = tuple(mrc.read_volume(path) for path in params.reference)
    settings = settings_of(params, context.seed)
    pixel = particles.optics[0].pixel_size_angstrom
    plan = memory_plan(len(particles), source.box, pixel, settings, len(maps), available_bytes())
    if len(maps) == 1 and particles.half is not None:
        context.notice(
            "one map is the reference of all particles; where they went into it, its noise is theirs and "
            "holds them where they are: the two half maps tell more"
        )
    found = refine_ctf(
        particles,
        source,
        maps,
        settings,
        mask=_mask(params, maps[0]),
        executor=context.executor,
        observer=context,
        cancel=context,
        device=context.device,
        cache_bytes=plan.cache_bytes,
    )
    write(context, found)
    show(context, found)
    return Result(figures=figures_of(found), outputs={o.name: context.path(o.name) for o in OUTPUTS})


def settings_of(params: Params, seed: int) -> "CtfRefineSettings":
    """The algorithm's settings."""
    from parhelion.algorithms.ctf_refine.settings import CtfRefineSettings

    return CtfRefineSettings(
        defocus=params.defocus,
        defocus_range_angstrom=params.defocus_range,
        defocus_step_angstrom=params.defocus_step,
        astigmatism=params.astigmatism,
        beam_tilt=params.beam_tilt,
        trefoil=params.trefoil,
        tetrafoil=params.tetrafoil,
        spherical_aberration=params.cs,
        magnification=params.magnification,
        resolution_limit_angstrom=params.resolution_limit,
        seed=seed,
    )


def _mask(params: Params, reference: "Volume") -> "Volume | None":
    from parhelion.jobs._maps import read_mask

    return None if params.mask is None else read_mask(params.mask, reference, params.reference[0])


JOB = declare(__name__, __doc__, params=Params, run=run, estimate=estimate, outputs=OUTPUTS)
