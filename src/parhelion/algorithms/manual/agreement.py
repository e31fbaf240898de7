"""Whether references belong to the poses that particles come with, asked before anything is refined.

What images and a reference have in common at the poses is compared with what they have in common where each
image is given another one's orientation. Another molecule, and a map in another frame, gain nothing by the
right orientation, however well their outlines fit. The mirror image of the reference, and the reference at
other magnifications, are looked at as well.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from parhelion.algorithms.manual.models import ramps, slices_at
from parhelion.algorithms.manual.problem import ManualProblem, ManualState
from parhelion.engine.batch import ParticleBatch
from parhelion.engine.candidates import Candidates
from parhelion.engine.noise import on_points
from parhelion.engine.points import FourierPoints
from parhelion.engine.predict import FourierVolume, fourier_volume
from parhelion.engine.score import chunks
from parhelion.engine.search_view import without_low
from parhelion.errors import InputError

SAMPLE = 500
LEAST_AGREEMENT = 8.0
"""Standard errors, as before a refinement of the CTF."""
ENOUGH = 5 * LEAST_AGREEMENT
"""Where even the right reference would gain less than this, there is too little data to tell."""
REFUSED, DOUBTED = 0.15, 0.3
"""Of what is expected. Poses 6° off have 0.7 at 12 Å, another molecule of as few and large parts 0.1."""
MAGNIFICATIONS = (0.8, 0.9, 0.95, 1.05, 1.1, 1.25)
GIVEN, TURNED, MIRRORED = "given", "turned", "mirrored"


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How images and a reference agree, in standard errors, Σ cross / √(Σ norm / 2).

    ``given`` at the poses, ``turned`` at those of other particles, ``mirrored`` as the mirror image,
    ``magnified`` by how much; ``expected`` is what the right reference would have more at the poses than at
    others."""

    given: float
    turned: float
    mirrored: float
    magnified: dict[float, float]
    expected: float

    def better(self, other: float) -> bool:
        """Whether to look at the reference in another way, worth ``other``, explains the images better, and
        well."""
        well = other - self.turned >= DOUBTED * self.expected
        return well and other - self.given > LEAST_AGREEMENT


def check_references(problem: ManualProblem, state: ManualState, rng: np.random.Generator) -> None:
    """InputError where no reference belongs to the poses; a notice for one of several that does not, for one
    that fits badly, and for one that fits better at another pixel size."""
    complaints = [_complaint(agreement(problem, state, k, rng)) for k in range(problem.settings.classes)]
    told = [f"reference {k}: {text}" for k, (text, _) in enumerate(complaints, 1) if text]
    # scores at the given poses may be wanted of any reference
    if problem.settings.parameters and all(wrong for _, wrong in complaints):
        raise InputError("; ".join(told))
    for text in told:
        problem.observer.notice(text)


def _complaint(found: Agreement) -> tuple[str, bool]:
    """What there is to say about a reference, and whether nothing good can come of it."""
    if found.given < -LEAST_AGREEMENT:
        return (
            f"images and reference are of opposite contrast at the particles' poses ({found.given:.0f} "
            "standard errors): protein must be white in both; see --contrast"
        ), True
    if found.expected < ENOUGH:
        return "", False
    if found.better(found.mirrored):
        return (
            "the particles' poses fit its mirror image better (by "
            f"{found.mirrored - found.given:.0f} standard errors): give the map of their hand (parhelion "
            "flip-hand makes it), or search globally"
        ), True
    best = max(found.magnified, key=lambda m: found.magnified[m])
    if found.better(found.magnified[best]):
        return (
            f"images fit it better by {found.magnified[best] - found.given:.0f} standard errors as if its "
            f"pixel size were {best:g} times what its header says; check the headers, and --pixel-size"
        ), False
    gained = found.given - found.turned
    if gained < DOUBTED * found.expected:
        return (
            "the images hardly agree with it better at the particles' poses than at each other's "
            f"({gained:.0f} standard errors more, about {found.expected:.0f} are expected): it must show "
            "this molecule in the frame and of the hand of the refinement that made the poses; else search "
            "globally"
        ), gained < max(LEAST_AGREEMENT, REFUSED * found.expected)
    return "", False


