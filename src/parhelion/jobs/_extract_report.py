"""What ``extract`` shows: some of its particles, and what became of the positions of each micrograph."""

from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import gaussian_filter

from parhelion.io.formats import open_images
from parhelion.jobs._micrographs import Outcome, named
from parhelion.model.particles import ParticleSet

if TYPE_CHECKING:
    from parhelion.run.context import Context

SHOWN = 18
SHOWN_MICROGRAPHS = 500
SMOOTH_ANGSTROM = 20.0
COUNTS = ("outside", "at_edge", "broken")


def figures(particles: ParticleSet, outcome: Outcome, box: int) -> dict[str, float | int | str | None]:
    """Key figures: how many, how large, and how many were lost."""
    lost = {name: sum(int(row[name]) for row in outcome.done()) for name in COUNTS}
    dust = sum(int(row["dust"]) for row in outcome.done())
    return {
        "particles": len(particles),
        "box": particles.optics[0].box,
        "box_in_micrographs": box,
        "pixel_size_angstrom": particles.optics[0].pixel_size_angstrom,
        "outside_micrographs": lost["outside"],
        "at_edges": lost["at_edge"],
        "not_usable": lost["broken"],
        **({"dust_pixels": dust} if dust else {}),
        **outcome.figures(),
    }


def tell(context: "Context", outcome: Outcome) -> None:
    """Notices about micrographs that are cut at their greatest value, and about boxes of no use."""
    rows = [(name, row) for name, row in zip(outcome.names, outcome.rows) if row is not None]
    for name, row in rows:
        if row.get("saturation"):
            context.notice(f"{name}: {row['saturation']}")
    broken = [name for name, row in rows if row["broken"]]
    if broken:
        context.notice(
            f"{sum(int(row['broken']) for _, row in rows)} boxes are constant or hold values that are not "
            f"finite, and are left out: {named(broken)}"
        )


def show(context: "Context", particles: ParticleSet, outcome: Outcome) -> None:
    """Particles spread over the micrographs, plain and smoothed, and the table of micrographs."""
    views = particles.views
    chosen = np.unique(np.linspace(0, len(particles) - 1, SHOWN).astype(int))
    images = [
        open_images(views.image_path[views.path_id[i]]).read(views.image_index[i : i + 1])[0] for i in chosen
    ]
    captions = [f"particle {i + 1}, {views.defocus_u_angstrom[i] / 1e4:.2f} µm" for i in chosen]
    pixel = particles.optics[0].pixel_size_angstrom
    smooth = [gaussian_filter(image, SMOOTH_ANGSTROM / pixel / (2 * np.pi)) for image in images]
    context.report.gallery(images, captions, "Particles")
    context.report.gallery(smooth, captions, f"The same without detail finer than {SMOOTH_ANGSTROM:g} Å")
    rows = [
        (name, row["positions"], len(row["kept"]), *(row[count] for count in COUNTS))
        for name, row in zip(outcome.names, outcome.rows)
        if row is not None
    ]
    heads = ("micrograph", "positions", "particles", "outside", "over an edge", "not usable")
    section = context.report.section("Micrographs", folded=len(rows) > 20)
    section.table(rows[:SHOWN_MICROGRAPHS], heads)
    if len(rows) > SHOWN_MICROGRAPHS:
        section.text(f"{len(rows) - SHOWN_MICROGRAPHS} more are not shown.")
