"""Torch versions of the kernels: any device, batched. On a GPU these run; on the CPU they are a check.

Same layout and meaning as ``kernels.cpu``; arguments are tensors on one device.
"""

import math

import torch
from torch import Tensor


def _corners(volume: Tensor, rotations: Tensor, kx: Tensor, ky: Tensor, padding: float) -> tuple[Tensor, ...]:
    """Indices of the lower corner ``(m, k)``, fractions, and the sign of points taken from their mate."""
    h = volume.shape[0] // 2
    plane = torch.stack((kx, ky)).to(torch.float32)
    xyz = (rotations[:, :2, :].to(torch.float32).transpose(1, 2) * padding) @ plane  # (m, 3, k)
    x, y, z = xyz.unbind(1)
    sign = torch.where(x < 0, -1.0, 1.0)
    x, y, z = x * sign, y * sign + h, z * sign + h
    ix, iy, iz = x.long(), y.long(), z.long()
    return ix, iy, iz, x - ix, y - iy, z - iz, sign


def _gather(volume: Tensor, ix: Tensor, iy: Tensor, iz: Tensor) -> tuple[Tensor, ...]:
    """The eight corner values, x fastest."""
    size_y, size_x = volume.shape[1], volume.shape[2]
    flat = volume.reshape(-1)
    at = (iz * size_y + iy) * size_x + ix
    plane = size_y * size_x
    steps = [c * plane + b * size_x + a for c in (0, 1) for b in (0, 1) for a in (0, 1)]
    return tuple(flat[at + step] for step in steps)


def _interpolate(
    volume: Tensor, rotations: Tensor, kx: Tensor, ky: Tensor, padding: float
) -> tuple[Tensor, ...]:
    """Value ``(m, k)`` and derivative along volume x, y, z (per volume voxel) of the trilinear slice."""
    ix, iy, iz, dx, dy, dz, sign = _corners(volume, rotations, kx, ky, padding)
    q000, q001, q010, q011, q100, q101, q110, q111 = _gather(volume, ix, iy, iz)
    c00, c01 = torch.lerp(q000, q001, dx + 0j), torch.lerp(q010, q011, dx + 0j)
    c10, c11 = torch.lerp(q100, q101, dx + 0j), torch.lerp(q110, q111, dx + 0j)
    c0, c1 = torch.lerp(c00, c01, dy + 0j), torch.lerp(c10, c11, dy + 0j)
    value = torch.lerp(c0, c1, dz + 0j)
    along_x = torch.lerp(
        torch.lerp(q001 - q000, q011 - q010, dy + 0j), torch.lerp(q101 - q100, q111 - q110, dy + 0j), dz + 0j
    )
    along_y = torch.lerp(c01 - c00, c11 - c10, dz + 0j)
    gradient = torch.stack((along_x, along_y, c1 - c0), 1)
    mate = (sign < 0).unsqueeze(1)
    # d conj f(-k) / dk = -conj f'(-k)
    gradient = torch.where(mate, -gradient.conj(), gradient)
    value = torch.where(sign < 0, value.conj(), value)
    return value, gradient


def extract(volume: Tensor, rotations: Tensor, kx: Tensor, ky: Tensor, padding: float) -> Tensor:
    """Central slices ``(m, k)`` complex64. See reference.extract."""
    return _interpolate(volume, rotations, kx, ky, padding)[0]


def insert(
    numerator: Tensor,
    denominator: Tensor,
    rotations: Tensor,
    kx: Tensor,
    ky: Tensor,
    padding: float,
    values: Tensor,
    weights: Tensor,
) -> None:
    """Adds slices in place; the adjoint of extract. See reference.insert."""
    ix, iy, iz, dx, dy, dz, sign = _corners(numerator, rotations, kx, ky, padding)
    size_y, size_x = numerator.shape[1], numerator.shape[2]
    values = torch.where(sign < 0, values.conj(), values)
    num, den = torch.view_as_real(numerator).view(-1, 2), denominator.view(-1)
    parts = torch.view_as_real(values.contiguous())
    for c in (0, 1):
        for b in (0, 1):
            for a in (0, 1):
                w = (dz if c else 1 - dz) * (dy if b else 1 - dy) * (dx if a else 1 - dx)
                at = (((iz + c) * size_y + iy + b) * size_x + ix + a).reshape(-1)
                num.index_add_(0, at, (parts * w.unsqueeze(-1)).reshape(-1, 2))
                den.index_add_(0, at, (weights * w).reshape(-1))


