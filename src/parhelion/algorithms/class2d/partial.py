"""Sums of a part of the particles, kept in a file, and the classes that several such parts make together.

Sums are additive: a cycle over all particles equals cycles over parts of them, done anywhere, whose sums are
added. Half sets, noise, and the references' scale come from the whole table in every part, so that nothing
but rounding differs.
"""

import json
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from parhelion.algorithms.class2d.classify import Class2dResult, sorted_classes
from parhelion.algorithms.class2d.expectation import Expectation
from parhelion.algorithms.class2d.maximisation import maximise
from parhelion.algorithms.class2d.problem import Averaging, Class2dProblem, ClassState
from parhelion.algorithms.class2d.settings import Class2dSettings, Plan
from parhelion.algorithms.class2d.weights import new_scale, new_sigma
from parhelion.engine.archive import write_archive
from parhelion.engine.loader import soft_circle
from parhelion.engine.planar import PlanarSums
from parhelion.engine.points import FourierPoints
from parhelion.errors import FormatError, InputError

VERSION = 2
PER_PARTICLE = (
    "rows",
    "category",
    "psi_deg",
    "shift_angstrom",
    "probability",
    "evidence",
    "fit",
    "norm",
    "energy",
    "sigma",
    "scale",
)
"""Sigma and scale are those before the cycle."""
PER_CLASS = ("sums", "size", "start")
SAME = ("mark", "box", "pixel_size_angstrom", "max_shell", "classes", "particles", "limit_angstrom", "points")
"""What the parts of one classification have in common."""


@dataclass(frozen=True, kw_only=True)
class PartialSums:
    """``facts`` are numbers and settings; ``arrays`` those of PER_PARTICLE and PER_CLASS."""

    path: Path
    facts: dict[str, object]
    arrays: dict[str, np.ndarray]


def save(
    path: Path, problem: Class2dProblem, first: ClassState, found: Expectation, now: Plan, mark: str
) -> None:
    """Write one part's sums, made in the cycle after ``first``. Raises OutputError.

    ``mark`` identifies particles, references and settings.
    """
    facts = {
        "version": VERSION,
        "mark": mark,
        "box": problem.box,
        "pixel_size_angstrom": problem.pixel_size_angstrom,
        "max_shell": problem.points.max_shell,
        "classes": problem.classes,
        "particles": len(problem.half),
        "usable": len(problem.usable),
        "limit_angstrom": now.limit_angstrom,
        "percent": 100 * now.share,
        "points": found.points,
        "mask_energy": problem.loader.mask_energy,
        "mask_radius_angstrom": problem.loader.diameter_angstrom / 2,
        "settings": asdict(problem.settings),
    }
    arrays = {name: getattr(found, name) for name in PER_PARTICLE[:-2]}
    arrays |= {name: getattr(first, name)[found.rows] for name in PER_PARTICLE[-2:]}
    arrays |= {"sums": found.sums.sums.cpu().numpy(), "size": found.size, "start": first.averages}
    write_archive(path, facts, arrays, what="file of sums", name="facts")


def load(path: Path) -> PartialSums:
    """The sums of one part. Raises FormatError for anything else."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        facts = json.loads(arrays.pop("facts").tobytes())
        if facts["version"] != VERSION:
            raise ValueError(f"its version is {facts['version']}, {VERSION} is known")
        missing = [name for name in (*PER_PARTICLE, *PER_CLASS) if name not in arrays]
        missing += [name for name in (*SAME, "settings", "usable", "percent") if name not in facts]
        if missing:
            raise ValueError(f"it lacks {', '.join(missing)}")
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise FormatError(
            f"{path} holds no partial sums ({error}); expected a file of class2d --partial-sums"
        ) from error
    return PartialSums(path=path, facts=facts, arrays=arrays)


def merged(parts: Sequence[PartialSums]) -> Class2dResult:
    """The classes of all ``parts``. Raises InputError where they do not belong together."""
    check_parts(parts)
    facts = parts[0].facts
    frame = _frame(facts)
    total = PlanarSums(
        sums=torch.from_numpy(np.sum([part.arrays["sums"] for part in parts], axis=0)),
        box=frame.box,
        max_shell=frame.points.max_shell,
        padding=frame.padding,
    )
    size = np.sum([part.arrays["size"] for part in parts], axis=0)
    made = maximise(frame, total, size, float(str(facts["limit_angstrom"])))
    order = np.argsort(np.concatenate([part.arrays["rows"] for part in parts]))
    per = {n: np.concatenate([part.arrays[n] for part in parts])[order] for n in PER_PARTICLE}
    sigma, scale = per["sigma"], per["scale"]
    if frame.settings.own_sigma:
        points, mask_energy = float(str(facts["points"])), float(str(facts["mask_energy"]))
        sigma = new_sigma(sigma, per["energy"], per["fit"], points, mask_energy)
    if frame.settings.own_scale:
        scale = new_scale(scale, per["fit"], per["norm"])
    return sorted_classes(
        frame,
        averages=made.averages.numpy().astype(np.float32),
        start=parts[0].arrays["start"],
        frc=made.frc,
        share=size / size.sum(),
        percent=float(str(facts["percent"])),
        sigma=sigma,
        scale=scale,
        **{name: per[name] for name in PER_PARTICLE[:6]},
    )


def check_parts(parts: Sequence[PartialSums]) -> None:
    """InputError unless ``parts`` are different parts of one classification."""
    first = parts[0]
    for part in parts[1:]:
        for name in SAME:
            if part.facts[name] != first.facts[name]:
                what = "other particles, references or options" if name == "mark" else f"another {name}"
                raise InputError(
                    f"{part.path} was made with {what} than {first.path}; parts of one classification differ "
                    "in --first and --last only"
                )
    rows = np.concatenate([part.arrays["rows"] for part in parts])
    numbers, counts = np.unique(rows, return_counts=True)
    if (counts > 1).any():
        raise InputError(
            f"{int((counts > 1).sum())} particles, from number {int(numbers[counts > 1][0]) + 1} on, are in "
            "more than one of the files; give each part once, with ranges that do not overlap"
        )


def _frame(facts: dict[str, object]) -> Averaging:
    box, pixel = int(str(facts["box"])), float(str(facts["pixel_size_angstrom"]))
    return Averaging(
        settings=Class2dSettings(**facts["settings"]),  # type: ignore[arg-type]
        points=FourierPoints(box, int(str(facts["max_shell"]))),
        pixel_size_angstrom=pixel,
        classes=int(str(facts["classes"])),
        mask=soft_circle(box, float(str(facts["mask_radius_angstrom"])) / pixel),
    )


def settings_of(part: PartialSums) -> Class2dSettings:
    """What the classification was asked for."""
    return _frame(part.facts).settings


def count_of(part: PartialSums) -> int:
    """Particles in the table that all parts are of."""
    return int(str(part.facts["particles"]))


def left_out(parts: Sequence[PartialSums]) -> int:
    """How many particles that can be used are in none of the parts."""
    return int(str(parts[0].facts["usable"])) - sum(len(part.arrays["rows"]) for part in parts)
