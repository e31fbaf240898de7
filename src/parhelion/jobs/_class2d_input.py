"""What ``class2d`` reads: particles with their images and microscope, references, settings."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from parhelion.algorithms.class2d.problem import classes_of_table
from parhelion.algorithms.class2d.settings import Class2dSettings, classes_for
from parhelion.errors import InputError
from parhelion.io.formats import open_images
from parhelion.io.particles import read_particles
from parhelion.io.star import read_star
from parhelion.jobs._particles import first_images, read_with_images

if TYPE_CHECKING:
    from parhelion.io.source import StackSource
    from parhelion.jobs.class2d import Params
    from parhelion.model.particles import ParticleSet
    from parhelion.run.context import Context


def read(context: "Context", params: "Params") -> "tuple[ParticleSet, StackSource]":
    """The particles, the microscope as the options say, and their images, the first of them shown."""
    particles, source = read_with_images(
        params.input, context, contrast=params.contrast, pixel_size=params.pixel_size
    )
    images = first_images(source)
    context.report.gallery(images, [f"particle {i + 1}" for i in range(len(images))], "First particles")
    given = {
        "voltage_kv": params.voltage,
        "spherical_aberration_mm": params.cs,
        "amplitude_contrast": params.amplitude_contrast,
    }
    known = {name: value for name, value in given.items() if value is not None}
    optics = tuple(replace(group, **known) for group in particles.optics)  # type: ignore[arg-type]
    return replace(particles, optics=optics), source


def class_count(params: "Params", count: int) -> int:
    """How many classes ``count`` particles go into."""
    if params.references is not None:
        return _stack_shape(params.references)[0]
    if params.local:
        return classes_of_table(read_particles(params.input, pixel_size_angstrom=params.pixel_size))
    return params.classes or classes_for(count)


def settings_of(params: "Params", seed: int) -> Class2dSettings:
    """What the options say."""
    return Class2dSettings(
        diameter_angstrom=params.diameter,
        classes=params.classes,
        cycles=params.cycles,
        mask_radius_angstrom=params.mask_radius,
        low_resolution_angstrom=params.low_resolution,
        initial_resolution_angstrom=params.initial_resolution,
        final_resolution_angstrom=params.final_resolution,
        angular_step_deg=params.angular_step,
        shift_range_angstrom=params.shift_range,
        shift_range_y_angstrom=params.shift_range_y,
        smoothing=params.smoothing,
        percent=params.percent,
        exclude_edges=params.exclude_edges,
        automatic_mask=params.auto_mask,
        centre=params.centre,
        start_average=params.start_average,
        own_sigma=params.particle_sigma,
        own_scale=params.particle_scale,
        least_percent=percent_of(params.references or (params.input if params.local else None)),
        first=params.first,
        last=params.last,
        padding=params.padding,
        normalise=params.normalise,
        local=params.local,
        seed=seed,
    )


def percent_of(earlier: Path | None) -> float:
    """The share of particles (%) in the last cycle of the classification that wrote the file ``earlier``.

    It is in the table beside them; 0 where there is none.
    """
    table = None if earlier is None else earlier.with_name("classes.star")
    if table is None or not table.is_file():
        return 0.0
    blocks = read_star(table)
    column = "parhelionPercentUsed"
    known = [block[column][0] for block in blocks.values() if column in block and block.rows]
    return float(known[0]) if known else 0.0


def _stack_shape(path: Path) -> tuple[int, int, int]:
    count, height, width = open_images(path).shape
    return int(count), int(height), int(width)


def references(params: "Params", box: int) -> np.ndarray | None:
    """The given class averages ``(c, box, box)``; InputError where they do not fit the particles."""
    if params.references is None:
        return None
    count, height, width = _stack_shape(params.references)
    if (height, width) != (box, box):
        raise InputError(
            f"the references in {params.references} have {width} x {height} pixels, the particles "
            f"{box} x {box}; use class averages of these particles, or bring both to one box"
        )
    images = np.asarray(open_images(params.references).read(np.arange(count)), np.float32)
    if not np.isfinite(images).all():
        raise InputError(f"{params.references} holds values that are not finite (NaN or infinity)")
    return images
