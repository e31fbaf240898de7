"""One cycle's maximisation: averages from sums, their signal by half averages, empty classes refilled."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from parhelion.algorithms.class2d.problem import Averaging
from parhelion.engine.loader import transform
from parhelion.engine.planar import PlanarSums, planar_solve, ring_means
from parhelion.images.masks import soft_dilation

HALF_PRIOR = 0.1
"""Prior of half averages, of their shell's mean denominator: they are compared, not looked at."""
SIGNAL_FACTOR = 2.0
"""Of the signal's power, since averages of particles whose angles are still wrong show less of it. On real
particles averages agreed better with projections of the molecule (mean ring correlation of the best 1,000:
0.501 and 0.500 against 0.495 and 0.475 in two runs; of 800 particles alone 0.32 against 0.30)."""
SHARED_POINTS = 30.0
"""How many Fourier points' worth the spectrum that all classes share counts in that of one class."""
SMOOTH_MASK_ANGSTROM, MASK_LEVEL = 10.0, 0.25
MASK_EXTEND_ANGSTROM, MASK_EDGE_ANGSTROM = 8.0, 14.0
DEAD = 0.1
"""Classes smaller than this share of a mean class are refilled."""


@dataclass(frozen=True, kw_only=True)
class Maximised:
    """``averages`` and ``halves`` (first, second) ``(c, box, box)`` filtered and masked, ``frc`` ``(c, s)``
    between the half averages, ``raw`` ``(c, box, box)`` not masked.
    """

    averages: Tensor
    halves: tuple[Tensor, Tensor]
    frc: np.ndarray
    raw: Tensor


def maximise(problem: Averaging, sums: PlanarSums, size: np.ndarray, limit_angstrom: float) -> Maximised:
    """New averages of ``sums`` at a resolution limit; the class sizes weigh the shared spectrum."""
    numerator, denominator = (part.cpu() for part in sums.completed())
    c, box, shells = problem.classes, problem.box, problem.points.max_shell
    high = min(problem.extent / limit_angstrom, shells)
    band = (problem.extent / problem.settings.low_resolution_angstrom, high)

    def solved(first: Tensor, second: Tensor, inverse: Tensor) -> Tensor:
        return planar_solve(first, second, inverse, band, box, shells, problem.padding)

    mean = ring_means(denominator, shells, problem.padding)
    halves = solved(numerator, denominator, HALF_PRIOR * mean) * problem.mask
    inside = float(problem.mask.square().mean())
    noise = inside / ((1 + HALF_PRIOR) ** 2 * mean).clamp_min(1e-9)
    cross, frc = half_agreement(problem, halves, noise, size)
    inverse = inside / (SIGNAL_FACTOR * cross).clamp_min(1e-9)
    raw = solved(numerator[:c] + numerator[c:], denominator[:c] + denominator[c:], inverse)
    both = solved(numerator, denominator, inverse.repeat(2, 1)) * problem.mask
    averages = raw * problem.mask
    if problem.settings.automatic_mask:
        averages = averages * follow(averages, problem)
    return Maximised(averages=averages, halves=(both[:c], both[c:]), frc=frc, raw=raw)


def half_agreement(
    problem: Averaging, halves: Tensor, noise: Tensor, size: np.ndarray
) -> tuple[Tensor, np.ndarray]:
    """The signal's power per shell ``(c, s)`` and the correlation of half averages ``(c, s)``.

    Noise of two halves is independent, so their cross power is the signal's. A class with few points on a
    shell leans on the mean spectrum of all classes (weighted by ``size``). ``noise`` ``(2 c, s)`` is the
    power that the noise of as many images has when they are averaged: where posteriors know no angle, the
    average of noise is blurred to nothing, and what is left of it must not count as agreement.
    """
    c, points = len(halves) // 2, problem.points
    data = transform(halves, points)
    first, second = data[:c], data[c:]
    cross = points.shell_mean((first * second.conj()).real)
    power = torch.sqrt(points.shell_mean(first.abs().square()) * points.shell_mean(second.abs().square()))
    power = torch.maximum(power, torch.sqrt(noise[:c] * noise[c:]))
    cross, power = _smooth(cross), _smooth(power)
    frc = torch.where(power > 0, cross / power.clamp_min(1e-30), 0.0).numpy()
    weight = torch.from_numpy(size / size.sum())[:, None]
    shared = (weight * cross).sum(0).clamp_min(0)
    count = torch.bincount(points.shell, minlength=points.max_shell + 1).double()
    return ((count * cross + SHARED_POINTS * shared) / (count + SHARED_POINTS)).clamp_min(0), frc


