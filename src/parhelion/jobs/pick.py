"""Find particles in micrographs.

Without a model, by the answer to a soft disc or a Gaussian blob in units of the background's noise; with one,
by local correlation with its projections or with class averages. The background's spectrum comes from boxes
without particles, whose positions the method noise gives by themselves. Coordinates of other programs are
imported, joined and freed of duplicates. Positions are in pixels of the micrographs.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from parhelion.jobs._pick_options import ONLY_FOR, RESOLUTION, Params
from parhelion.registry import Estimate, Output, Result, declare

if TYPE_CHECKING:
    from parhelion.algorithms.picking.search import PickSettings
    from parhelion.model.micrographs import Coordinates, Micrographs
    from parhelion.run.context import Context

BYTES_PER_PIXEL = 14
"""A micrograph in float32, its stored form, the picture made of it and what is reduced."""

OUTPUTS = (
    Output(
        name="coordinates", file="coordinates.star", help="positions of all micrographs, with their merit"
    ),
    Output(
        name="files",
        file="coordinates/*_autopick.star",
        help="positions of each micrograph, as RELION's picker leaves them",
    ),
    Output(name="pictures", file="overlays/*.png", help="micrographs with their particles", optional=True),
    Output(
        name="background",
        file="background_boxes.star",
        help="positions of the background boxes",
        optional=True,
    ),
    Output(name="spectra", file="noise_spectra.star", help="noise power per Fourier shell", optional=True),
)


def estimate(params: Params) -> Estimate:
    """A micrograph per thread; pictures on disk."""
    from parhelion.io.relion_micrographs import read_micrographs
    from parhelion.jobs._micrographs import largest_shape

    found = read_micrographs(params.input, pixel_size_angstrom=params.pixel_size, needs=("pixel_size",))
    _, height, width = largest_shape(found.path[:: max(1, len(found) // 50)])
    pixel = found.optics[0].pixel_size_angstrom
    templates = (
        _template_bytes(params, height * width * pixel**2, pixel) if params.method == "template" else 0
    )
    return Estimate(
        memory_bytes=50_000_000 + (200_000_000 if templates else 0),
        per_thread_bytes=BYTES_PER_PIXEL * height * width + 50_000_000 + templates,
        disk_bytes=20_000 * len(found) + 1_500_000 * min(params.pictures, len(found)),
    )


def _template_bytes(params: Params, area_angstrom2: float, pixel_size: float) -> int:
    """The maps of the templates' principal basis: it has a third as many members as the circle has pixels."""
    pixel = max(0.5 * (params.highest_resolution or RESOLUTION["template"]), pixel_size)
    members = max(8.0, 3.15 * (1.25 * params.maximum_radius / pixel) ** 2 / 3)
    return int(4 * members * 1.2 * area_angstrom2 / pixel**2)


def run(context: "Context", params: Params) -> Result:
    """Pick in every micrograph, or import; write tables and pictures."""
    micrographs = _read(context, params)
    if params.method == "import":
        return _import(context, params, micrographs)
    return _pick(context, params, micrographs)


def _read(context: "Context", params: Params) -> "Micrographs":
    """The micrographs; what their CTF needs must be known where it is used."""
    from parhelion.jobs._micrographs import read

    def reading(needs: tuple[str, ...]) -> "Micrographs":
        return read(
            context,
            params.input,
            pixel_size=params.pixel_size,
            voltage=params.voltage,
            cs=params.cs,
            amplitude_contrast=params.amplitude_contrast,
            movies=False,
            needs=needs,
        )

    found = reading(("pixel_size",))
    if params.method not in ONLY_FOR["ctf"] or not params.ctf:
        return found
    if found.ctf is None:
        context.notice(
            "the micrographs have no fitted CTF (parhelion ctf adds it): particles are looked for without it"
        )
        return found
    return reading(("pixel_size", "voltage", "cs", "amplitude_contrast"))


def _settings(params: Params) -> "PickSettings":
    from parhelion.algorithms.picking.search import PickSettings

    method: Any = params.method if params.method in ("template", "gaussian") else "blob"
    characteristic = min(params.characteristic_radius, params.maximum_radius)
    return PickSettings(
        method=method,
        maximum_radius_angstrom=params.maximum_radius,
        characteristic_radius_angstrom=characteristic,
        radius_range_angstrom=params.radius_range,
        threshold_sigmas=params.threshold,
        highest_resolution_angstrom=params.highest_resolution or RESOLUTION[params.method],
        background_boxes=params.background_boxes,
        background_choice=params.background,
        avoid_high_variance=params.avoid_high_variance,
        avoid_abnormal_means=params.avoid_abnormal_means,
        reject_large=params.reject_large,
        edge_distance_px=params.min_edge_distance,
        limit=params.limit,
        mask_threshold=params.mask_threshold,
    )


