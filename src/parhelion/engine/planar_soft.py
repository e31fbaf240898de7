"""The whole posterior over class, in-plane angle and shift, and its sums, as matrix products.

    log p(c, ψ, t | X) = 2 Σ Re[conj(X) S(t) C P] - Σ C² |P|² + log prior(t) + const

with whitened X and C (``docs/architecture.md``). Angles ψ and ψ + 180° share the products of the real and of
the imaginary parts (``engine.search``), in the sums as in the scores. Everything is float32.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from parhelion.engine.points import FourierPoints

BLOCK = 3_000_000
"""Scores held at once."""
IMPOSSIBLE = -1e30
"""Log prior of what cannot be: finite, so that its product with a weight of 0 is 0."""


@dataclass(frozen=True, kw_only=True)
class PlanarImages:
    """``n`` whitened images on ``k`` points, moved to where their particles are thought to be.

    ``moved`` ``(n, k)`` complex64 is X C conj(S(centre)), ``ctf2`` ``(n, k)`` is C²; ``power`` ``(k,)``
    float64 the sum of |X|² over images, ``energy`` ``(n,)`` over points.
    """

    moved: Tensor
    ctf2: Tensor
    power: Tensor
    energy: Tensor

    @staticmethod
    def of(data: Tensor, ctf: Tensor, ramps: Tensor | None = None) -> "PlanarImages":
        """From whitened data and CTF ``(n, k)``; ``ramps`` S of the centres, None where they are 0."""
        moved = data * ctf
        squared = data.abs().square()
        return PlanarImages(
            moved=moved if ramps is None else moved * ramps.conj(),
            ctf2=ctf.square(),
            power=squared.double().sum(0),
            energy=squared.sum(1),
        )

    def __len__(self) -> int:
        return len(self.moved)


@dataclass(frozen=True, kw_only=True)
class PlanarBank:
    """References of ``c`` classes at half a circle of ``a`` angles: ``(c a, k)`` parts and power |P|²."""

    real: Tensor
    imaginary: Tensor
    power: Tensor
    classes: int

    @property
    def angles(self) -> int:
        """Angles of half a circle."""
        return len(self.real) // self.classes

    @staticmethod
    def of(slices: Tensor, precision: torch.dtype = torch.float32) -> "PlanarBank":
        """From turned references ``(c, a, k)`` complex64; the parts in ``precision``."""
        flat = slices.flatten(0, 1)
        return PlanarBank(
            real=flat.real.to(precision).contiguous(),
            imaginary=flat.imag.to(precision).contiguous(),
            power=flat.abs().square(),
            classes=len(slices),
        )


@dataclass(frozen=True, kw_only=True)
class Assigned:
    """Per particle ``(n,)``: what its posterior says.

    ``evidence`` log Σ p against noise alone, ``category`` the most probable class and its ``probability``,
    ``angle`` (of the whole circle) and ``shift`` rows of the most probable pose in that class, and the peak
    about it: ``turn`` in angular steps and ``move`` ``(n, 2)`` in the units of the shifts, both relative to
    the pose. Means over the posterior: ``fit`` of the log-likelihood ratio 2 Re[conj(X) S C P] - C² |P|², and
    ``norm`` of its last term.
    """

    evidence: Tensor
    category: Tensor
    probability: Tensor
    angle: Tensor
    shift: Tensor
    turn: Tensor
    move: Tensor
    fit: Tensor
    norm: Tensor


@dataclass(frozen=True, kw_only=True)
class FoldedSums:
    """Of one half set, per class and angle of half a circle: numerator and denominator ``(c, a, k)``.

    ``residual`` ``(k,)`` is Σ w (C²|P|² - 2 Re[conj(X) S C P]); ``size`` ``(c,)`` the sums of posteriors.
    """

    numerator: Tensor
    denominator: Tensor
    residual: Tensor
    size: Tensor

    def plus(self, other: "FoldedSums") -> "FoldedSums":
        """The sums over both sets of particles."""
        return FoldedSums(
            numerator=self.numerator + other.numerator,
            denominator=self.denominator + other.denominator,
            residual=self.residual + other.residual,
            size=self.size + other.size,
        )


def soft_step(
    images: PlanarImages,
    bank: PlanarBank,
    ramps: Tensor,
    shifts: Tensor,
    log_prior: Tensor,
    smoothing: float,
) -> tuple[Assigned, FoldedSums]:
    """Posteriors of ``images`` over all classes, angles and shifts, and their sums.

    ``ramps`` ``(t, k)`` are S(t) of ``shifts`` ``(t, 2)`` about the images' centres, ``log_prior`` ``(n, t)``
    their prior. All classes are equally probable beforehand: with their shares as priors, large classes eat
    small ones. ``smoothing`` below 1 makes the classes' evidences count less.
    """
    rows = len(ramps) * bank.classes * 2 * bank.angles
    block = max(1, BLOCK // rows)
    poses = bank.classes * bank.angles
    real = torch.zeros((poses, images.moved.shape[1]), device=images.moved.device)
    imaginary, share = torch.zeros_like(real), torch.zeros((len(images), poses), device=real.device)
    found = []
    norm = images.ctf2 @ bank.power.T
    for first in range(0, len(images), block):
        part = slice(first, first + block)
        moved = (images.moved[part].unsqueeze(1) * ramps.conj()).flatten(0, 1)
        score = _scores(moved, bank, norm[part], log_prior[part])
        assigned, weight = _posterior(score, shifts, smoothing, log_prior[part])
        near, far = (w.reshape(-1, poses) for w in weight.unbind(1))
        real += (near + far).T @ moved.real.contiguous()
        imaginary += (near - far).T @ moved.imag.contiguous()
        share[part] = weight.sum((1, 2)).view(-1, poses)
        found.append(replace(assigned, norm=(share[part] * norm[part]).sum(1)))
    denominator = share.T @ images.ctf2
    residual = bank.power * denominator - 2 * (bank.real * real + bank.imaginary * imaginary)
    shape = (bank.classes, bank.angles, -1)
    sums = FoldedSums(
        numerator=torch.complex(real, imaginary).view(shape),
        denominator=denominator.view(shape),
        residual=residual.double().sum(0),
        size=share.double().sum(0).view(bank.classes, -1).sum(1),
    )
    return joined(found), sums


def _scores(moved: Tensor, bank: PlanarBank, norm: Tensor, log_prior: Tensor) -> Tensor:
    """Log posteriors ``(n, 2, t, c, a)`` up to a constant; the second index is the half circle."""
    n, t = log_prior.shape
    even = moved.real.contiguous() @ bank.real.T
    odd = moved.imag.contiguous() @ bank.imaginary.T
    score = torch.stack(((even + odd).view(n, t, -1), (even - odd).view(n, t, -1)), 1)
    score.mul_(2).sub_(norm[:, None, None]).add_(log_prior[:, None, :, None])
    return score.view(n, 2, t, bank.classes, bank.angles)


def _posterior(score: Tensor, shifts: Tensor, smoothing: float, log_prior: Tensor) -> tuple[Assigned, Tensor]:
    """What the posteriors say but for ``norm``, and their weights in the layout of ``score``.

    ``score`` is overwritten.
    """
    n, _, t, _, angles = score.shape
    evidence = torch.logsumexp(score.flatten(1), 1)
    if smoothing < 1:
        tempered = (smoothing - 1) * torch.logsumexp(score.transpose(1, 3).flatten(2), 2)  # (n, c)
        score += tempered[:, None, None, :, None]
        top = torch.logsumexp(score.flatten(1), 1)
    else:
        tempered, top = evidence.new_zeros(()), evidence
    score.sub_(top[:, None, None, None, None])
    weight = score.exp()
    by_class = weight.sum((1, 2, 4))
    probability, category = by_class.max(1)
    fit = torch.linalg.vecdot(weight.flatten(1), score.flatten(1)) + top - (by_class * tempered).sum(1)
    fit -= (weight.sum((1, 3, 4)) * log_prior).sum(1)
    mine = score[torch.arange(n, device=weight.device), :, :, category]  # (n, 2, t, a)
    mine = mine.transpose(1, 2).reshape(n, t, 2 * angles)  # half circles in a row are the circle
    best = mine.flatten(1).argmax(1)
    shift, angle = best // (2 * angles), best % (2 * angles)
    turn, move = peak_about(mine, angle, shift, shifts)
    return (
        Assigned(
            evidence=evidence,
            category=category,
            probability=probability,
            angle=angle,
            shift=shift,
            turn=turn,
            move=move,
            fit=fit,
            norm=torch.zeros_like(fit),
        ),
        weight,
    )


def peak_about(score: Tensor, angle: Tensor, shift: Tensor, shifts: Tensor) -> tuple[Tensor, Tensor]:
    """Where log posteriors ``(n, t, a)`` have their peak, relative to the best pose on the grid.

    By parabolas through the neighbours: ``turn`` ``(n,)`` in angular steps, angles being a circle, and
    ``move`` ``(n, 2)`` in the units of ``shifts`` ``(t, 2)``, a part of a square grid. Along a direction in
    which a neighbour is missing the peak stays on the grid.
    """
    n, _, a = score.shape
    row = torch.arange(n, device=score.device)
    before, after = (score[row, shift, (angle + by) % a] for by in (-1, 1))
    top = score[row, shift, angle]
    turn = _vertex(before, top, after)
    spacing = _spacing(shifts)
    move = torch.zeros((n, 2), device=score.device, dtype=score.dtype)
    for axis in range(2):
        sides = []
        for by in (-spacing, spacing):
            wanted = shifts[shift].clone()
            wanted[:, axis] += by
            distance = (shifts[None] - wanted[:, None]).norm(dim=2)
            nearest, at = distance.min(1)
            there = score[row, at, angle]
            sides.append(torch.where(nearest < 0.1 * spacing, there, -torch.inf))
        move[:, axis] = spacing * _vertex(sides[0], top, sides[1])
    return turn, move


def _vertex(before: Tensor, top: Tensor, after: Tensor) -> Tensor:
    """Place of a parabola's vertex, in steps from ``top``; 0 where a neighbour is -inf or IMPOSSIBLE."""
    known = torch.minimum(before, after) > 0.1 * IMPOSSIBLE
    curvature = before + after - 2 * top
    offset = 0.5 * (before - after) / curvature.clamp_max(-1e-6)
    return torch.where(known, offset, 0.0).clamp(-0.5, 0.5)


def _spacing(shifts: Tensor) -> float:
    """Step of a square grid of shifts ``(t, 2)``; 1 for a single one."""
    lengths = shifts.sub(shifts[0]).norm(dim=1)
    lengths = lengths[lengths > 0]
    return float(lengths.min()) if len(lengths) else 1.0


def shift_ramps(points: FourierPoints, shifts: Tensor, count: int) -> Tensor:
    """S(t) of ``shifts`` ``(t, 2)`` in units of the extent: ``(t, count)`` complex64."""
    kx, ky = points.kx[:count].to(shifts.device), points.ky[:count].to(shifts.device)
    angle = 2 * torch.pi * (shifts[:, :1].float() * kx + shifts[:, 1:2].float() * ky)
    return torch.polar(torch.ones_like(angle), angle)


def joined(parts: list[Assigned]) -> Assigned:
    """One after the other."""
    names = Assigned.__dataclass_fields__
    return Assigned(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})
