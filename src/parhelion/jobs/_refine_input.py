"""From a refinement's parameters to what its algorithms take."""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from parhelion.algorithms.refine3d import RefineSettings, RoundMaps
    from parhelion.algorithms.refine_classes import ClassesSettings
    from parhelion.io.source import StackSource
    from parhelion.jobs.refine import Params
    from parhelion.model.particles import ParticleSet
    from parhelion.model.volume import Volume
    from parhelion.run.context import Context


def settings_of(params: "Params", seed: int) -> "RefineSettings":
    from parhelion.algorithms.refine3d import RefineSettings

    return RefineSettings(
        symmetry=params.symmetry[0] if len(set(params.symmetry)) == 1 else "C1",
        diameter_angstrom=params.diameter,
        initial_resolution_angstrom=params.initial_resolution,
        resolution_limit_angstrom=params.resolution_limit,
        shift_angstrom=params.shift_range,
        automatic_mask=params.auto_mask,
        local=params.local,
        most_rounds=params.max_rounds,
        top=params.results_to_refine,
        seed=seed,
        low_resolution_angstrom=params.low_resolution,
        outer_radius_angstrom=params.outer_radius,
        inner_radius_angstrom=params.inner_radius,
        search_radius_angstrom=params.search_radius,
        autocrop=params.autocrop,
        mask_edge_angstrom=params.mask_edge,
        outside_weight=params.outside_weight,
        outside_lowpass_angstrom=params.outside_lowpass,
        centre=params.centre,
        blurring=params.blurring,
        smoothing=params.smoothing,
        percent=params.percent,
        best_percent=params.best_percent,
        score_weight=params.score_weight,
        scheme=params.scheme,
    )


def class_settings_of(params: "Params", seed: int) -> "ClassesSettings":
    from parhelion.algorithms.refine_classes import ClassesSettings

    return ClassesSettings(
        refine=settings_of(params, seed),
        classes=params.classes,
        symmetry=tuple(params.symmetry),
        align=params.class_align,
        resolution_limit_angstrom=params.class_resolution,
        rounds=params.class_rounds,
    )


def round_keeper(context: "Context") -> "Callable[[str, RoundMaps], None]":
    """Writes what every round of a part of the work (a name, or nothing) made to ``rounds/``."""
    import numpy as np

    from parhelion.algorithms.postprocess.gold_standard import gold_standard_fsc
    from parhelion.io import mrc
    from parhelion.jobs._fsc import curves_by_kind, write_cistem_statistics, write_fsc

    def keep(part: str, made: "RoundMaps") -> None:
        name = f"{part and part + '_'}round_{made.number:03d}"
        box, pixel = made.mask.box, made.mask.pixel_size_angstrom
        volumes = {
            "half1": made.half_maps[0],
            "half2": made.half_maps[1],
            "reference1": made.references[0],
            "reference2": made.references[1],
            "mask": made.mask,
        }
        for what, volume in volumes.items():
            mrc.write_volume(context.path("rounds", f"{name}_{what}", "mrc"), volume)
        curves = curves_by_kind(gold_standard_fsc(*made.half_maps, made.mask, seed=context.seed))
        # maps of a round may end before the images do; what a mask brings to finer shells is nothing
        curves = {kind: np.where(made.fsc != 0, curve, 0.0) for kind, curve in curves.items()}
        write_fsc(context.path("rounds", f"{name}_fsc", "star"), curves, box, pixel)
        to = context.path("rounds", f"{name}_statistics", "txt")
        write_cistem_statistics(to, curves["corrected"], made.mask)

    return keep


def mask_of(
    params: "Params", particles: "ParticleSet", source: "StackSource", reference: "Volume"
) -> "Volume | None":
    """The given mask, in the frame of the particles or of the reference."""
    import numpy as np

    from parhelion.io import mrc
    from parhelion.jobs._maps import read_mask
    from parhelion.model.volume import Volume

    if params.mask is None:
        return None
    box = source.box
    if reference.data.shape != (box,) * 3 and tuple(mrc.read_header(params.mask).shape) == (box,) * 3:
        frame = Volume(
            data=np.empty((box,) * 3, np.float32),
            pixel_size_angstrom=particles.optics[0].pixel_size_angstrom,
        )
        return read_mask(params.mask, frame, params.input)
    return read_mask(params.mask, reference, params.reference)
