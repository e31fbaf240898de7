"""Files, figures and report of a CTF refinement."""

from typing import TYPE_CHECKING

import numpy as np

from parhelion.algorithms.ctf_refine.refine import CtfRefineResult
from parhelion.algorithms.ctf_refine.significance import SIGNIFICANCE, BlockResult
from parhelion.io.mrc import StackWriter
from parhelion.io.particles import write_particles
from parhelion.io.star_writer import write_star
from parhelion.model.particles import OpticsGroup
from parhelion.model.table import Table

if TYPE_CHECKING:
    from parhelion.run.context import Context

UNITS = {
    "beam_tilt": "mrad",
    "trefoil": "rad Å³",
    "tetrafoil": "rad Å⁴",
    "spherical_aberration": "mm",
    "astigmatism": "Å",
    "magnification": "1",
}
AXES = {
    "beam_tilt": ("x", "y"),
    "trefoil": ("cos 3θ", "sin 3θ"),
    "tetrafoil": ("cos 4θ", "sin 4θ"),
    "spherical_aberration": ("",),
    "astigmatism": ("along x", "diagonal"),
    "magnification": ("xx", "yy", "xy"),
}
LABELS = {
    "beam_tilt": ("beam_tilt_x_mrad", "beam_tilt_y_mrad"),
    "trefoil": ("trefoil_cosine_rad_angstrom3", "trefoil_sine_rad_angstrom3"),
    "tetrafoil": ("tetrafoil_cosine_rad_angstrom4", "tetrafoil_sine_rad_angstrom4"),
    "spherical_aberration": ("spherical_aberration_mm",),
    "astigmatism": ("astigmatism_change_angstrom",),
    "magnification": ("magnification_anisotropy_percent", "magnification_scale"),
}
COLUMNS = LABELS | {
    "astigmatism": ("astigmatism_along_x_angstrom", "astigmatism_diagonal_angstrom"),
    "magnification": ("magnification_xx", "magnification_yy", "magnification_xy"),
}
BINS = 41


def value_of(group: OpticsGroup, block: str) -> tuple[float, ...]:
    """What the optics group says of a block now, in the order of AXES; nothing for astigmatism."""
    odd = (*group.odd_zernike, *[0.0] * (6 - len(group.odd_zernike)))
    even = (*group.even_zernike, *[0.0] * (9 - len(group.even_zernike)))
    m = group.magnification
    values: dict[str, tuple[float, ...]] = {
        "beam_tilt": group.beam_tilt_xy_mrad,
        "trefoil": (odd[5], odd[2]),
        "tetrafoil": (even[8], even[4]),
        "spherical_aberration": (group.spherical_aberration_mm,),
        "magnification": (m[0], m[3], (m[1] + m[2]) / 2),
    }
    return values.get(block, ())


def figures_of(found: CtfRefineResult) -> dict[str, float | int | str | None]:
    """The key figures; those of further optics groups, as far as they are pictured, carry their number."""
    figures: dict[str, float | int | str | None] = {
        "used_particles": int(found.used.sum()),
        "resolution_used_angstrom": found.resolution_used_angstrom,
        "log_likelihood_gain_per_particle": float(found.gain[found.used].mean()),
    }
    if found.settings.defocus != "no":
        change, error = _seen(found, "defocus")
        figures |= {
            "defocus_change_angstrom": float(np.sqrt((change**2).mean())),
            "defocus_uncertainty_angstrom": float(np.median(error)),
        }
    if found.settings.astigmatism == "micrograph":
        parts = [_seen(found, f"astigmatism_{axis}")[0] for axis in (1, 2)]
        figures["astigmatism_change_angstrom"] = float(2 * np.sqrt((parts[0] ** 2 + parts[1] ** 2).mean()))
    for block in (block for block in found.blocks if block.group in found.pictures):
        suffix = f"_group_{block.group + 1}" if len(found.particles.optics) > 1 else ""
        figures |= {name + suffix: value for name, value in _named(found, block).items()}
    return figures


