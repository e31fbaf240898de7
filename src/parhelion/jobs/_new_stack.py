"""Images of a particle table or of a stack, changed as asked and written anew (``convert --new-stack``)."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from parhelion.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from parhelion.algorithms.particle_stack import StackSettings
    from parhelion.io.stack import ImageStack
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
    count, step = len(particles), images_at_once(max(settings.source_box, settings.box))
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


class Images:
    """Images of a stack without a table, as a source of views."""

    def __init__(self, stack: "ImageStack") -> None:
        self.stack = stack
        self.box = stack.shape[1]

    def images(self, views: "np.ndarray") -> "np.ndarray":
        """Images ``(len(views), box, box)`` float32 of these numbers, from 0."""
        return self.stack.read(views)


def rewritten_stack(context: "Context", params: "Params", path: Path, target: Path) -> None:
    """The images of a stack without a table, changed as asked, in ``target``.

    Raises InputError where they are not square or their pixel size is not known.
    """
    import numpy as np

    from parhelion.algorithms.particle_stack import prepared_images, stack_settings
    from parhelion.images.normalise import contrast_sign
    from parhelion.io.formats import open_images
    from parhelion.io.mrc import StackWriter
    from parhelion.jobs._maps import images_at_once

    stack = open_images(path)
    count, height, width = stack.shape
    pixel = params.pixel_size or stack.pixel_size_angstrom
    if height != width:
        raise InputError(f"{path} has images of {width} x {height} pixels; particle images are square")
    if pixel is None:
        raise InputError(f"{path} does not say its pixel size; give it with --pixel-size")
    factor = 1.0
    if params.stack_contrast != "keep":
        white = params.contrast == "white"
        if params.contrast == "auto":
            chosen = np.unique(np.linspace(0, count - 1, min(1000, count)).astype(int))
            guess = contrast_sign(stack.read(chosen))
            white = guess.white
            context.notice(f"protein is {'white' if white else 'black'} in {path} (z = {guess.z_score:.1f})")
        factor = 1.0 if (params.stack_contrast == "white") == white else -1.0
    settings = stack_settings(
        width,
        pixel,
        downsample=params.downsample,
        box=params.box,
        normalise=params.normalise,
        radius_angstrom=params.radius,
        factor=factor,
    )
    step = images_at_once(max(width, settings.box))
    chunks = [np.arange(start, min(start + step, count)) for start in range(0, count, step)]
    source = Images(stack)
    shown: list[np.ndarray] = []
    with StackWriter(target, count, (settings.box,) * 2, settings.pixel_size_angstrom) as writer:
        made = context.executor.map(lambda rows: prepared_images(source, None, rows, settings), chunks)
        for rows, images in zip(chunks, made):
            context.check()
            writer.write(int(rows[0]), images)
            shown += list(images[: SHOWN - len(shown)].copy())
            context.progress("images", int(rows[-1]) + 1, count)
    context.report.gallery(shown, [f"image {i + 1}" for i in range(len(shown))], "First new images")


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
