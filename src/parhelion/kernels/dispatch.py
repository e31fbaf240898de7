"""One signature per kernel: CPU tensors go to Numba, others to the portable torch version."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from parhelion.contracts import Executor, SerialExecutor
from parhelion.kernels import cpu, cpu_curved, cpu_refine, portable


def extract(volume: Tensor, rotations: Tensor, kx: Tensor, ky: Tensor, padding: float) -> Tensor:
    """Central slices ``(m, k)`` complex64 of a Fourier volume. See reference.extract."""
    if volume.device.type != "cpu":
        return portable.extract(volume, rotations, kx, ky, padding)
    out = torch.empty((len(rotations), len(kx)), dtype=torch.complex64)
    cpu.extract(volume.numpy(), rotations.numpy(), kx.numpy(), ky.numpy(), float(padding), out.numpy())
    return out


def insert(
    numerator: Tensor,
    denominator: Tensor,
    kx: Tensor,
    ky: Tensor,
    padding: float,
    slices: Sequence[tuple[Tensor, Tensor, Tensor]],
    executor: Executor | None = None,
) -> None:
    """Adds ``slices`` — (rotations ``(m, 3, 3)``, values ``(m, k)``, weights ``(m, k)``) — in place.

    On the CPU each worker owns a range of z planes, so the sums do not depend on the number of workers.
    """
    if numerator.device.type != "cpu":
        for rotations, values, weights in slices:
            k = values.shape[1]
            portable.insert(numerator, denominator, rotations, kx[:k], ky[:k], padding, values, weights)
        return
    executor = executor or SerialExecutor()
    num, den = numerator.numpy(), denominator.numpy()
    edges = _equal_shares(num.shape[0], executor.workers)

    def add(share: tuple[int, int]) -> None:
        for rotations, values, weights in slices:
            k = values.shape[1]
            cpu.insert(
                num, den, rotations.numpy(), kx[:k].numpy(), ky[:k].numpy(), float(padding),
                values.numpy(), weights.numpy(), *share,
            )  # fmt: skip

    for _ in executor.map(add, pairwise(edges)):
        pass


def insert_curved(
    numerator: Tensor,
    denominator: Tensor,
    kx: Tensor,
    ky: Tensor,
    padding: float,
    slices: Sequence[tuple[Tensor, Tensor, Tensor, Tensor]],
    executor: Executor | None = None,
) -> None:
    """As insert, for points that are ``kz`` ``(m, k)`` above the central section: ``slices`` are rotations,
    kz, values and weights."""
    if numerator.device.type != "cpu":
        for rotations, kz, values, weights in slices:
            k = values.shape[1]
            portable.insert_curved(
                numerator, denominator, rotations, kx[:k], ky[:k], kz, padding, values, weights
            )
        return
    executor = executor or SerialExecutor()
    num, den = numerator.numpy(), denominator.numpy()
    edges = _equal_shares(num.shape[0], executor.workers)

    def add(share: tuple[int, int]) -> None:
        for rotations, kz, values, weights in slices:
            k = values.shape[1]
            cpu_curved.insert_curved(
                num, den, rotations.numpy(), kx[:k].numpy(), ky[:k].numpy(), kz.numpy(), float(padding),
                values.numpy(), weights.numpy(), *share,
            )  # fmt: skip

    for _ in executor.map(add, pairwise(edges)):
        pass


def _equal_shares(planes: int, workers: int) -> list[int]:
    """Borders of z ranges that hold about equally many points: slices through the centre fill a ball.

    A ball's planes at height z carry points in proportion to a uniform density in z (Archimedes) per
    shell, weighted towards the centre as many shells contribute there; equal quantiles of a triangle.
    """
    q = np.linspace(0, 1, workers + 1)
    centred = np.where(q < 0.5, np.sqrt(2 * q) - 1, 1 - np.sqrt(2 * (1 - q)))
    return [round(float((c + 1) / 2 * planes)) for c in centred]


def best_shift(cross: Tensor, base: Tensor, norm: Tensor) -> tuple[Tensor, Tensor]:
    """Maximum over shifts of ``2 (cross + base) - norm`` per orientation. See reference.best_shift."""
    if cross.device.type != "cpu":
        return portable.best_shift(cross, base, norm)
    best = torch.empty(norm.shape, dtype=torch.float32)
    which = torch.empty(norm.shape, dtype=torch.int32)
    arrays = (base.numpy(), norm.numpy(), best.numpy(), which.numpy())
    if cross.dtype == torch.bfloat16:
        cpu.best_shift_bfloat16(cross.view(torch.int16).numpy().view(np.uint16), *arrays)
    else:
        cpu.best_shift(cross.numpy(), *arrays)
    return best, which


def refine_poses(
    volume: Tensor,
    rotations: Tensor,
    shifts: Tensor,
    particle: Tensor,
    data: Tensor,
    ctf: Tensor,
    valid: Tensor,
    tilts: Tensor,
    kx: Tensor,
    ky: Tensor,
    padding: float,
    free: Tensor,
    shift_precision: float,
    max_steps: int,
    max_angle: float,
    tolerance: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Minimises chi² over rotation and shift from each of ``m`` candidate poses (Levenberg-Marquardt).

    ``rotations`` ``(m, 3, 3)`` and ``shifts`` ``(m, 3)`` (in units of box · pixel size) start the
    candidates of batch rows ``particle`` ``(m,)``; ``data`` and ``ctf`` ``(n, v, k)`` are whitened.
    ``free`` ``(6,)`` says which of three rotations and three shifts move. Returns rotations, shifts,
    chi² ``(m,)`` and the normal matrices ``(m, 6, 6)``, all float64: the Laplace covariance is half
    the inverse of a normal matrix, because log p = -chi² here.
    """
    if volume.device.type != "cpu":
        return portable.refine_poses(
            volume, rotations, shifts, particle, data, ctf, valid, tilts, kx, ky, padding, free,
            shift_precision, max_steps, max_angle, tolerance,
        )  # fmt: skip
    rotations, shifts = rotations.clone().contiguous(), shifts.clone().contiguous()
    chi2 = torch.empty(len(rotations), dtype=torch.float64)
    hessians = torch.empty((len(rotations), 6, 6), dtype=torch.float64)
    cpu_refine.refine_poses(
        volume.numpy(), rotations.numpy(), shifts.numpy(), particle.numpy(), data.numpy(), ctf.numpy(),
        valid.numpy(), tilts.numpy(), kx.numpy(), ky.numpy(), float(padding), free.numpy(),
        float(shift_precision), int(max_steps), float(max_angle), float(tolerance), chi2.numpy(),
        hessians.numpy(),
    )  # fmt: skip
    return rotations, shifts, chi2, hessians


def average_over_operators(
    numerator: Tensor,
    denominator: Tensor,
    operators: Tensor,
    radius: float,
    executor: Executor | None = None,
) -> tuple[Tensor, Tensor]:
    """Mean over rotations ``(g, 3, 3)`` of Hermitian sums. See reference.average_over_operators."""
    if numerator.device.type != "cpu":
        return portable.average_over_operators(numerator, denominator, operators, radius)
    executor = executor or SerialExecutor()
    num, den = torch.zeros_like(numerator), torch.zeros_like(denominator)
    edges = _equal_shares(num.shape[0], executor.workers)

    def average(share: tuple[int, int]) -> None:
        cpu.average_over_operators(
            numerator.numpy(), denominator.numpy(), operators.numpy(), float(radius), *share,
            num.numpy(), den.numpy(),
        )  # fmt: skip

    for _ in executor.map(average, pairwise(edges)):
        pass
    return num, den
