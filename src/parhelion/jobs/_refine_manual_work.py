"""``refine-manual``: from options to the algorithm, and its results to files."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from parhelion.errors import InputError, MetadataError, ParameterError

if TYPE_CHECKING:
    import numpy as np

    from parhelion.algorithms.manual.projections import Projections
    from parhelion.algorithms.manual.refinement import ManualResult
    from parhelion.algorithms.manual.settings import ManualSettings
    from parhelion.algorithms.particle_images import PreparedImages
    from parhelion.contracts import ParticleSource
    from parhelion.io.source import StackSource
    from parhelion.jobs._refine_manual_options import ManualParams
    from parhelion.model.particles import ParticleSet
    from parhelion.model.volume import Volume
    from parhelion.run.context import Context

DEFAULT_DIAMETER = 0.6
"""Share of the box that an unknown particle is taken to fill when memory is planned."""
OUTER, WIDE, SHIFTS, LOW = 0.65, 0.8, 0.15, 1.5
"""cisTEM's defaults of radii, shifts and the low-resolution limit, in diameters."""
COARSEST_LOW_ANGSTROM = 300.0


@dataclass(frozen=True, kw_only=True)
class Work:
    """What was given and what came out of it."""

    given: "ParticleSet"
    settings: "ManualSettings"
    result: "ManualResult"
    source: "StackSource"


def refined(context: "Context", params: "ManualParams") -> Work:
    """Read everything, run all cycles."""
    from parhelion.algorithms.manual.refinement import refine_manual
    from parhelion.algorithms.preparation import warn_of_black
    from parhelion.io import mrc
    from parhelion.io.source import StackSource
    from parhelion.jobs._particles import read_with_images
    from parhelion.run.memory import available_bytes

    particles, source = read_with_images(
        params.input, context, contrast=params.contrast, pixel_size=params.pixel_size
    )
    if params.first > 1 or (params.last or len(particles)) < len(particles):
        particles = _part(particles, params)
        source = StackSource(particles, source.contrast)
    references = tuple(mrc.read_volume(path) for path in params.references or ())
    for reference in references:
        warn_of_black(reference, context)
    diameter = _diameter(params, references, context)
    settings = manual_settings(params, diameter, mode_of(params, particles), context.seed)
    images = _images(params, settings, particles, source)
    with ExitStack() as exits:
        result = refine_manual(
            particles,
            images,
            references,
            settings,
            class_poses=_class_poses(params, particles),
            mask=_mask(params, particles, source.box, references),
            box=source.box,
            projections=_projections(context, particles, source.box, exits)
            if params.matching_projections
            else None,
            executor=context.executor,
            observer=context,
            cancel=context,
            device=context.device,
            checkpoints=context.checkpoints,
            resume=context.resume,
            available_bytes=available_bytes(),
        )
    blank: set[int] = getattr(images, "blank", set())
    if blank:
        context.notice(
            f"{len(blank)} images have a blank edge and were left out; --no-exclude-edges keeps them"
        )
    return Work(given=particles, settings=settings, result=result, source=source)


def mode_of(params: "ManualParams", particles: "ParticleSet") -> str:
    """How particles are aligned: as asked for, else locally where they have poses.

    Raises ParameterError where options of a search would be ignored.
    """
    from parhelion.jobs._refine_manual_options import SEARCHING

    posed = particles.rotation is not None or params.class_particles or params.start_poses == "random"
    mode = params.align or ("local" if posed else "global")
    if mode != "global" and (searching := SEARCHING & params.model_fields_set):
        raise ParameterError(
            f"--{min(searching).replace('_', '-')} does nothing without --align global: the particles have "
            "poses, which are refined unless it is said"
        )
    return mode