def _named(found: CtfRefineResult, block: BlockResult) -> dict[str, float]:
    group = found.particles.optics[block.group]
    values: tuple[float, ...]
    if block.block == "magnification":
        stretch = np.linalg.svd(np.reshape(group.magnification, (2, 2)), compute_uv=False)
        values = (float(100 * (stretch[0] / stretch[1] - 1)), float(np.sqrt(stretch[0] * stretch[1])))
    elif block.block == "astigmatism":
        values = (float(2 * np.hypot(*block.change)) if block.kept else 0.0,)
    else:
        values = value_of(group, block.block)
    return dict(zip(LABELS[block.block], values))


def _seen(found: CtfRefineResult, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Changes and errors of particles that were used, or of micrographs with such."""
    change, error = found.level(name)
    if len(change) == len(found.used) and name in {c.name for c in found.start.layout.particle}:
        return change[found.used], error[found.used]
    seen = np.unique(found.start.micrograph[found.used])
    return change[seen], error[seen]


def write(context: "Context", found: CtfRefineResult) -> None:
    """All declared outputs."""
    write_particles(context.path("particles"), found.particles)
    write_star(context.path("parameters"), {"parameters": _parameters(found)})
    write_star(context.path("changes"), _changes(found))
    extent = found.references.volumes[0].box * found.particles.optics[0].pixel_size_angstrom
    shells = np.arange(1, len(found.before.cross))
    columns = {
        "rlnSpectralIndex": shells,
        "rlnResolution": shells / extent,
        "rlnAngstromResolution": extent / shells,
        "parhelionCorrelationBefore": found.before.correlation()[1:],
        "parhelionCorrelationAfter": found.after.correlation()[1:],
    }
    write_star(context.path("shells"), {"shells": Table(columns)})
    pictures = np.stack([p for group in found.pictures.values() for p in (*group.odd, *group.even)])
    pixel = found.particles.optics[0].pixel_size_angstrom
    with StackWriter(context.path("phases"), len(pictures), pictures.shape[1:], pixel) as writer:
        writer.write(0, pictures.astype(np.float32))


def _parameters(found: CtfRefineResult) -> Table:
    """One row per parameter of each optics group."""
    rows = [
        (found.particles.optics[b.group].name, name, change, error, b.p_value, b.kept)
        for b in found.blocks
        for name, change, error in zip(COLUMNS[b.block], b.change.tolist(), b.error.tolist())
    ]
    names, parameters, changes, errors, p_values, kept = zip(*rows) if rows else [()] * 6
    return Table(
        {
            "rlnOpticsGroupName": np.array(names, dtype=object),
            "parhelionParameter": np.array(parameters, dtype=object),
            "parhelionChange": np.array(changes, dtype=float),
            "parhelionStandardError": np.array(errors, dtype=float),
            "parhelionChanceOfChange": np.array(p_values, dtype=float),
            "parhelionChanged": np.array(kept, dtype=np.int64),
        },
        length=len(rows),
    )


def _changes(found: CtfRefineResult) -> dict[str, Table]:
    """Per particle: what was gained; per particle or micrograph: changes with their errors in Å."""
    layout, views = found.start.layout, found.particles.views
    names = [
        f"{index + 1:06d}@{views.image_path[path].name}"
        for index, path in zip(views.image_index.tolist(), views.path_id.tolist())
    ]
    particles = {
        "rlnImageName": np.array(names, dtype=object),
        "parhelionUsed": found.used.astype(np.int64),
        "parhelionLogLikelihoodGain": found.gain,
        "parhelionAmplitude": 1 + found.changes.particle[:, 0],
    }
    tables = {"particles": particles}
    if layout.micrograph:
        first = np.unique(found.start.micrograph, return_index=True)[1]
        name = found.particles.extra["rlnMicrographName"][first]
        sizes = np.bincount(found.start.micrograph[found.used], minlength=len(first))
        tables["micrographs"] = {"rlnMicrographName": name, "parhelionParticles": sizes}
    for level, columns in (("particles", layout.particle[1:]), ("micrographs", layout.micrograph)):
        for column in columns:
            change, error = found.level(column.name)
            label = column.name.replace("_", " ").title().replace(" ", "")
            tables[level] |= {f"parhelion{label}Change": change, f"parhelion{label}Error": error}
    return {name: Table(columns) for name, columns in tables.items()}


def show(context: "Context", found: CtfRefineResult) -> None:
    """Tables and plots of the report."""
    report = context.report
    pixel = found.particles.optics[0].pixel_size_angstrom
    box = found.references.volumes[0].box
    gain = found.gain[found.used]
    report.text(
        f"Detail from {box * pixel / found.references.lowest_shell:.3g} to "
        f"{found.resolution_used_angstrom:.3g} Å was used. The log-likelihood grew by {gain.mean():.4g} per "
        f"particle, {gain.sum():.4g} in all, and for {100 * (gain > 0).mean():.0f} % of the particles."
    )
    report.fsc(
        {"before": found.before.correlation(), "after": found.after.correlation()},
        box,
        pixel,
        "Correlation of images and reference",
    )
    if found.references.fsc is not None:
        report.fsc({"half maps, in the mask": found.references.fsc}, box, pixel, "The reference")
    _show_defocus(context, found)
    groups = found.particles.optics
    if len(found.pictures) < len(groups):
        report.text(
            f"The {len(found.pictures)} largest of {len(groups)} optics groups are shown; parameters.star "
            "has all."
        )
    for number in found.pictures:
        _show_group(context, found, number, groups[number])
    report.history(context.history.get("steps", []), "Steps")


def _show_defocus(context: "Context", found: CtfRefineResult) -> None:
    section = context.report.section("Defocus and astigmatism")
    layout = found.start.layout
    rows = []
    for column in (*layout.particle[1:], *layout.micrograph):
        change, error = _seen(found, column.name)
        rows.append(
            (
                column.name.replace("_", " "),
                len(change),
                float(change.mean()),
                float(change.std()),
                float(np.median(error)),
                int((np.abs(change) > 2 * error).sum()),
                column.prior,
            )
        )
        x, y = _histogram(change)
        section.curve(
            {column.name: (x, y)},
            x_label="change (Å)",
            y_label="particles" if column in layout.particle else "micrographs",
            title=f"Changes of {column.name.replace('_', ' ')}",
        )
    heads = ("", "number", "mean (Å)", "spread (Å)", "standard error (Å)", "beyond 2 errors", "prior (Å)")
    section.table(rows, heads)


def _histogram(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Outline of a histogram."""
    reach = max(float(np.abs(values).max(initial=0.0)), 1e-6)
    counts, edges = np.histogram(values, bins=BINS, range=(-reach, reach))
    return np.repeat(edges, 2)[1:-1], np.repeat(counts, 2)


def _show_group(context: "Context", found: CtfRefineResult, number: int, group: OpticsGroup) -> None:
    count = int((found.used & (found.start.group == number)).sum())
    section = context.report.section(f"Optics group {group.name}", f"{count} particles")
    prior = {
        column.block: found.start.prior[number, at] for at, column in enumerate(found.start.layout.columns)
    }
    rows = []
    for block in (b for b in found.blocks if b.group == number):
        values = value_of(group, block.block) or tuple(block.change if block.kept else 0 * block.change)
        for axis, value, change, error in zip(AXES[block.block], values, block.change, block.error):
            name = f"{block.block.replace('_', ' ')} {axis}".strip()
            verdict = "changed" if block.kept else f"left: {block.why}"
            rows.append(
                (
                    f"{name} ({UNITS[block.block]})" if UNITS[block.block] != "1" else name,
                    float(value),
                    float(change),
                    float(error),
                    float(prior[block.block]),
                    f"{block.p_value:.2g}",
                    verdict,
                )
            )
    if not rows:
        section.text("No parameter of the optics group was refined.")
    heads = ("parameter", "value", "change found", "standard error", "prior", "p", "")
    section.table(rows, heads)
    section.text(
        f"A change counts as significant where chance would do as much with p < {SIGNIFICANCE:g}. The "
        "pictures show phases over the plane of frequencies, zero in the middle: what the images differ by "
        "from the input's optics (observed, smoothed) and the fit."
    )
    picture = found.pictures[number]
    for title, pair in (("Antisymmetric phase", picture.odd), ("Symmetric phase", picture.even)):
        section.gallery(list(pair), ["observed", "fitted"], title, shared=True)
