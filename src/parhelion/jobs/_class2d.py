"""What ``class2d`` writes and shows."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from parhelion.algorithms.class2d.classify import Class2dResult
    from parhelion.algorithms.class2d.selection import Judgement
    from parhelion.model.particles import ParticleSet
    from parhelion.model.table import Table
    from parhelion.run.context import Context

SHOWN_CURVES = 8
DECIMALS = 4
SIDE_BY_SIDE = 6


def write_stack(path: "Path", images: np.ndarray, pixel_size_angstrom: float) -> None:
    """Images ``(c, box, box)`` as an MRC stack."""
    from parhelion.io.mrc import StackWriter

    with StackWriter(path, len(images), images.shape[1:], pixel_size_angstrom) as writer:
        writer.write(0, images.astype(np.float32))


def write(
    context: "Context",
    particles: "ParticleSet | None",
    found: "Class2dResult",
    judged: "Judgement",
    selects: bool,
) -> list[str]:
    """All files; the names of those that are tables of particles.

    Without ``particles`` there are none; unless it ``selects`` the good ones are not written apart.
    """
    from parhelion.io.particles import write_particles
    from parhelion.io.star import write_star

    write_stack(context.path("classes"), found.averages, found.pixel_size_angstrom)
    write_stack(context.path("start"), found.start, found.pixel_size_angstrom)
    write_star(context.path("table"), class_tables(found, judged))
    if particles is None:
        return []
    classified = classified_particles(particles, found, judged)
    write_particles(context.path("particles"), classified)
    if not selects:
        return ["particles"]
    chosen, good = np.flatnonzero(judged.chosen), judged.good
    if not len(chosen):
        context.path("selected").unlink(missing_ok=True)
        context.notice(
            f"no class reaches a score of {judged.threshold:g} (the best has "
            f"{judged.quality.score.max():.2f}); selected.star was not written: look at the gallery and "
            "choose with 'select --classes', or lower --select-score"
        )
        return ["particles"]
    write_particles(context.path("selected"), classified.take(chosen))
    context.notice(
        f"{int(good.sum())} of {len(good)} classes are good; {len(chosen)} of {len(found.rows)} particles "
        f"are in selected.star, all of these classes but {judged.unexplained} that noise explains as well "
        f"and {judged.disturbed} with a disturbed background"
    )
    return ["particles", "selected"]


def figures_of(found: "Class2dResult", judged: "Judgement") -> dict[str, int | float]:
    """The key figures."""
    members = judged.members
    return {
        "particles": len(found.rows),
        "classes": len(members),
        "occupied_classes": int((members > 0).sum()),
        "good_classes": int(judged.good.sum()),
        "selected_particles": int(judged.chosen.sum()),
        "unexplained_particles": judged.unexplained,
        "disturbed_particles": judged.disturbed,
        "best_resolution_angstrom": float(judged.quality.resolution_angstrom[members > 0].min()),
        "score_threshold": judged.threshold,
    }


def class_tables(found: "Class2dResult", judged: "Judgement") -> "dict[str, Table]":
    """Blocks of ``classes.star``: one row per class, and one per class and shell."""
    from parhelion.model.table import Table

    quality, members = judged.quality, judged.members
    count, shells = found.frc.shape
    names = np.array([f"{i + 1:06d}@classes.mrcs" for i in range(count)], dtype=object)
    shell = np.tile(np.arange(1, shells), count)
    probability = np.bincount(found.category, found.probability, count) / np.maximum(members, 1)
    return {
        "model_general": Table(
            {
                "rlnNrClasses": np.array([count]),
                "rlnPixelSize": np.array([found.pixel_size_angstrom]),
                "parhelionPercentUsed": np.array([round(found.percent_used, DECIMALS)]),
            }
        ),
        "model_classes": Table(
            {
                "rlnReferenceImage": names,
                "rlnClassNumber": np.arange(1, count + 1),
                "rlnClassDistribution": found.share.round(6),
                "rlnEstimatedResolution": quality.resolution_angstrom.round(DECIMALS),
                "rlnClassScore": quality.score.round(DECIMALS),
                "parhelionMembers": members,
                "parhelionDetail": quality.detail.round(DECIMALS),
                "parhelionCentring": quality.centring.round(DECIMALS),
                "parhelionExplained": quality.explained.round(DECIMALS),
                "parhelionCompactness": quality.compactness.round(DECIMALS),
                "parhelionMeanProbability": probability.round(DECIMALS),
                "parhelionSelected": judged.good.astype(np.int64),
            }
        ),
        "class_frc": Table(
            {
                "rlnClassNumber": np.repeat(np.arange(1, count + 1), shells - 1),
                "rlnSpectralIndex": shell,
                "rlnAngstromResolution": (found.extent_angstrom / shell).round(DECIMALS),
                "rlnFourierShellCorrelation": found.frc[:, 1:].ravel().round(DECIMALS),
            }
        ),
    }


def classified_particles(
    particles: "ParticleSet", found: "Class2dResult", judged: "Judgement"
) -> "ParticleSet":
    """The particles that took part, with class, in-plane pose and what is known about them."""
    from parhelion.geometry.rotations import from_relion

    taken = particles.take(found.rows)
    zero = np.zeros(len(found.rows))
    shift = np.concatenate([found.shift_angstrom, zero[:, None]], axis=1)
    posed = taken.with_poses(from_relion(zero, zero, found.psi_deg), shift)
    extra = posed.extra.with_columns(
        {
            "rlnMaxValueProbDistribution": found.probability.round(6),
            "rlnLogLikeliContribution": found.evidence.round(4),
            "rlnClassScore": judged.quality.score[found.category].round(DECIMALS),
            "cisTEMSigma": found.sigma.round(DECIMALS),
            "parhelionScale": found.scale.round(DECIMALS),
            "parhelionSelected": judged.chosen.astype(np.int64),
        }
    )
    return replace(posed, class_number=found.category + 1, extra=extra)


def show(
    context: "Context",
    found: "Class2dResult",
    judged: "Judgement",
    selects: bool,
) -> None:
    """Galleries of the classes, curves, cycles."""
    report, members, good = context.report, judged.members, judged.good
    labels = [
        f"{i + 1}: {n} particles, {r:.1f} Å, score {s:.2f}"
        for i, (n, r, s) in enumerate(zip(members, judged.quality.resolution_angstrom, judged.quality.score))
    ]
    parts = (("Good classes", good), ("Other classes", ~good)) if selects else (("Classes", good | ~good),)
    for title, which in parts:
        rows = np.flatnonzero(which)
        section = report.section(title, f"{int(members[rows].sum())} particles in {len(rows)} classes")
        if len(rows):
            section.gallery(found.averages[rows], [labels[i] for i in rows])
    report.text(
        "The score is the mean correlation of two half averages in rings from 30 to 10 Å, times the share of "
        "particles that are explained better than by noise, times factors that fall where the average lies "
        "off its centre and where the ring around the particle is not empty; the resolution is where signal "
        "falls to noise."
    )
    frequency = np.arange(1, found.frc.shape[1]) / found.extent_angstrom
    largest = range(min(SHOWN_CURVES, len(members)))
    report.curve(
        {f"class {i + 1}": (frequency, found.frc[i, 1:]) for i in largest},
        x_label="1/Å",
        y_label="correlation of half averages",
        title="Halves of the largest classes",
    )
    report.history(context.history.get("cycles", []), "Cycles")
    ends = report.section("Starting and final class averages", "each class below its start", folded=True)
    numbers = [str(i + 1) for i in range(len(found.start))]
    for first in range(0, len(numbers), SIDE_BY_SIDE):
        part = slice(first, first + SIDE_BY_SIDE)
        ends.gallery(found.start[part], [f"start of {n}" for n in numbers[part]])
        ends.gallery(found.averages[part], [f"class {n}" for n in numbers[part]])