def manual_settings(params: "ManualParams", diameter: float, mode: str, seed: int) -> "ManualSettings":
    """The options as the algorithm takes them, with cisTEM's defaults for a particle of this diameter."""
    from parhelion.algorithms.manual.settings import Focus, ManualSettings

    symmetry = tuple(params.symmetry)
    focus = None
    if params.focus_radius is not None:
        focus = Focus(
            centre_xyz_angstrom=params.focus_centre or (0.0, 0.0, 0.0), radius_angstrom=params.focus_radius
        )
    shift = SHIFTS * diameter if params.shift_range is None else params.shift_range
    return ManualSettings(
        outer_radius_angstrom=params.outer_radius or OUTER * diameter,
        symmetry=symmetry * params.number if len(symmetry) == 1 else symmetry,
        mode="global" if mode == "global" else "local",
        cycles=params.cycles,
        parameters=() if mode == "none" else tuple(params.refine_parameters),
        high_limit_angstrom=params.resolution_limit,
        low_limit_angstrom=params.low_resolution or min(LOW * diameter, COARSEST_LOW_ANGSTROM),
        inner_radius_angstrom=params.inner_radius,
        signed_limit_angstrom=params.signed_limit,
        percent_used=params.percent,
        global_radius_angstrom=params.search_radius or WIDE * diameter,
        top=params.results_to_refine,
        refine_input=params.refine_input,
        search_limit_angstrom=params.search_limit,
        angular_step_deg=params.angular_step,
        shift_range_xy_angstrom=(shift, shift if params.shift_range_y is None else params.shift_range_y),
        class_limit_angstrom=params.class_resolution,
        focus=focus,
        refine_defocus=params.refine_defocus,
        defocus_range_angstrom=params.defocus_range,
        defocus_step_angstrom=params.defocus_step,
        score_constant_angstrom2=params.score_weight,
        adjust_for_defocus=params.adjust_scores,
        score_threshold=params.score_threshold,
        map_limit_angstrom=params.map_limit,
        blurring=params.blurring,
        smoothing=params.smoothing,
        automatic_mask=params.auto_mask,
        outside_weight=params.outside_weight,
        outside_lowpass_angstrom=params.outside_lowpass,
        half_sets=params.half_sets,
        random_poses=params.start_poses == "random",
        normalise_images=params.normalise,
        normalise_reference=params.normalise_reference,
        threshold_reference=params.threshold_reference,
        fom=_merit(params),
        padding=params.padding,
        filter_constant=params.filter_constant,
        mass_kda=params.mass,
        seed=seed,
    )


def check_tables(params: "ManualParams", particles: "ParticleSet") -> None:
    """Raise what the tables lack for this run, before any image is read."""
    _class_poses(params, _part(particles, params))
    if params.diameter is None and not params.references:
        raise InputError("without a reference --diameter must say how large the particle is")
    posed = particles.rotation is not None or params.class_particles or params.start_poses == "random"
    if not posed and (mode_of(params, particles) != "global" or not params.references):
        raise MetadataError(
            f"{params.input} has no poses (rlnAngleRot, rlnAngleTilt, rlnAnglePsi) to start from; search "
            "globally with a reference (--align global), or start from random angles (--start-poses random)"
        )


def _merit(params: "ManualParams") -> "tuple[tuple[float, ...], tuple[float, ...]] | None":
    """Resolutions in Å and figures of merit of a map with the FSC of ``--statistics``: 2 FSC / (1 + FSC)."""
    from parhelion.io.statistics import read_statistics

    if params.statistics is None:
        return None
    table = read_statistics(params.statistics)
    correlation = table.fsc.clip(0, 1)
    merit = 2 * correlation / (1 + correlation)
    return tuple(table.resolution_angstrom.tolist()), tuple(merit.tolist())


def _part(particles: "ParticleSet", params: "ManualParams") -> "ParticleSet":
    """Particles ``--first`` to ``--last``."""
    import numpy as np

    if params.first > len(particles):
        raise ParameterError(f"--first {params.first}: there are {len(particles)} particles")
    return particles.take(np.arange(params.first - 1, min(params.last or len(particles), len(particles))))


def _diameter(params: "ManualParams", references: "tuple[Volume, ...]", context: "Context") -> float:
    from parhelion.algorithms.preparation import diameter_of

    if params.diameter is not None:
        return params.diameter
    return diameter_of(references[0], context)


def _images(
    params: "ManualParams",
    settings: "ManualSettings",
    particles: "ParticleSet",
    source: "ParticleSource",
) -> "PreparedImages":
    """The source of images as the options want them: cropped, without blank edges."""
    from parhelion.algorithms.particle_images import PreparedImages
    from parhelion.engine.search_view import cropped_box

    box = source.box
    if params.autocrop:
        searches = settings.mode == "global"
        radius = max(settings.outer_radius_angstrom, settings.global_radius if searches else 0.0)
        box = cropped_box(box, 2 * radius / particles.optics[0].pixel_size_angstrom)
    return PreparedImages(source, box, exclude_edges=params.exclude_edges)


def _class_poses(params: "ManualParams", particles: "ParticleSet") -> "tuple[ParticleSet, ...]":
    """Each class's table in the order of the particles; MetadataError where one lacks an image."""
    import numpy as np

    from parhelion.io.particles import read_particles

    found = []
    for path in params.class_particles or ():
        table = read_particles(path, pixel_size_angstrom=params.pixel_size)
        _check_stacks(params, particles, path, table)
        keys, wanted = _keys(table), _keys(particles)
        if keys == wanted:
            found.append(table)
            continue
        at = {key: row for row, key in enumerate(keys)}
        if len(at) < len(keys):
            raise MetadataError(
                f"{path} lists some images more than once (by file name and number) and in another order "
                f"than {params.input}; give tables with the same particles in the same order"
            )
        missing = [key for key in wanted if key not in at]
        if missing:
            raise MetadataError(
                f"{path} has no row for {len(missing)} of {len(wanted)} particles of {params.input}, such as "
                f"{missing[0][1] + 1:06d}@{missing[0][0]}; give the tables of one and the same run"
            )
        found.append(table.take(np.array([at[key] for key in wanted])))
    return tuple(found)