def _smooth(curves: Tensor) -> Tensor:
    """Curves ``(c, s)`` from shell 1 on, averaged over neighbouring shells with weights 1:2:1."""
    inner = curves[:, 1:]
    padded = torch.cat((inner[:, :1], inner, inner[:, -1:]), 1)
    mean = 0.25 * padded[:, :-2] + 0.5 * padded[:, 1:-1] + 0.25 * padded[:, 2:]
    return torch.cat((curves[:, :1], mean), 1)


def follow(averages: Tensor, problem: Averaging) -> Tensor:
    """Soft masks ``(c, box, box)`` around what is bright in each average; all ones where nothing is."""
    pixel = problem.pixel_size_angstrom
    masks = torch.ones_like(averages)
    for number, image in enumerate(averages.numpy()):
        smooth = ndimage.gaussian_filter(image, SMOOTH_MASK_ANGSTROM / pixel)
        body = smooth > MASK_LEVEL * smooth.max()
        if smooth.max() > 0 and body.any():
            masks[number] = torch.from_numpy(
                soft_dilation(body, pixel, MASK_EXTEND_ANGSTROM, MASK_EDGE_ANGSTROM)
            )
    return masks


def centres_of(averages: Tensor) -> np.ndarray:
    """Centre of mass of the positive density, ``(c, 2)`` x and y in pixels from the box's centre."""
    box = averages.shape[-1]
    density = averages.double().clamp_min(0).numpy()
    density = np.where(density > 0.2 * density.max(axis=(1, 2), keepdims=True), density, 0)
    axis = np.arange(box) - box // 2
    total = density.sum(axis=(1, 2))
    safe = np.maximum(total, 1e-30)
    centre = np.stack([density.sum(axis=1) @ axis, density.sum(axis=2) @ axis], axis=1) / safe[:, None]
    return np.where(total[:, None] > 0, centre, 0.0)


def moved(images: Tensor, by_pixels: np.ndarray) -> Tensor:
    """Images ``(c, box, box)`` whose content went by minus ``by_pixels`` ``(c, 2)`` (x, y)."""
    box = images.shape[-1]
    full = torch.fft.rfft2(images)
    fy = torch.fft.fftfreq(box)[:, None]
    fx = torch.fft.rfftfreq(box)[None]
    by = torch.from_numpy(by_pixels).float()[:, :, None, None]
    phase = 2 * torch.pi * (by[:, 0] * fx + by[:, 1] * fy)
    return torch.fft.irfft2(full * torch.polar(torch.ones_like(phase), phase), s=(box, box))


def refilled(
    averages: Tensor, halves: tuple[Tensor, Tensor], size: np.ndarray
) -> tuple[Tensor, np.ndarray, list[tuple[int, int]]]:
    """Averages and sizes with each empty class given half of a large one, and the pairs (empty, large).

    The large class keeps the average of its first half set, the empty one gets that of the second: two
    references that differ by noise, from which the particles' differences can grow.
    """
    averages, size = averages.clone(), size.copy()
    pairs = []
    used: set[int] = set()
    for empty in np.flatnonzero(size < DEAD * size.mean()).tolist():
        order = [int(i) for i in np.argsort(-size) if int(i) not in used and int(i) != empty]
        if not order or size[order[0]] < 2 * size.mean() * DEAD:
            break
        donor = order[0]
        averages[empty], averages[donor] = halves[1][donor], halves[0][donor]
        size[empty] = size[donor] = size[donor] / 2
        used |= {donor, empty}
        pairs.append((empty, donor))
    return averages, size, pairs