def _pick(context: "Context", params: Params, micrographs: "Micrographs") -> Result:
    from parhelion.algorithms.picking.search import find_noise_boxes, pick_micrograph
    from parhelion.images.saturation import saturation
    from parhelion.jobs import _pick_report as report
    from parhelion.jobs import _pick_work as work
    from parhelion.jobs._micrographs import each

    settings, names = _settings(params), micrographs.name
    masks = work.mask_files(names, params.mask) if params.mask else [None] * len(names)
    white = params.contrast == "white"
    if params.contrast == "auto" and params.method != "noise":
        white = work.is_white(context, micrographs, settings)
    templates = work.TemplateMaker(params, settings)
    pictures = _pictures(context, params, names)

    def one(i: int) -> dict[str, Any]:
        image = work.read_image(micrographs.path[i])
        cut = saturation(image)
        if cut is not None:
            context.notice(f"{names[i]}: {cut}")
        pixel = micrographs.optics_of(i).pixel_size_angstrom
        probability = work.read_probability(masks[i])
        if params.method == "noise":
            found = find_noise_boxes(image, pixel, settings, white=white, probability=probability)
        else:
            found = pick_micrograph(
                image,
                pixel,
                work.ctf_of(micrographs, i) if params.ctf else None,
                settings,
                white=white,
                templates=templates.at(pixel) if params.method == "template" else None,
                probability=probability,
            )
        return work.picked_row(found, image, pixel, settings, pictures.get(i))

    outcome = each(context, names, one, "Picking particles")
    coordinates = report.coordinates_of(outcome, names)
    outputs = _write(context, coordinates, pictures) | report.write_background(context, outcome, names)
    report.tell(context, outcome, names, params.maximum_radius, params.method)
    report.show(context, outcome, coordinates, pictures)
    merit = coordinates.figure_of_merit
    figures: dict[str, float | int | str | None] = {
        "particles": len(coordinates),
        **outcome.figures(),
        "particles_per_micrograph": round(len(coordinates) / max(1, len(outcome.done())), 1),
        "highest_merit": round(float(merit.max()), 2) if merit is not None and len(merit) else None,
    }
    if params.method != "noise":
        figures["contrast"] = "white" if white else "black"
    return Result(figures=figures, outputs=outputs)


def _pictures(context: "Context", params: Params, names: tuple[str, ...]) -> dict[int, Path]:
    """Which micrographs are drawn, and where."""
    import numpy as np

    from parhelion.io.relion_micrographs import stems

    count = min(params.pictures, len(names))
    rows = np.unique(np.linspace(0, len(names) - 1, count).round().astype(int))
    written = stems(names)
    return {int(i): context.path("pictures", written[int(i)]) for i in rows}


def _write(
    context: "Context", coordinates: "Coordinates", pictures: dict[int, Path]
) -> "dict[str, Path | list[Path]]":
    from parhelion.io.coordinates import write_coordinates, write_coordinates_per_micrograph

    folder = context.folder / "coordinates"
    folder.mkdir(exist_ok=True)
    write_coordinates(context.path("coordinates"), coordinates)
    outputs: dict[str, Path | list[Path]] = {
        "coordinates": context.path("coordinates"),
        "files": write_coordinates_per_micrograph(folder, coordinates),
    }
    drawn = [path for path in pictures.values() if path.is_file()]
    return outputs | ({"pictures": drawn} if drawn else {})


def _import(context: "Context", params: Params, micrographs: "Micrographs") -> Result:
    from parhelion.io.coordinates import take
    from parhelion.jobs import _pick_import as runs
    from parhelion.jobs._pick_report import show_imported

    files = params.coordinates or ()
    read, run_of = runs.read_runs(context, files, micrographs)
    kept = runs.distinct(read, micrographs, params.duplicate_distance)
    figures = runs.report_runs(context, files, run_of, read, kept)
    coordinates = take(read, kept)
    pictures = _pictures(context, params, micrographs.name)
    show_imported(context, micrographs, coordinates, pictures, params.maximum_radius)
    return Result(
        figures={"particles": len(coordinates), "micrographs": len(micrographs), **figures},
        outputs=_write(context, coordinates, pictures),
    )


JOB = declare(__name__, __doc__, params=Params, run=run, estimate=estimate, outputs=OUTPUTS, resumable=True)