def _check_stacks(params: "ManualParams", particles: "ParticleSet", path: Path, table: "ParticleSet") -> None:
    """MetadataError where stacks of one name hold other images; a copy elsewhere is the same stack."""
    own = {stack.name: stack for stack in particles.views.image_path}
    for stack in table.views.image_path:
        other = own.get(stack.name, stack)
        if stack.is_file() and other.is_file() and stack.stat().st_size != other.stat().st_size:
            raise MetadataError(
                f"{path} is of the images in {stack}, {params.input} of those in {other}; give the tables of "
                "one and the same run"
            )


def _keys(particles: "ParticleSet") -> list[tuple[str, int]]:
    """File name and number of each particle's first image."""
    import numpy as np

    views = particles.views
    first = np.unique(views.particle, return_index=True)[1]
    names = [path.name for path in views.image_path]
    return [(names[int(views.path_id[v])], int(views.image_index[v])) for v in first]


def _mask(
    params: "ManualParams", particles: "ParticleSet", box: int, references: "tuple[Volume, ...]"
) -> "Volume | None":
    """What lies above 0 in the given mask, with a soft edge; it must fit the particles or a reference."""
    from parhelion.images.masks import soft_dilation
    from parhelion.io import mrc
    from parhelion.jobs._maps import check_mask_pixel
    from parhelion.model.volume import Volume

    if params.mask is None:
        return None
    header = mrc.read_header(params.mask)
    like = [(box, particles.optics[0].pixel_size_angstrom)]
    like += [(one.box, one.pixel_size_angstrom) for one in references]
    fitting = [pixel for edge, pixel in like if tuple(header.shape) == (edge,) * 3]
    if not fitting:
        shape = " x ".join(str(n) for n in header.shape)
        raise InputError(
            f"mask {params.mask} has {shape} voxels, the particles have {box} pixels: the mask belongs to "
            "another map; make one with parhelion mask"
        )
    check_mask_pixel(params.mask, fitting, (params.input, *(params.references or ())))
    data = mrc.read_volume(params.mask, fitting[0]).data
    body = data > 0
    if not body.any():
        raise InputError(f"mask {params.mask} is empty: no density lies above 0")
    soft = soft_dilation(body, fitting[0], 0.0, params.mask_edge)
    return Volume(data=soft, pixel_size_angstrom=fitting[0])


def _projections(context: "Context", particles: "ParticleSet", box: int, exits: ExitStack) -> "Projections":
    """Writes images, centred in the box of the particles, to the stack of projections."""
    import numpy as np

    from parhelion.io.mrc_writer import StackWriter

    opened: list[StackWriter] = []

    def write(first: int, images: "np.ndarray", count: int) -> None:
        if not opened:
            pixel = particles.optics[0].pixel_size_angstrom
            opened.append(
                exits.enter_context(StackWriter(context.path("projections"), count, (box, box), pixel))
            )
        before = box // 2 - images.shape[-1] // 2
        inner = slice(before, before + images.shape[-1])
        whole = np.zeros((len(images), box, box), np.float32)
        whole[:, inner, inner] = images
        opened[0].write(first, whole)

    return write


def write(context: "Context", params: "ManualParams", work: Work) -> dict[str, Path | list[Path]]:
    """All declared outputs, and where they are."""
    from parhelion.io import mrc
    from parhelion.io.particles import write_particles
    from parhelion.jobs._fsc import curves_by_kind, share_or_notice, write_cistem_statistics, write_fsc
    from parhelion.jobs._refine_manual_report import write_changes

    result = work.result
    names = [f"{k + 1:03d}" for k in range(len(result.classes))]
    for name, one in zip(names, result.classes):
        for output, volume in (
            ("maps", one.map),
            ("half1", one.half_maps[0]),
            ("half2", one.half_maps[1]),
            ("masks", one.mask),
        ):
            mrc.write_volume(context.path(output, name), volume)
        # a cropped box has fewer shells than the maps that were padded again
        like = one.curves_like
        write_fsc(context.path("fsc", name), curves_by_kind(one.curves), like.box, like.pixel_size_angstrom)
        share = share_or_notice(context, params.mass, like, one.mask)
        write_cistem_statistics(context.path("statistics", name), one.curves.corrected, like, share)
        write_particles(context.path("class_particles", name), one.particles)
    write_particles(context.path("particles"), result.particles)
    write_changes(context.path("changes"), work)
    outputs: dict[str, Path | list[Path]] = {
        output: [context.path(output, name) for name in names]
        for output in ("maps", "half1", "half2", "masks", "fsc", "statistics", "class_particles")
    }
    if params.matching_projections:
        outputs["projections"] = context.path("projections")
    return {**outputs, "particles": context.path("particles"), "changes": context.path("changes")}
