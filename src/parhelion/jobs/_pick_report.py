"""Tables, files and pictures that ``pick`` leaves behind."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from parhelion.model.micrographs import Coordinates
from parhelion.model.table import Table

if TYPE_CHECKING:
    from pathlib import Path

    from parhelion.jobs._micrographs import Outcome
    from parhelion.model.micrographs import Micrographs
    from parhelion.run.context import Context

SHOWN_PICTURES = 12
SHOWN_ROWS = 200
NAMED = 10
THUMBNAIL_PX = 256
SMOOTH_ANGSTROM = 4.0
LARGE = "larger than a particle"
MANY_LARGE = 0.4
FEW = 3
CROWDED = 0.6
"""Share of the densest possible packing beyond which picks look like a grid rather than particles."""


def coordinates_of(outcome: "Outcome", names: Sequence[str]) -> Coordinates:
    """All particles as one table, with the best template or radius of each."""
    import numpy as np

    rows = [(i, row) for i, row in enumerate(outcome.rows) if row is not None]

    def column(name: str) -> np.ndarray:
        return np.concatenate([np.asarray(row[name], np.float64) for _, row in rows] or [np.zeros(0)])

    extra: dict[str, np.ndarray] = {}
    if rows and all("template" in row for _, row in rows):
        extra["rlnClassNumber"] = column("template").astype(np.int64) + 1
        extra["rlnAnglePsi"] = column("psi_deg")
    if rows and all("radius_angstrom" in row for _, row in rows) and len(set(column("radius_angstrom"))) > 1:
        extra["parhelionRadius"] = column("radius_angstrom")
    return Coordinates(
        names=tuple(names),
        micrograph=np.concatenate([np.full(len(row["x"]), i) for i, row in rows]).astype(np.int64),
        xy_px=np.stack([column("x"), column("y")], axis=1),
        figure_of_merit=column("merit"),
        extra=Table(extra),
    )


def write_background(context: "Context", outcome: "Outcome", names: Sequence[str]) -> "dict[str, Path]":
    """Positions of the background boxes and the noise spectra, one row per box and per shell."""
    import numpy as np

    from parhelion.io.star import write_star

    boxes: dict[str, list[Any]] = {"rlnMicrographName": [], "rlnCoordinateX": [], "rlnCoordinateY": []}
    variance: list[float] = []
    spectra: dict[str, list[Any]] = {"rlnMicrographName": [], "rlnSpectralIndex": []}
    resolution: list[float] = []
    power: list[float] = []
    for name, row in zip(names, outcome.rows, strict=True):
        if row is None:
            continue
        boxes["rlnMicrographName"] += [name] * len(row["boxes"])
        boxes["rlnCoordinateX"] += [xy[0] for xy in row["boxes"]]
        boxes["rlnCoordinateY"] += [xy[1] for xy in row["boxes"]]
        variance += row["variance"]
        shells = len(row["power"])
        spectra["rlnMicrographName"] += [name] * shells
        spectra["rlnSpectralIndex"] += list(range(shells))
        width = 2 * (shells - 1) * row["pixel"]
        resolution += [width / shell if shell else 999.0 for shell in range(shells)]
        power += row["power"]
    first = {**boxes, "parhelionLocalVariance": variance}
    second = {**spectra, "rlnAngstromResolution": resolution, "parhelionNoisePower": power}
    for output, columns in (("background", first), ("spectra", second)):
        table = {
            label: np.array(values, dtype=object if label.endswith("Name") else None)
            for label, values in columns.items()
        }
        write_star(context.path(output), {output: Table(table)})
    return {output: context.path(output) for output in ("background", "spectra")}


def tell(
    context: "Context", outcome: "Outcome", names: Sequence[str], radius_angstrom: float, method: str
) -> None:
    """Notices about micrographs with none and with suspiciously many particles."""
    import math

    empty = [names[i] for i, row in enumerate(outcome.rows) if row is not None and len(row["x"]) < FEW]
    if empty and method != "noise":
        context.notice(
            f"no or hardly any particles were found in {len(empty)} of {len(outcome.done())} micrographs "
            f"({_named(empty)}): only ice or contamination, a wrong radius, "
            "pixel size or contrast, or a high threshold"
        )
    large = sum(row["refused"].get(LARGE, 0) for row in outcome.done())
    picked = sum(len(row["x"]) for row in outcome.done())
    if large > MANY_LARGE * (picked + large):
        context.notice(
            f"{large} of {picked + large} blobs are larger than a particle of the maximum radius, "
            f"{radius_angstrom:g} Å, and were left out: is it too small?"
        )
    densest = 1 / (0.5 * math.sqrt(3) * radius_angstrom**2)
    crowded = [
        names[i]
        for i, row in enumerate(outcome.rows)
        if row is not None and len(row["x"]) > CROWDED * densest * row["area"]
    ]
    if crowded and method != "noise":
        context.notice(
            f"{len(crowded)} micrographs are covered with picks ({_named(crowded)}); where particles are not "
            "that dense, the threshold is too low or the radius too small"
        )


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(names[:NAMED])
    return shown if len(names) <= NAMED else f"{shown} …"


def show(
    context: "Context", outcome: "Outcome", coordinates: Coordinates, pictures: "dict[int, Path]"
) -> None:
    """Counts, histogram of figures of merit, noise spectrum, refused peaks, pictures."""
    import numpy as np

    report = context.report
    _show_pictures(context, pictures, coordinates)
    merit = coordinates.figure_of_merit
    if merit is not None and len(merit) > 1:
        counts, edges = np.histogram(merit, bins=min(60, max(8, len(merit) // 10)))
        report.curve(
            {"particles": (0.5 * (edges[1:] + edges[:-1]), counts)},
            x_label="figure of merit",
            y_label="particles",
            title="Figures of merit",
        )
    rows = [row for row in outcome.done() if row["power"]]
    if rows:
        usual = max(rows, key=lambda row: len(row["power"]))
        alike = [row["power"] for row in rows if len(row["power"]) == len(usual["power"])]
        frequency = np.arange(len(usual["power"])) / (2 * (len(usual["power"]) - 1) * usual["pixel"])
        report.curve(
            {"mean": (frequency, np.mean(alike, axis=0)), "first": (frequency, np.array(alike[0]))},
            x_label="spatial frequency (1/Å)",
            y_label="power",
            title="Noise spectrum of the background boxes",
        )
    _show_counts(context, outcome, coordinates)


def _show_counts(context: "Context", outcome: "Outcome", coordinates: Coordinates) -> None:
    import numpy as np

    refused: dict[str, int] = {}
    lines: list[tuple[object, ...]] = []
    for i, row in enumerate(outcome.rows):
        if row is None:
            continue
        for reason, count in row["refused"].items():
            refused[reason] = refused.get(reason, 0) + count
        middle = float(np.median(row["merit"])) if row["merit"] else "–"
        lines.append((coordinates.names[i], len(row["x"]), middle, sum(row["refused"].values())))
    if refused:
        context.report.table(list(refused.items()), ("left out", "peaks"))
    section = context.report.section("Micrographs", folded=len(lines) > 20)
    section.table(lines[:SHOWN_ROWS], ("micrograph", "particles", "median merit", "left out"))
    if len(lines) > SHOWN_ROWS:
        section.text(f"{len(lines) - SHOWN_ROWS} more are in coordinates.star.")


def _show_pictures(context: "Context", pictures: "dict[int, Path]", coordinates: Coordinates) -> None:
    """Small versions of the first pictures."""
    from matplotlib.image import imread

    shown, captions = [], []
    for i, path in list(pictures.items())[:SHOWN_PICTURES]:
        if not path.is_file():
            continue
        picture = imread(path)[::-1, :, :3]
        factor = -(-max(picture.shape[:2]) // THUMBNAIL_PX)
        y, x = (n // factor * factor for n in picture.shape[:2])
        blocks = picture[:y, :x].reshape(y // factor, factor, x // factor, factor, 3)
        shown.append(blocks.mean(axis=(1, 3)))
        captions.append(f"{coordinates.names[i]}: {len(coordinates.of(i))}")
    if shown:
        context.report.gallery(shown, captions, "Particles (full size in the folder overlays)")


def show_imported(
    context: "Context",
    micrographs: "Micrographs",
    coordinates: Coordinates,
    pictures: "dict[int, Path]",
    radius_angstrom: float,
) -> None:
    """Draw imported positions; a micrograph that cannot be read is told and left without a picture."""
    from parhelion.algorithms.picking.overlay import overlay
    from parhelion.errors import InputError
    from parhelion.jobs._pick_work import PICTURE_PX, read_image, write_picture

    outside = 0
    for done, (row, path) in enumerate(pictures.items(), 1):
        context.check()
        try:
            image = read_image(micrographs.path[row])
        except (InputError, OSError) as error:
            context.notice(f"{micrographs.name[row]} has no picture: {error}")
            continue
        pixel = micrographs.optics_of(row).pixel_size_angstrom
        x, y = (xy := coordinates.xy_px[coordinates.of(row)]).T
        outside += int(((x < 0) | (y < 0) | (x >= image.shape[1]) | (y >= image.shape[0])).sum())
        smooth = SMOOTH_ANGSTROM / pixel
        radius = radius_angstrom / pixel
        write_picture(path, overlay(image, xy, radius, largest=PICTURE_PX, smooth_px=smooth))
        context.progress("Drawing particles", done, len(pictures))
    if outside:
        context.notice(
            f"{outside} positions lie outside their micrograph: do the coordinates belong to micrographs of "
            "this pixel size?"
        )
    _show_pictures(context, pictures, coordinates)