def agreement(problem: ManualProblem, state: ManualState, number: int, rng: np.random.Generator) -> Agreement:
    """How the reference of class ``number`` agrees with a sample of the images at the class's poses."""
    loader = problem.loader
    posed = np.flatnonzero(state.posed)
    rows = np.sort(rng.permutation(posed)[:SAMPLE])
    points, count = loader.points, _count(problem)
    volume = fourier_volume(
        state.references[number][0].to(loader.device), points.max_shell, problem.settings.padding
    )
    noise = on_points(state.noise, points).to(loader.device)
    others = torch.from_numpy(np.roll(rows, 1 + int(rng.integers(max(len(rows) - 1, 1)))))
    sums: dict[str | float, Tensor] = {}
    for piece, other in zip(
        chunks(torch.from_numpy(rows), problem.chunk), chunks(others, problem.chunk), strict=True
    ):
        problem.cancel.check()
        white = loader.batch(piece.numpy(), count).whitened(noise)
        batch = without_low(white, points, problem.first_shell)
        poses = state.candidates(number, piece.numpy()).moved_to(batch.data.device)
        elsewhere = torch.from_numpy(state.rotation[number, other.numpy()]).to(poses.rotation)
        for name, found in _sums(batch, volume, poses, elsewhere, points).items():
            sums[name] = sums[name] + found if name in sums else found
    worth = {
        name: float(cross / (norm / 2).clamp_min(1e-20).sqrt()) for name, (cross, norm, _) in sums.items()
    }
    _, norm, shared = sums[TURNED]
    own = sums[GIVEN][1]
    return Agreement(
        given=worth[GIVEN],
        turned=worth[TURNED],
        mirrored=worth[MIRRORED],
        magnified={m: worth[m] for m in MAGNIFICATIONS},
        # what the reference itself, in the images' place, would show
        expected=float((2 * own).sqrt() - shared / (norm / 2).clamp_min(1e-20).sqrt()),
    )


def _count(problem: ManualProblem) -> int:
    """Points up to the limit, as far as the reference goes when it is magnified and its sign counts."""
    points = problem.loader.points
    return points.count(
        min(problem.refine_shell, problem.signed_shell, points.max_shell / max(MAGNIFICATIONS))
    )


def _sums(
    batch: ParticleBatch, volume: FourierVolume, poses: Candidates, other: Tensor, points: FourierPoints
) -> dict[str | float, Tensor]:
    """Of every way to look at the reference: Σ Re[X* M], Σ |M|², and Σ Re[M_given* M], float64 ``(3,)``."""
    k = batch.data.shape[-1]
    mirror = torch.diag(poses.rotation.new_tensor([1.0, 1.0, -1.0]))
    # a slice at frequencies m k is that of the map magnified by 1 / m
    ways: dict[str | float, Tensor] = {
        GIVEN: poses.rotation,
        TURNED: other,
        MIRRORED: poses.rotation @ mirror,
    }
    ways |= {m: m * poses.rotation for m in MAGNIFICATIONS}
    wave = batch.ctf[poses.particle] * ramps(poses.shift, batch.tilts, points, k)
    data, given = batch.data[poses.particle], None
    found: dict[str | float, Tensor] = {}
    for name, rotation in ways.items():
        model = wave * slices_at(volume, rotation, batch.tilts, points, k)
        given = model if given is None else given
        terms = (_real(data, model), _real(model, model), _real(given, model))
        found[name] = torch.stack(terms).cpu()
    return found


def _real(a: Tensor, b: Tensor) -> Tensor:
    return (a.real * b.real + a.imag * b.imag).sum(dtype=torch.float64)
