"""What ``ctf`` tells: key figures, warnings, a table, histograms, pictures and curves."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from parhelion.jobs._ctf_files import read_curves
from parhelion.jobs._micrographs import named

if TYPE_CHECKING:
    import numpy as np

    from parhelion.run.context import Context

SHOWN = 16
TABLE_ROWS = 500
BINS = 24
END_SHARE = 0.01
"""Share of the range of the search at whose ends a defocus is not believed."""
EXTRA = {
    "iciness": "iciness",
    "thickness_angstrom": "thickness (Å)",
    "tilt_deg": "tilt (°)",
    "tilt_axis_deg": "tilt axis (°)",
}


def figures(rows: Sequence[dict[str, Any]]) -> dict[str, float | int | str | None]:
    """Medians over the micrographs, and how many fits are doubtful."""
    import numpy as np

    mean = [0.5 * (row["defocus_u_angstrom"] + row["defocus_v_angstrom"]) for row in rows]
    found: dict[str, float | int | str | None] = {
        "median_defocus_angstrom": float(np.median(mean)),
        "median_astigmatism_angstrom": float(
            np.median([row["defocus_u_angstrom"] - row["defocus_v_angstrom"] for row in rows])
        ),
        "median_fit_resolution_angstrom": float(np.median([row["fit_resolution_angstrom"] for row in rows])),
        "low_confidence": sum(not row["confident"] for row in rows),
    }
    if any(row["phase_shift_deg"] for row in rows):
        found["median_phase_shift_deg"] = float(np.median([row["phase_shift_deg"] for row in rows]))
    return found


def tell(
    context: "Context",
    names: Sequence[str],
    rows: Sequence[dict[str, Any]],
    size: int,
    max_resolution_angstrom: float,
    defocus_range_angstrom: tuple[float, float],
) -> None:
    """Notices about doubtful fits, defoci at the ends of the search, and rings too fine for the spectra."""
    doubtful = [name for name, row in zip(names, rows, strict=True) if not row["confident"]]
    if doubtful:
        context.notice(
            f"{len(doubtful)} of {len(rows)} fits have low confidence (weak or no rings: empty ice, "
            f"contamination, drift): {named(doubtful)}"
        )
    low, high = defocus_range_angstrom
    margin = END_SHARE * (high - low)
    ends = [
        name
        for name, row in zip(names, rows, strict=True)
        if not low + margin < 0.5 * (row["defocus_u_angstrom"] + row["defocus_v_angstrom"]) < high - margin
    ]
    if ends and margin > 0:
        context.notice(
            f"{len(ends)} of {len(rows)} fits end where the search ends (--defocus-range {low:g} {high:g}): "
            f"give a wider range, or check the pixel size, which defocus follows as its square: {named(ends)}"
        )
    aliased = [
        name
        for name, row in zip(names, rows, strict=True)
        if (row["alias_resolution_angstrom"] or 0.0) > max_resolution_angstrom
    ]
    if aliased:
        context.notice(
            f"{len(aliased)} of {len(rows)} micrographs have rings too fine for a spectrum of {size} pixels "
            f"within the range of the fit (aliasing); --spectrum-size {2 * size} shows them: {named(aliased)}"
        )


def report(context: "Context", names: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    """Sections of the report: distributions, table, pictures and curves of the worst and of examples."""
    import numpy as np

    if len(rows) > 1:
        mean = np.array([0.5 * (row["defocus_u_angstrom"] + row["defocus_v_angstrom"]) for row in rows])
        section = context.report.section("Distributions")
        section.curve(
            {"micrographs": _histogram(mean / 1e4)},
            x_label="mean defocus (µm)",
            y_label="micrographs",
            title="Defocus",
        )
        resolution = np.array([row["fit_resolution_angstrom"] for row in rows])
        section.curve(
            {"micrographs": _histogram(resolution)},
            x_label="rings found to (Å)",
            y_label="micrographs",
            title="Fit resolution",
        )
    _table(context, names, rows)
    _examples(context, names, rows)


def _histogram(values: "np.ndarray") -> "tuple[np.ndarray, np.ndarray]":
    """Outline of a histogram as a line."""
    import numpy as np

    count, edges = np.histogram(values, bins=min(BINS, max(4, len(values) // 2)))
    return np.repeat(edges, 2)[1:-1], np.repeat(count, 2)


def _table(context: "Context", names: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    section = context.report.section("Micrographs", folded=len(rows) > 40)
    extra = [(key, head) for key, head in EXTRA.items() if any(row.get(key) is not None for row in rows)]
    section.table(
        [
            (
                name,
                round(row["defocus_u_angstrom"]),
                round(row["defocus_v_angstrom"]),
                round(row["defocus_angle_deg"], 1),
                round(row["phase_shift_deg"], 1),
                row["correlation"],
                row["significance"],
                row["fit_resolution_angstrom"],
                "none" if row["alias_resolution_angstrom"] is None else row["alias_resolution_angstrom"],
                "good" if row["confident"] else "low",
                *(row.get(key) for key, _ in extra),
            )
            for name, row in list(zip(names, rows, strict=True))[:TABLE_ROWS]
        ],
        heads=(
            "micrograph",
            "defocus U (Å)",
            "defocus V (Å)",
            "angle (°)",
            "phase shift (°)",
            "correlation",
            "significance (σ)",
            "rings to (Å)",
            "aliasing from (Å)",
            "confidence",
            *(head for _, head in extra),
        ),
    )
    if len(rows) > TABLE_ROWS:
        section.text(f"The other {len(rows) - TABLE_ROWS} are in micrographs.star.")


def _examples(context: "Context", names: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    """Pictures and curves: all of few micrographs; of many, the worst fits and some from the whole range."""
    import numpy as np

    from parhelion.io.mrc import open_stack

    order = sorted(range(len(rows)), key=lambda i: (rows[i]["confident"], rows[i]["significance"]))
    chosen = order
    if len(order) > SHOWN:
        spread = np.linspace(SHOWN // 2, len(order) - 1, SHOWN // 2).round().astype(int)
        chosen = [*order[: SHOWN // 2], *(order[i] for i in spread)]
    title = "Spectra and fits" if len(order) <= SHOWN else "Spectra and fits: the weakest and examples"
    section = context.report.section(title)
    pictures = [open_stack(context.path("pictures", rows[i]["stem"])).read(np.array([0]))[0] for i in chosen]
    section.gallery(pictures, [f"{names[i]}: {rows[i]['fit_resolution_angstrom']:.1f} Å" for i in chosen])
    inner = section.section("Curves", folded=len(chosen) > 4)
    for i in chosen:
        s, _, experiment, fit, quality, _ = read_curves(context.path("curves", rows[i]["stem"]))
        inner.curve(
            {"fitted CTF": (s, fit), "quality of fit": (s, quality), "spectrum": (s, experiment)},
            x_label="spatial frequency (1/Å)",
            y_label="",
            title=names[i],
        )
