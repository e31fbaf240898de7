"""What ``spa`` needs from movies or micrographs on, before anything is known about the particles."""

import math
from typing import TYPE_CHECKING, Any

from parhelion.algorithms import first_run
from parhelion.algorithms.ab_initio import AbInitioSettings, planned_bytes
from parhelion.algorithms.refine3d import RefineSettings, memory_plan
from parhelion.io.relion_micrographs import read_micrographs
from parhelion.jobs import load
from parhelion.jobs._micrographs import largest_shape
from parhelion.model.micrographs import Micrographs
from parhelion.registry import Estimate, validate
from parhelion.run.memory import available_bytes

if TYPE_CHECKING:
    from parhelion.jobs.spa import Params

DENSITY = 0.4
"""Share of a micrograph's area that particles cover, one square of their diameter each."""
USUAL_DEFOCUS_ANGSTROM = 15_000.0
USUAL_VOLTAGE_KV = 300.0


def planned(params: "Params", start: str) -> list[Estimate]:
    """Estimates of the steps; particles are assumed to lie as densely as they usually do."""
    found = first_table(params)
    pixel = found.optics[0].pixel_size_angstrom
    first = load("motion" if start == "movies" else "ctf")
    values: dict[str, Any] = {
        "input": params.input,
        "pixel_size": params.pixel_size,
        "voltage": params.voltage,
    }
    if start == "movies":
        values |= {
            "gain": params.gain,
            "dose_per_frame": params.dose_per_frame,
            "exposure_filter": knows_dose(params, found),
        }
    else:
        values |= {"cs": params.cs, "amplitude_contrast": params.amplitude_contrast}
    given = {name: value for name, value in values.items() if value is not None}
    steps = [first.estimate(validate(first.params, given))]
    _, height, width = largest_shape(found.path[:: max(1, len(found) // 20)])
    diameter = params.diameter or 0.0
    count = math.ceil(DENSITY * len(found) * height * width * pixel**2 / diameter**2)
    binning = first_run.movie_binning(pixel, params.final_pixel_size).value if start == "movies" else 1.0
    final = first_run.final_pixel(diameter, pixel * binning, params.final_pixel_size).value
    extent = first_run.box_extent(diameter, final, USUAL_DEFOCUS_ANGSTROM, params.voltage or USUAL_VOLTAGE_KV)
    chosen = first_run.boxes(extent, pixel * binning, final)
    return [*steps, *_maps(params, max(count, 1), chosen)]


def knows_dose(params: "Params", movies: Micrographs) -> bool:
    """Whether the electrons per frame are known for every movie."""
    stated = movies.dose_per_frame
    return params.dose_per_frame is not None or (stated is not None and bool((stated > 0).all()))


def first_table(params: "Params") -> Micrographs:
    """The movies or micrographs of the input. Raises MetadataError where what all steps need is not known."""
    return read_micrographs(
        params.input,
        pixel_size_angstrom=params.pixel_size,
        voltage_kv=params.voltage,
        spherical_aberration_mm=params.cs,
        amplitude_contrast=params.amplitude_contrast,
        needs=("pixel_size", "voltage", "cs"),
    )


def _maps(params: "Params", count: int, chosen: first_run.Boxes) -> list[Estimate]:
    free, box, pixel = available_bytes(), chosen.final_box, chosen.pixel_size_angstrom
    settings = RefineSettings(symmetry=params.symmetry, diameter_angstrom=params.diameter)
    plan = memory_plan(count, box, pixel, settings, free)
    images = 4 * count * box**2
    needed = [
        Estimate(
            memory_bytes=plan.shared_bytes,
            per_thread_bytes=plan.per_thread_bytes,
            disk_bytes=images + 60 * 4 * box**3,
        )
    ]
    if params.reference is None and params.diameter is not None:
        first = AbInitioSettings(diameter_angstrom=params.diameter, symmetry=params.symmetry)
        shared, per_thread = planned_bytes(count, box, pixel, first, free)
        needed.append(Estimate(memory_bytes=shared, per_thread_bytes=per_thread))
    return needed
