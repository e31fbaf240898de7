"""Find particles in micrographs.

Without a model, by the answer to a soft disc or a Gaussian blob in units of the background's noise; with one,
by local correlation with its projections or with class averages. The background's spectrum comes from boxes
without particles, whose positions the method noise gives by themselves. Coordinates of other programs are
imported, joined and freed of duplicates. Positions are in pixels of the micrographs.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from parhelion.jobs._inputs import File, Files, MapFile, Symmetry
from parhelion.jobs._micrographs import (
    MicrographFiles,
    amplitude_contrast_option,
    cs_option,
    pixel_size_option,
    voltage_option,
)
from parhelion.registry import Estimate, JobParams, Output, Result, declare, option

if TYPE_CHECKING:
    from parhelion.algorithms.picking.search import PickSettings
    from parhelion.model.micrographs import Coordinates, Micrographs
    from parhelion.run.context import Context

SEARCH, BACKGROUND, REFUSE, TEMPLATES, IMPORT, MICROSCOPE = (
    "Search",
    "Background",
    "What is refused",
    "Templates",
    "Import",
    "Micrographs",
)
RESOLUTION = {"blob": 30.0, "gaussian": 30.0, "noise": 30.0, "template": 20.0}
ONLY_FOR = {
    "characteristic_radius": ("blob", "gaussian", "template"),
    "radius_range": ("blob",),
    "threshold": ("blob", "gaussian", "template"),
    "highest_resolution": ("blob", "gaussian", "template", "noise"),
    "ctf": ("blob", "template"),
    "contrast": ("blob", "gaussian", "template"),
    "background_boxes": ("blob", "gaussian", "template", "noise"),
    "background": ("blob", "gaussian", "template", "noise"),
    "avoid_high_variance": ("blob", "gaussian", "template"),
    "avoid_abnormal_means": ("blob", "gaussian", "template"),
    "reject_large": ("blob",),
    "min_edge_distance": ("blob", "gaussian", "template"),
    "limit": ("blob", "gaussian", "template"),
    "mask": ("blob", "gaussian", "template", "noise"),
    "mask_threshold": ("blob", "gaussian", "template", "noise"),
    "reference": ("template",),
    "templates": ("template",),
    "template_pixel_size": ("template",),
    "template_contrast": ("template",),
    "symmetry": ("template",),
    "angular_step": ("template",),
    "rotations": ("template",),
    "radial_average": ("template",),
    "coordinates": ("import",),
    "duplicate_distance": ("import",),
}
"""Options that belong to some methods; with another one they are refused instead of ignored."""
FROM_MAP = ("symmetry", "angular_step")
BYTES_PER_PIXEL = 14
"""A micrograph in float32, its stored form, the picture made of it and what is reduced."""


class Params(JobParams):
    """What the job takes."""

    input: MicrographFiles = option(help="table of micrographs with their CTF, or image files", short="i")
    method: Literal["blob", "template", "gaussian", "noise", "import"] = option(
        "blob",
        help="matched filter of a soft disc, templates, Gaussian blob, boxes of noise, or import",
    )
    maximum_radius: float = option(
        120.0,
        help="distance of the particle's farthest parts from its centre, and smallest distance of two picks",
        unit="Å",
        ge=5,
        le=3000,
    )
    characteristic_radius: float = option(
        80.0,
        help="radius of the particle's body: of the disc where it has fallen to one half",
        unit="Å",
        ge=5,
        le=3000,
        group=SEARCH,
    )
    radius_range: tuple[Annotated[float, Field(ge=5)], Annotated[float, Field(le=3000)]] | None = option(
        None,
        help="try discs of radii from the one to the other instead of the characteristic radius",
        unit="Å",
        default_text="one radius",
        group=SEARCH,
    )
    threshold: float = option(
        5.0,
        help="lowest peak that is picked, in standard deviations of the noise; 6 for fewer and surer ones",
        unit="1",
        ge=1,
        le=100,
        group=SEARCH,
    )
    highest_resolution: float | None = option(
        None,
        help="finest detail used; the picking pixel is half of it",
        unit="Å",
        ge=4,
        le=200,
        default_text="30, with templates 20",
        group=SEARCH,
    )
    ctf: bool = option(True, help="modulate disc or templates by the micrograph's CTF", group=SEARCH)
    contrast: Literal["auto", "white", "black"] = option(
        "auto",
        help="how protein looks in the micrographs; auto looks for blobs of either in some of them",
        group=SEARCH,
    )
    background_boxes: int = option(
        50, help="background boxes, two maximum radii wide", unit="boxes", ge=1, le=999, group=BACKGROUND
    )
    background: Literal["lowest-variance", "near-mode"] = option(
        "lowest-variance",
        help="boxes of least local variance, or of a variance near the most frequent one",
        group=BACKGROUND,
    )
    avoid_high_variance: bool = option(
        False,
        help="refuse peaks whose local variance is far above that of the others (edges of carbon); not for "
        "images of strong contrast",
        group=REFUSE,
    )
    avoid_abnormal_means: bool = option(
        True, help="refuse large dark areas and peaks whose local mean is unlike the others'", group=REFUSE
    )
    reject_large: bool = option(
        True, help="refuse blobs that answer to a disc of 1.5 maximum radii nearly as well", group=REFUSE
    )
    min_edge_distance: int | None = option(
        None,
        help="smallest distance of picks from the edges, for example 128",
        unit="pixels",
        ge=0,
        le=10000,
        default_text="the maximum radius",
        group=REFUSE,
    )
    limit: int | None = option(
        None,
        help="keep at most this many particles of each micrograph, the best ones",
        unit="particles",
        ge=1,
        default_text="all are kept",
        group=REFUSE,
    )
    mask: Files | None = option(
        None,
        help="what to avoid: probabilities of contamination (0 to 1) over each micrograph, at any binning: "
        "one for all, or named like their micrographs",
        default_text="none",
        group=REFUSE,
    )
    mask_threshold: float = option(
        0.5, help="avoid what --mask gives a higher probability", unit="1", ge=0, le=1, group=REFUSE
    )
    reference: MapFile | None = option(
        None, help="map whose projections are looked for", default_text="none", group=TEMPLATES
    )
    templates: File | None = option(
        None, help="stack of class averages to look for", default_text="none", group=TEMPLATES
    )
    template_pixel_size: float | None = option(
        None,
        help="pixel size of map or stack, where its header is wrong",
        unit="Å",
        ge=0.1,
        le=30,
        default_text="from the header",
        group=TEMPLATES,
    )
    template_contrast: Literal["white", "black"] = option(
        "white", help="how protein looks in map or stack", group=TEMPLATES
    )
    symmetry: Symmetry = option(
        "C1", help="point group of the map; its asymmetric unit is searched", group=TEMPLATES
    )
    angular_step: float = option(
        30.0,
        help="largest angle between neighbouring projections of the map",
        unit="degrees",
        ge=3,
        le=90,
        group=TEMPLATES,
    )
    rotations: int = option(
        36, help="turns of each template in the plane", unit="turns", ge=1, le=360, group=TEMPLATES
    )
    radial_average: bool = option(
        False, help="average each template over circles, and do not turn it", group=TEMPLATES
    )
    coordinates: Files | None = option(
        None,
        help="runs to join: STAR (one table, or one per micrograph), cisTEM text, .box, SPIDER document, CSV",
        default_text="none",
        group=IMPORT,
    )
    duplicate_distance: float = option(
        20.0,
        help="positions this near to each other are one particle; of several, the one of highest merit stays",
        unit="Å",
        ge=0,
        le=3000,
        group=IMPORT,
    )
    pictures: int = option(
        100,
        help="draw the particles of this many micrographs, evenly chosen",
        unit="pictures",
        ge=0,
        le=1000000,
    )
    pixel_size: float | None = pixel_size_option(MICROSCOPE)
    voltage: float | None = voltage_option(MICROSCOPE)
    cs: float | None = cs_option(MICROSCOPE)
    amplitude_contrast: float | None = amplitude_contrast_option(MICROSCOPE)

    @model_validator(mode="after")
    def _belong_together(self) -> "Params":
        for name in sorted(self.model_fields_set & ONLY_FOR.keys()):
            if self.method not in ONLY_FOR[name]:
                flag = "--" + name.replace("_", "-")
                raise ValueError(
                    f"{flag} is not used by --method {self.method}, but by {', '.join(ONLY_FOR[name])}"
                )
        if self.method == "template" and (self.reference is None) == (self.templates is None):
            raise ValueError("--method template needs --reference, a map, or --templates, class averages")
        if self.templates is not None and self.model_fields_set & set(FROM_MAP):
            raise ValueError("--symmetry and --angular-step belong to a map given by --reference")
        if self.radial_average and "rotations" in self.model_fields_set:
            raise ValueError("templates averaged over circles are not turned: leave out --rotations")
        if self.method == "import" and self.coordinates is None:
            raise ValueError("--method import needs --coordinates, the files to take them from")
        if "mask_threshold" in self.model_fields_set and self.mask is None:
            raise ValueError("--mask-threshold belongs to --mask")
        self._check_radii()
        return self

    def _check_radii(self) -> None:
        if "radius_range" in self.model_fields_set and "characteristic_radius" in self.model_fields_set:
            raise ValueError("--radius-range replaces --characteristic-radius; give one of them")
        low, high = self.radius_range or (self.characteristic_radius,) * 2
        if not low <= high:
            raise ValueError(f"--radius-range: the lower radius comes first, found {low:g} {high:g}")
        if self.method in ("blob", "gaussian") and high > self.maximum_radius:
            raise ValueError(
                f"a radius of {high:g} Å is larger than --maximum-radius, {self.maximum_radius:g} Å; the "
                "maximum radius reaches to the particle's farthest parts"
            )


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