def insert_curved(
    numerator: Tensor,
    denominator: Tensor,
    rotations: Tensor,
    kx: Tensor,
    ky: Tensor,
    kz: Tensor,
    padding: float,
    values: Tensor,
    weights: Tensor,
) -> None:
    """As insert, for points ``kz`` ``(m, k)`` above the central section; those beyond the volume are left
    out."""
    turned = rotations.to(torch.float32).transpose(1, 2) * padding
    xyz = turned[:, :, :2] @ torch.stack((kx, ky)) + turned[:, :, 2:] * kz.unsqueeze(1)
    sign = torch.where(xyz[:, :1] < 0, -1.0, 1.0)
    x, y, z = (xyz * sign).unbind(1)
    h = numerator.shape[0] // 2
    values = torch.where(sign[:, 0] < 0, values.conj(), values)
    at = [(z + h), (y + h), x]
    low = [axis.floor().long() for axis in at]
    inside = torch.ones_like(low[0], dtype=torch.bool)
    for corner, size in zip(low, numerator.shape):
        inside &= (corner >= 0) & (corner <= size - 2)
    rest = [axis - corner for axis, corner in zip(at, low)]
    low = [torch.where(inside, corner, 0) for corner in low]
    size_y, size_x = numerator.shape[1], numerator.shape[2]
    num, den = torch.view_as_real(numerator).view(-1, 2), denominator.view(-1)
    parts = torch.view_as_real(values.contiguous())
    for c in (0, 1):
        for b in (0, 1):
            for a in (0, 1):
                share = inside.float()
                for fraction, upper in zip(rest, (c, b, a)):
                    share = share * (fraction if upper else 1 - fraction)
                row = (((low[0] + c) * size_y + low[1] + b) * size_x + low[2] + a).reshape(-1)
                num.index_add_(0, row, (parts * share.unsqueeze(-1)).reshape(-1, 2))
                den.index_add_(0, row, (weights * share).reshape(-1))


def best_shift(cross: Tensor, base: Tensor, norm: Tensor) -> tuple[Tensor, Tensor]:
    """Maximum over shifts of ``2 (cross + base) - norm``: values ``(n, o)`` and shift rows ``(n, o)``."""
    best, which = (cross.float() + base.unsqueeze(-1)).max(1)
    return 2 * best - norm, which


def rotation_vector_to_matrix(w: Tensor) -> Tensor:
    """exp([w]x) for rotation vectors ``(m, 3)`` in radians."""
    zero = torch.zeros_like(w[:, 0])
    x, y, z = w.unbind(-1)
    skew = torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), -1).view(-1, 3, 3)
    return torch.linalg.matrix_exp(skew)


