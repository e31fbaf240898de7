"""Coarse to fine: the best in-plane poses of a coarse search, and the posterior about them on a fine grid.

The search takes, for each class and angle of a coarse grid, the best shift at a resolution that the grid can
tell apart; bfloat16 is good enough to choose by. About the best of these, finer angles and shifts are scored
in float32 at full resolution, class by class: what belongs to one class shares its turned references, and all
share the fine shifts, so that scores and sums are products again.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from parhelion.engine.planar_soft import Assigned, FoldedSums, PlanarBank, PlanarImages, peak_about
from parhelion.kernels import dispatch

ENTRIES = 96
"""Candidates of a class scored at once: their products stay in the cache."""
LEAST_WEIGHT = 1e-3
"""Candidates with less of a particle's posterior are left out of the sums."""


@dataclass(frozen=True, kw_only=True)
class Hits:
    """The ``m`` best coarse poses of each particle ``(n, m)``: score, class, angle and shift rows.

    Angles are of the whole circle. A score of -inf marks a pose that is not worth a closer look.
    """

    score: Tensor
    category: Tensor
    angle: Tensor
    shift: Tensor


@dataclass(frozen=True, kw_only=True)
class FineGrid:
    """``within`` angles per coarse one, ``shifts`` ``(t, 2)`` about it and their ``ramps`` ``(t, k)``."""

    within: int
    step: float
    shifts: Tensor
    ramps: Tensor


def search(
    images: PlanarImages,
    bank: PlanarBank,
    ramps: Tensor,
    log_prior: Tensor,
    top: int,
    reach: float,
) -> Hits:
    """The ``top`` best classes and angles of each image, each at its best shift; see the module.

    ``reach`` is how far below the best score, in nats, a pose may be.
    """
    n, t = log_prior.shape
    count = ramps.shape[1]
    moved = (images.moved[:, None, :count] * ramps.conj()).flatten(0, 1)
    even = moved.real.to(bank.real.dtype) @ bank.real.T
    odd = moved.imag.to(bank.real.dtype) @ bank.imaginary.T
    norm = images.ctf2[:, :count] @ bank.power.T
    base = 0.5 * log_prior
    near, near_shift = dispatch.best_shift((even + odd).view(n, t, -1), base, norm)
    far, far_shift = dispatch.best_shift((even - odd).view(n, t, -1), base, norm)
    score = torch.cat((near, far), 1)
    values, column = score.topk(min(top, score.shape[1]), 1)
    shift = torch.cat((near_shift, far_shift), 1).gather(1, column).long()
    pose = column % near.shape[1]
    values = torch.where(values >= values[:, :1] - reach, values, -torch.inf)
    return Hits(
        score=values,
        category=pose // bank.angles,
        angle=pose % bank.angles + (column >= near.shape[1]) * bank.angles,
        shift=shift,
    )


