"""The images of a particle table, changed as asked and written into one stack (``convert --new-stack``)."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from parhelion.errors import InputError

if TYPE_CHECKING:
    from parhelion.algorithms.particle_stack import StackSettings
    from parhelion.jobs.convert import Params
    from parhelion.model.particles import ParticleSet
    from parhelion.run.context import Context

FLIPPED = "rlnCtfDataArePhaseFlipped"
SHOWN = 12


def rewritten(context: "Context", params: "Params", particles: "ParticleSet", stack: Path) -> "ParticleSet":
    """The particles with their images in ``stack``, one after the other in the order of the table.

    Images that are missing are dropped with a notice. Raises InputError where pixel sizes differ.
    """
    import numpy as np

    from parhelion.algorithms.particle_stack import prepared_images
    from parhelion.io.exchange import states_white, with_contrast
    from parhelion.io.mrc import StackWriter
    from parhelion.io.particles import check_images
    from parhelion.io.source import StackSource
    from parhelion.jobs._maps import images_at_once

    particles, missing = check_images(particles)
    for note in missing:
        context.notice(note)
    white = states_white(particles)
    settings = _settings(params, particles, white)
    source = StackSource(particles)
    count, step = len(particles), images_at_once(settings.source_box)
    chunks = [np.arange(start, min(start + step, count)) for start in range(0, count, step)]

    def prepared(rows: np.ndarray) -> np.ndarray:
        return prepared_images(source, particles, rows, settings)

    shown: list[np.ndarray] = []
    pixel = settings.pixel_size_angstrom
    with StackWriter(stack, count, (settings.box, settings.box), pixel) as writer:
        for rows, images in zip(chunks, context.executor.map(prepared, chunks)):
            context.check()
            writer.write(int(rows[0]), images)
            shown += list(images[: SHOWN - len(shown)].copy())
            context.progress("images", int(rows[-1]) + 1, count)
    context.report.gallery(shown, [f"image {i + 1}" for i in range(len(shown))], "First new images")
    if white is not None:
        particles = with_contrast(particles, white == (settings.factor > 0))
    return _pointing_at(context, params, particles, stack, settings)


def _settings(params: "Params", particles: "ParticleSet", white: bool | None) -> "StackSettings":
    from parhelion.algorithms.particle_stack import stack_settings

    grids = {(g.box, round(g.pixel_size_angstrom, 5)) for g in particles.optics}
    if len(grids) > 1:
        raise InputError(
            f"the particles have images of several boxes or pixel sizes ({sorted(map(str, grids))}); "
            "one stack is for one, convert the optics groups one by one"
        )
    first = particles.optics[0]
    wanted = params.stack_contrast
    return stack_settings(
        int(first.box or 0),
        first.pixel_size_angstrom,
        downsample=params.downsample,
        box=params.box,
        normalise=params.normalise,
        radius_angstrom=params.radius,
        flip_phases=params.flip_phases,
        factor=1.0 if wanted == "keep" or (wanted == "white") == white else -1.0,
    )


def _pointing_at(
    context: "Context", params: "Params", particles: "ParticleSet", stack: Path, settings: "StackSettings"
) -> "ParticleSet":
    """The particles as rows of the new stack, with its box, pixel size and state of the CTF."""
    import numpy as np

    from parhelion.io.relion import OPTICS_PREFIX

    count = len(particles)
    views = replace(
        particles.views,
        image_path=(stack,),
        path_id=np.zeros(count, np.int64),
        image_index=np.arange(count),
    )
    optics = tuple(
        replace(g, box=settings.box, pixel_size_angstrom=settings.pixel_size_angstrom)
        for g in particles.optics
    )
    extra = particles.extra.without("rlnImageName")
    if settings.flip_phases:
        label = FLIPPED if params.to == "star30" else OPTICS_PREFIX + FLIPPED
        extra = extra.with_columns({label: np.ones(count, np.int64)})
        context.notice(
            "the phases of the new images are flipped: programs must be told (RELION: --ctf_phase_flipped), "
            "and parhelion, which corrects the CTF itself, refuses such images"
        )
    return replace(particles, views=views, optics=optics, extra=extra)