def normal_equations(
    volume: Tensor,
    rotations: Tensor,
    shifts: Tensor,
    data: Tensor,
    ctf: Tensor,
    valid: Tensor,
    tilts: Tensor,
    kx: Tensor,
    ky: Tensor,
    padding: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """chi² ``(m,)``, gradient ``(m, 6)`` and normal matrix ``(m, 6, 6)`` in float64, per candidate pose.

    ``data`` ``(m, v, k)`` and ``ctf`` are whitened and belong to the candidates row by row.
    """
    m = rotations.shape[0]
    chi2 = rotations.new_zeros(m)
    gradient, hessian = rotations.new_zeros(m, 6), rotations.new_zeros(m, 6, 6)
    u, v = kx.float(), ky.float()
    for view in range(tilts.shape[0]):
        tilt = tilts[view]
        pose = tilt @ rotations
        slice_, slope = _interpolate(volume, pose, kx, ky, padding)
        along = pose.to(torch.complex64) @ slope * padding  # (m, 3, k), image axes
        shift = (shifts @ tilt.T).float()
        angle = 2 * math.pi * (shift[:, :1] * u + shift[:, 1:2] * v)
        wave = ctf[:, view] * torch.polar(torch.ones_like(angle), angle)
        model = wave * slice_
        gx, gy, gz = along.unbind(1)
        columns = (
            -wave * gz * v, wave * gz * u, wave * (gx * v - gy * u),
            2j * math.pi * u * model, 2j * math.pi * v * model,
        )  # fmt: skip
        residual = torch.where(valid[:, view, None], data[:, view] - model, 0)
        jac = torch.view_as_real(torch.stack(columns, 1)).flatten(2).double() * valid[:, view, None, None]
        res = torch.view_as_real(residual).flatten(1).double()
        turn = rotations.new_zeros(5, 6)
        turn[:3, :3] = tilt
        turn[3:, 3:] = tilt[:2]
        chi2 += (res**2).sum(-1)
        gradient += torch.einsum("mjk,mk,jp->mp", jac, res, turn)
        hessian += turn.T @ (jac @ jac.transpose(1, 2)) @ turn
    return chi2, gradient, hessian


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
    """Levenberg-Marquardt on all candidates at once: rotations, shifts, chi², normal matrices."""
    data, ctf, valid = data[particle], ctf[particle], valid[particle]

    def evaluate(a: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        chi2, gradient, hessian = normal_equations(volume, a, t, data, ctf, valid, tilts, kx, ky, padding)
        chi2 = chi2 + shift_precision * (t**2).sum(-1)
        gradient[:, 3:] -= shift_precision * t
        hessian[:, range(3, 6), range(3, 6)] += shift_precision
        both = free[:, None] & free[None, :]
        fixed = torch.diag((~free).to(hessian.dtype))
        return chi2, gradient * free, torch.where(both, hessian, 0.0) + fixed

    a, t = rotations.clone(), shifts.clone()
    chi2, gradient, hessian = evaluate(a, t)
    damping = torch.full_like(chi2, 1e-3)
    active = torch.ones_like(chi2, dtype=torch.bool)
    for _ in range(max_steps):
        diagonal = torch.diagonal(hessian, dim1=1, dim2=2)
        damped = hessian + torch.diag_embed(diagonal * damping[:, None] + 1e-12)
        step = torch.linalg.solve(damped, gradient)
        length = step[:, :3].norm(dim=-1, keepdim=True)
        step = step * torch.clamp(max_angle / length.clamp_min(1e-30), max=1.0)
        a_new, t_new = rotation_vector_to_matrix(step[:, :3]) @ a, t + step[:, 3:]
        chi2_new, gradient_new, hessian_new = evaluate(a_new, t_new)
        better = (chi2_new < chi2) & active
        gain = chi2 - chi2_new
        a = torch.where(better[:, None, None], a_new, a)
        t = torch.where(better[:, None], t_new, t)
        chi2 = torch.where(better, chi2_new, chi2)
        gradient = torch.where(better[:, None], gradient_new, gradient)
        hessian = torch.where(better[:, None, None], hessian_new, hessian)
        damping = torch.where(better, (damping * 0.2).clamp_min(1e-6), damping.clamp_min(1e-4) * 10)
        active &= ~(better & (gain < tolerance)) & (damping <= 1e3)
        if not bool(active.any()):
            break
    return a, t, chi2, hessian


def average_over_operators(
    numerator: Tensor, denominator: Tensor, operators: Tensor, radius: float
) -> tuple[Tensor, Tensor]:
    """Mean over ``operators`` of Hermitian sums within ``radius`` voxels of the origin."""
    h = numerator.shape[-1] - 1
    axis = torch.arange(-h, h + 1, device=numerator.device, dtype=torch.float32)
    z, y, x = torch.meshgrid(axis, axis, axis[h:], indexing="ij")
    inside = x * x + y * y + z * z <= radius * radius
    points = torch.stack((x[inside], y[inside], z[inside]))
    num, den = torch.zeros_like(numerator), torch.zeros_like(denominator)
    for operator in operators.to(points):
        px, py, pz = operator @ points
        sign = torch.where(px < 0, -1.0, 1.0)
        px, py, pz = px * sign, py * sign + h, pz * sign + h
        ix, iy, iz = px.long().clamp(0, h - 1), py.long().clamp(0, 2 * h - 1), pz.long().clamp(0, 2 * h - 1)
        dx, dy, dz = px - ix, py - iy, pz - iz
        for c in (0, 1):
            for b in (0, 1):
                for a in (0, 1):
                    w = (dz if c else 1 - dz) * (dy if b else 1 - dy) * (dx if a else 1 - dx)
                    value = numerator[iz + c, iy + b, ix + a]
                    num[inside] += w * torch.where(sign < 0, value.conj(), value) / len(operators)
                    den[inside] += w * denominator[iz + c, iy + b, ix + a] / len(operators)
    return num, den
