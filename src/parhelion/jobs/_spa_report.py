"""What the report of ``spa`` says beyond its steps: what was decided, and what the 2D classes gained."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from parhelion.algorithms.recentring import moved_images, whole_pixels
from parhelion.algorithms.refine3d import RefineSettings, refine3d
from parhelion.contracts import ParticleSource, SilentObserver
from parhelion.io.mrc import open_stack, read_volume
from parhelion.io.particles import read_particles
from parhelion.io.source import StackSource
from parhelion.io.star import read_star
from parhelion.jobs._particles import Contrast, contrast_of
from parhelion.run.memory import available_bytes

if TYPE_CHECKING:
    from parhelion.jobs._spa_classes import Classified
    from parhelion.jobs.spa import Decision, Params
    from parhelion.model.particles import ParticleSet
    from parhelion.registry import Result
    from parhelion.report.document import Report
    from parhelion.run.context import Context

SAMPLE, FEWEST = 300, 40
"""Kept and dropped particles that are compared, at most and at least of each."""
AS_GOOD = 10.0
"""Percentile of the kept particles' evidence from which on a dropped one fits as well."""


@dataclass(frozen=True)
class Centred:
    """Images of a source, moved by whole pixels ``(n, 2)``."""

    source: StackSource
    by_pixels: np.ndarray

    @property
    def box(self) -> int:
        """Edge of the images in pixels."""
        return self.source.box

    def images(self, views: np.ndarray) -> np.ndarray:
        """Images of these rows."""
        return moved_images(self.source.images(views), self.by_pixels[views])


@dataclass(frozen=True)
class Sample:
    """What one round of refinement found of some particles: evidence ``(n,)`` in nats, resolution in Å."""

    evidence: np.ndarray
    resolution_angstrom: float


def show_gain(
    context: "Context",
    classes: "Classified",
    contrast: Contrast,
    refined: "Result",
    symmetry: str,
) -> dict[str, Any]:
    """Kept and dropped classes, and as many particles of each against the map; the key figures.

    Both samples go through the same single round of search against the final map, in two half sets.
    """
    section = context.report.section("What the 2D classes gained")
    if classes.step is None or classes.kept is None:
        return {}
    _show_classes(section, classes.step)
    particles = read_particles(Path(str(classes.step.outputs["particles"])))
    inside = np.asarray(particles.extra["parhelionSelected"]).astype(bool)
    rows = [_sample(context, np.flatnonzero(which)) for which in (inside, ~inside)]
    count = min(map(len, rows))
    if count < FEWEST:
        section.text(f"Only {count} particles were dropped, too few to be compared with the kept ones.")
        return {}
    source = Centred(
        StackSource(particles, contrast_of(particles, contrast, context)), whole_pixels(particles)
    )
    kept, dropped = (_looked_at(context, particles, source, some[:count], refined, symmetry) for some in rows)
    return _show_samples(section, kept, dropped)


def _show_classes(section: "Report", step: "Result") -> None:
    """A gallery of the classes that were kept, and one of the others."""
    table = read_star(Path(str(step.outputs["table"])))["model_classes"]
    good = np.asarray(table["parhelionSelected"]).astype(bool)
    averages = np.asarray(open_stack(Path(str(step.outputs["classes"]))).read(np.arange(len(good))))
    members, score = (np.asarray(table[name]) for name in ("parhelionMembers", "rlnClassScore"))
    for name, which in (("kept", good), ("dropped", ~good)):
        rows = np.flatnonzero(which)
        section.gallery(
            averages[rows],
            [f"{name}: class {i + 1}, {members[i]} particles, score {score[i]:.2f}" for i in rows],
            f"{name.capitalize()} classes: {int(members[rows].sum())} particles",
        )


def _show_samples(section: "Report", kept: "Sample", dropped: "Sample") -> dict[str, Any]:
    """What one round against the map found of both samples, as a table and as key figures."""
    level = float(np.percentile(kept.evidence, AS_GOOD))
    heads = (
        "particles",
        "sample",
        "median evidence (nats)",
        "fit the map (%)",
        "half maps of the sample (Å)",
    )
    rows, fits = [], {}
    for name, one in (("kept", kept), ("dropped", dropped)):
        fits[name] = 100 * float((one.evidence >= level).mean())
        median = float(np.median(one.evidence))
        rows.append((name, len(one.evidence), median, fits[name], one.resolution_angstrom))
    section.table(rows, heads)
    section.text(
        "Equal numbers of kept and dropped particles went through the same single round against the final "
        f"map. A particle fits where its evidence exceeds that of the worst {AS_GOOD:g} % of the kept; what "
        "fits among the dropped was lost by the selection. Evidence is what the map explains of an image "
        "beyond noise."
    )
    return {
        "evidence_of_kept": float(np.median(kept.evidence)),
        "evidence_of_dropped": float(np.median(dropped.evidence)),
        "dropped_that_fit_percent": fits["dropped"],
    }


def _sample(context: "Context", rows: np.ndarray) -> np.ndarray:
    return np.random.default_rng((context.seed, len(rows))).permutation(rows)[:SAMPLE]


def _looked_at(
    context: "Context",
    particles: "ParticleSet",
    source: ParticleSource,
    rows: np.ndarray,
    refined: "Result",
    symmetry: str,
) -> Sample:
    """One round of refinement of these particles against the map of ``refined``."""
    rows = np.sort(rows)
    found = refine3d(
        particles.take(rows),
        _Rows(source, rows),
        read_volume(Path(str(refined.outputs["map"]))),
        RefineSettings(
            symmetry=symmetry,
            diameter_angstrom=float(str(refined.figures["diameter_angstrom"])),
            most_rounds=1,
            seed=context.seed,
        ),
        executor=context.executor,
        observer=SilentObserver(),
        cancel=context,
        device=context.device,
        available_bytes=available_bytes(),
    )
    return Sample(found.log_likelihood, found.resolution_angstrom)


@dataclass(frozen=True)
class _Rows:
    """Some rows of a source."""

    source: ParticleSource
    rows: np.ndarray

    @property
    def box(self) -> int:
        return self.source.box

    def images(self, views: np.ndarray) -> np.ndarray:
        return self.source.images(self.rows[views])


def decisions(
    params: "Params", first: "Result | None", refined: "Result", final: "Result"
) -> "list[Decision]":
    """What was assumed or found on the way to the map, and from where."""
    rows: list[Decision] = [
        ("Particles used", refined.figures["used_particles"], "those whose images are finite"),
        (
            "Diameter (Å)",
            refined.figures["diameter_angstrom"],
            "given" if params.diameter else "from the reference",
        ),
        ("Symmetry", params.symmetry.upper(), "given"),
    ]
    if first is not None:
        best = "the best evidence on particles it had not seen"
        rows += [
            ("Chosen start", first.figures["chosen_start"], best),
            ("Agreement with the most similar start", first.figures["agreement"], "mean FSC, 1 is the same"),
        ]
        if first.figures["symmetry_correlation"] is not None:
            rows.append(
                (
                    "Correlation with its symmetric average",
                    first.figures["symmetry_correlation"],
                    "of the map found without symmetry",
                )
            )
    rows += [
        ("Rounds of refinement", refined.figures["rounds"], "until nothing improved"),
        ("Resolution (Å)", final.figures["resolution_angstrom"], "half maps, FSC 0.143 inside the mask"),
        ("Mask (Å³)", final.figures["mask_volume_angstrom3"], "made automatically from the half maps"),
        ("B-factor (Å²)", final.figures["bfactor_angstrom2"], "given" if params.bfactor else "estimated"),
    ]
    return rows