def score_class(
    images: PlanarImages,
    hits: Hits,
    number: int,
    slices: Tensor,
    coarse_ramps: Tensor,
    fine: FineGrid,
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-likelihood ratios ``(e, b, t)`` of the candidates of class ``number``, the norms C² |P|² in them
    ``(e, b)``, and their places ``(e, 2)``.

    ``slices`` ``(a b, k)`` are the class's reference at half a circle of fine angles, ``coarse_ramps``
    ``(s, k)`` those of the coarse shifts.
    """
    place = _places(hits, number)
    bank = PlanarBank.of(slices[None])
    norm = images.ctf2 @ bank.power.T
    real, imaginary = fine.ramps.real.T.contiguous(), -fine.ramps.imag.T.contiguous()  # (k, t)
    scores = [images.ctf2.new_zeros((0, fine.within, len(fine.shifts)))]
    norms = [images.ctf2.new_zeros((0, fine.within))]
    for part in place.split(ENTRIES) if len(place) else ():
        row, hit = part.T
        x, y = _parts(images.moved[row] * coarse_ramps[hits.shift[row, hit]].conj())
        fold, sign = _fine_rows(hits.angle[row, hit], fine.within, len(slices))
        u, v = bank.real[fold], bank.imaginary[fold].mul_(sign)  # (e, b, k)
        # conj(X) P and its product with the ramps, real numbers throughout: a quarter of the time of complex
        cross = (x * u).addcmul_(y, v).flatten(0, 1) @ real
        cross.addmm_((x * v).addcmul_(y, u, value=-1).flatten(0, 1), imaginary)
        cross = cross.view(len(part), fine.within, -1)
        norms.append(norm[row[:, None], fold])
        scores.append(2 * cross - norms[-1].unsqueeze(2))
    return torch.cat(scores), torch.cat(norms), place


def posterior(
    ratio: Tensor,
    norm: Tensor,
    log_prior: Tensor,
    hits: Hits,
    smoothing: float,
    grid_angles: int,
    fine: FineGrid,
) -> tuple[Assigned, Tensor]:
    """Weights ``(n, m, b, t)`` of log-likelihood ratios in that layout, and what they say.

    ``norm`` ``(n, m, b)`` are the norms in the ratios, ``log_prior`` ``(n, m, t)`` belongs to the shifts.
    ``Assigned.angle`` counts fine angles of the whole circle, ``Assigned.shift`` is hit · t + fine shift.
    """
    score = ratio + log_prior[:, :, None]
    n, _, b, t = score.shape
    evidence = torch.logsumexp(score.flatten(1), 1)
    by_hit = torch.logsumexp(score.flatten(2), 2)
    same = hits.category[:, :, None] == hits.category[:, None]
    if smoothing < 1:
        by_class = torch.logsumexp(by_hit[:, None].masked_fill(~same, -torch.inf), 2)
        score = score + ((smoothing - 1) * by_class)[:, :, None, None].nan_to_num(0, neginf=0)
    weight = torch.softmax(score.flatten(1), 1).view(score.shape)
    mass = weight.sum((2, 3))
    probability, which = (mass[:, None] * same).sum(2).max(1)
    row = torch.arange(n, device=weight.device)
    category = hits.category[row, which]
    mine = torch.where((hits.category == category[:, None])[:, :, None, None], weight, -1.0)
    best = mine.flatten(1).argmax(1)
    hit, within, shift = best // (b * t), best // t % b, best % t
    angle = hits.angle[row, hit] * b + within
    turn, move = _peak_over_fine(score, hits, category, angle, hit, shift, grid_angles * b, fine)
    assigned = Assigned(
        evidence=evidence,
        category=category,
        probability=probability,
        angle=angle,
        shift=hit * t + shift,
        turn=turn,
        move=move,
        fit=(weight * torch.where(torch.isfinite(ratio), ratio, 0.0)).sum((1, 2, 3)),
        norm=(weight.sum(3) * norm).sum((1, 2)),
    )
    return assigned, weight


def _peak_over_fine(
    score: Tensor,
    hits: Hits,
    category: Tensor,
    angle: Tensor,
    hit: Tensor,
    shift: Tensor,
    circle: int,
    fine: FineGrid,
) -> tuple[Tensor, Tensor]:
    """``peak_about`` for fine angles, which lie in up to two of the candidates.

    Only candidates of the same coarse shift as the best one have the same fine shifts.
    """
    n, _, b, t = score.shape
    row = torch.arange(n, device=score.device)
    alike = (hits.category == category[:, None]) & (hits.shift == hits.shift[row, hit][:, None])
    offsets = torch.arange(b, device=score.device)
    places = (hits.angle * b)[:, :, None] + offsets  # (n, m, b)
    relative = (places - angle[:, None, None] + circle // 2) % circle - circle // 2 + 1
    keep = alike[:, :, None] & (relative >= 0) & (relative <= 2)
    local = torch.full((n, 3, t), -torch.inf, device=score.device)
    local.scatter_reduce_(
        1,
        relative.clamp(0, 2).flatten(1)[:, :, None].expand(-1, -1, t),
        torch.where(keep.unsqueeze(3), score, -torch.inf).flatten(1, 2),
        "amax",
    )
    return peak_about(local.transpose(1, 2), torch.ones_like(angle), shift, fine.shifts)


def add_class(
    images: PlanarImages,
    hits: Hits,
    weight: Tensor,
    number: int,
    slices: Tensor,
    coarse_ramps: Tensor,
    fine: FineGrid,
) -> FoldedSums:
    """Sums of class ``number`` over the candidates that matter, in the layout ``(1, a b, k)``."""
    k = slices.shape[1]
    device = slices.device
    sums = torch.zeros((len(slices), 2 * k), device=device)
    denominator = torch.zeros((len(slices), k), device=device)
    mass = weight.sum((2, 3))
    place = _places(hits, number)
    place = place[mass[place[:, 0], place[:, 1]] > LEAST_WEIGHT]
    phases = torch.cat((fine.ramps.real, -fine.ramps.imag), 1).contiguous()  # (t, 2k): conj(S)
    for part in place.split(ENTRIES) if len(place) else ():
        row, hit = part.T
        chosen = weight[row, hit]  # (e, b, t)
        x, y = _parts(images.moved[row] * coarse_ramps[hits.shift[row, hit]].conj())
        back = (chosen.flatten(0, 1) @ phases).view(len(part), fine.within, 2, k)
        u, v = back[:, :, 0], back[:, :, 1]
        fold, sign = _fine_rows(hits.angle[row, hit], fine.within, len(slices))
        rows = torch.empty((len(part), fine.within, 2 * k), device=device)
        torch.mul(x, u, out=rows[:, :, :k]).addcmul_(y, v, value=-1)
        torch.mul(x, v, out=rows[:, :, k:]).addcmul_(y, u).mul_(sign)
        sums.index_add_(0, fold.reshape(-1), rows.flatten(0, 1))
        share = chosen.sum(2)
        denominator.index_add_(
            0, fold.reshape(-1), (share.unsqueeze(2) * images.ctf2[row].unsqueeze(1)).flatten(0, 1)
        )
    numerator = torch.complex(sums[:, :k], sums[:, k:])
    residual = slices.abs().square() * denominator - 2 * (slices.conj() * numerator).real
    return FoldedSums(
        numerator=numerator[None],
        denominator=denominator[None],
        residual=residual.double().sum(0),
        size=mass[(hits.category == number)].double().sum().reshape(1),
    )


def _parts(values: Tensor) -> tuple[Tensor, Tensor]:
    """Real and imaginary parts ``(e, 1, k)`` of ``(e, k)``, each contiguous."""
    return values.real.contiguous().unsqueeze(1), values.imag.contiguous().unsqueeze(1)


def _places(hits: Hits, number: int) -> Tensor:
    """Rows and columns ``(e, 2)`` of the candidates of one class."""
    return torch.nonzero((hits.category == number) & torch.isfinite(hits.score))


def _fine_rows(angle: Tensor, within: int, half_circle: int) -> tuple[Tensor, Tensor]:
    """Rows ``(e, b)`` of fine angles in half a circle, and the sign ``(e, b, 1)`` of the imaginary part."""
    rows = angle[:, None] * within + torch.arange(within, device=angle.device)
    sign = torch.where(rows < half_circle, 1.0, -1.0).unsqueeze(2)
    return rows % half_circle, sign
