"""Gauss-Newton refinement of poses on the CPU: Numba, one particle after the other, without the GIL."""

import numba as nb
import numpy as np

_jit = nb.njit(nogil=True, fastmath=True, cache=True, error_model="numpy")
_inlined = nb.njit(nogil=True, fastmath=True, cache=True, error_model="numpy", forceinline=True)


@_jit
def _rotation(w):
    """exp([w]x) by Rodrigues' formula."""
    angle = np.sqrt(w[0] ** 2 + w[1] ** 2 + w[2] ** 2)
    result = np.eye(3)
    if angle < 1e-12:
        return result
    x = w[0] / angle
    y = w[1] / angle
    z = w[2] / angle
    s = np.sin(angle)
    c = 1.0 - np.cos(angle)
    result[0, 0] -= c * (y * y + z * z)
    result[1, 1] -= c * (x * x + z * z)
    result[2, 2] -= c * (x * x + y * y)
    result[0, 1] += c * x * y - s * z
    result[1, 0] += c * x * y + s * z
    result[0, 2] += c * x * z + s * y
    result[2, 0] += c * x * z - s * y
    result[1, 2] += c * y * z - s * x
    result[2, 1] += c * y * z + s * x
    return result


@_inlined
def _waves(t, cosine, sine):
    """exp(2πi q t) for whole q from -n//2 on."""
    centre = cosine.shape[0] // 2
    for j in range(cosine.shape[0]):
        q = 2.0 * np.pi * (j - centre)
        cosine[j] = np.cos(q * t)
        sine[j] = np.sin(q * t)


@_inlined
def _interpolated(volume, x, y, z):
    """Trilinear value at voxel coordinates inside the volume, and its slopes along x, y and z."""
    ix = int(x)
    iy = int(y)
    iz = int(z)
    dx = x - np.float32(ix)
    dy = y - np.float32(iy)
    dz = z - np.float32(iz)
    q000 = volume[iz, iy, ix]
    q001 = volume[iz, iy, ix + 1] - q000
    q010 = volume[iz, iy + 1, ix]
    q011 = volume[iz, iy + 1, ix + 1] - q010
    q100 = volume[iz + 1, iy, ix]
    q101 = volume[iz + 1, iy, ix + 1] - q100
    q110 = volume[iz + 1, iy + 1, ix]
    q111 = volume[iz + 1, iy + 1, ix + 1] - q110
    c00 = q000 + dx * q001
    c01 = q010 + dx * q011 - c00
    c10 = q100 + dx * q101
    c11 = q110 + dx * q111 - c10
    c0 = c00 + dy * c01
    c1 = c10 + dy * c11 - c0
    e0 = q001 + dy * (q011 - q001)
    e1 = q101 + dy * (q111 - q101)
    return c0 + dz * c1, e0 + dz * (e1 - e0), c01 + dz * (c11 - c01), c1


@_inlined
def _slice_point(volume, a, u, v, padding, half):
    """The central slice at (u, v), and its derivatives by rotations about the image's x, y and z."""
    a00, a01, a02, a10, a11, a12, a20, a21, a22 = a
    x = (a00 * u + a10 * v) * padding
    y = (a01 * u + a11 * v) * padding
    z = (a02 * u + a12 * v) * padding
    sign = np.float32(-1.0) if x < 0 else np.float32(1.0)
    p, fx, fy, fz = _interpolated(volume, x * sign, y * sign + half, z * sign + half)
    gx = a00 * fx + a01 * fy + a02 * fz
    gy = a10 * fx + a11 * fy + a12 * fz
    gz = a20 * fx + a21 * fy + a22 * fz
    # The mate's derivative: d conj f(-k) / dk = -conj f'(-k).
    wr = gz.real * sign * padding
    wi = gz.imag * padding
    turn_r = (gx.real * v - gy.real * u) * sign * padding
    turn_i = (gx.imag * v - gy.imag * u) * padding
    return p.real, p.imag * sign, -wr * v, -wi * v, wr * u, wi * u, turn_r, turn_i


@_inlined
def _with_point(s, h, data, er, ei, u, v, point):
    """Adds a point's residual and Jacobian to chi² and the gradient ``s`` (6) and to the Hessian ``h`` (15).

    ``er + i ei`` is what the slice is multiplied by; each complex number counts as two real ones.
    """
    pr, pi, xr, xi, yr, yi, zr, zi = point
    vr = er * pr - ei * pi
    vi = er * pi + ei * pr
    rr = data.real - vr
    ri = data.imag - vi
    j0r = er * xr - ei * xi
    j0i = er * xi + ei * xr
    j1r = er * yr - ei * yi
    j1i = er * yi + ei * yr
    j2r = er * zr - ei * zi
    j2i = er * zi + ei * zr
    turn = np.float32(2.0 * np.pi)
    j3r = -turn * u * vi
    j3i = turn * u * vr
    j4r = -turn * v * vi
    j4i = turn * v * vr
    return (
        s[0] + (rr * rr + ri * ri),
        s[1] + (j0r * rr + j0i * ri),
        s[2] + (j1r * rr + j1i * ri),
        s[3] + (j2r * rr + j2i * ri),
        s[4] + (j3r * rr + j3i * ri),
        s[5] + (j4r * rr + j4i * ri),
    ), (
        h[0] + (j0r * j0r + j0i * j0i),
        h[1] + (j0r * j1r + j0i * j1i),
        h[2] + (j0r * j2r + j0i * j2i),
        h[3] + (j0r * j3r + j0i * j3i),
        h[4] + (j0r * j4r + j0i * j4i),
        h[5] + (j1r * j1r + j1i * j1i),
        h[6] + (j1r * j2r + j1i * j2i),
        h[7] + (j1r * j3r + j1i * j3i),
        h[8] + (j1r * j4r + j1i * j4i),
        h[9] + (j2r * j2r + j2i * j2i),
        h[10] + (j2r * j3r + j2i * j3i),
        h[11] + (j2r * j4r + j2i * j4i),
        h[12] + (j3r * j3r + j3i * j3i),
        h[13] + (j3r * j4r + j3i * j4i),
        h[14] + (j4r * j4r + j4i * j4i),
    )


@_jit
def _view(volume, a, tx, ty, kx, ky, data, ctf, padding, sums, cos_x, sin_x, cos_y, sin_y):
    """Residual of one view; adds chi² to sums[0], the gradient to sums[1:6], 15 Hessian terms after it.

    Parameters: three rotations and two shifts in the view's frame; lengths in units of the extent.
    """
    _waves(tx, cos_x, sin_x)
    _waves(ty, cos_y, sin_y)
    centre = cos_x.shape[0] // 2
    f = np.float32
    # a tuple of single numbers stays in registers, an array would be read again at every point
    rotation = (
        f(a[0, 0]), f(a[0, 1]), f(a[0, 2]), f(a[1, 0]), f(a[1, 1]), f(a[1, 2]), f(a[2, 0]), f(a[2, 1]),
        f(a[2, 2]),
    )  # fmt: skip
    pad = f(padding)
    half = f(volume.shape[0] // 2)
    o = f(0)
    # single precision within 512 points, double between them
    for first in range(0, kx.shape[0], 512):
        s = (o, o, o, o, o, o)
        h = (o, o, o, o, o, o, o, o, o, o, o, o, o, o, o)
        for k in range(first, min(first + 512, kx.shape[0])):
            u = kx[k]
            v = ky[k]
            jx = int(u) + centre
            jy = int(v) + centre
            er = ctf[k] * (cos_x[jx] * cos_y[jy] - sin_x[jx] * sin_y[jy])
            ei = ctf[k] * (sin_x[jx] * cos_y[jy] + cos_x[jx] * sin_y[jy])
            point = _slice_point(volume, rotation, u, v, pad, half)
            s, h = _with_point(s, h, data[k], er, ei, u, v, point)
        for i in range(6):
            sums[i] += s[i]
        for i in range(15):
            sums[6 + i] += h[i]


@_jit
def _normal_equations(
    volume, a, t, tilts, valid, kx, ky, data, ctf, padding, free, scratch, sums, hess, grad
):
    """chi² of all views of one particle at one pose, with its 6x6 normal matrix and gradient."""
    hess[:] = 0.0
    grad[:] = 0.0
    chi2 = 0.0
    jacobian = np.zeros((5, 6))
    for v in range(tilts.shape[0]):
        if not valid[v]:
            continue
        tilt = tilts[v]
        shift = tilt @ t
        sums[:] = 0.0
        _view(
            volume, tilt @ a, shift[0], shift[1], kx, ky, data[v], ctf[v], padding, sums,
            scratch[0], scratch[1], scratch[2], scratch[3],
        )  # fmt: skip
        chi2 += sums[0]
        for i in range(3):
            for j in range(3):
                jacobian[i, j] = tilt[i, j]
                if i < 2:
                    jacobian[3 + i, 3 + j] = tilt[i, j]
        at = 6
        for i in range(5):
            for p in range(6):
                grad[p] += jacobian[i, p] * sums[1 + i]
            for j in range(i, 5):
                term = sums[at]
                at += 1
                for p in range(6):
                    for q in range(6):
                        hess[p, q] += jacobian[i, p] * jacobian[j, q] * term
                        if i != j:
                            hess[p, q] += jacobian[j, p] * jacobian[i, q] * term
    for p in range(6):
        if not free[p]:
            grad[p] = 0.0
            for q in range(6):
                hess[p, q] = 0.0
                hess[q, p] = 0.0
            hess[p, p] = 1.0
    return chi2


@_jit
def _add_prior(hess, grad, t, centre, precision):
    """A Gaussian prior on the shift adds ``precision |t - centre|²`` to chi²; returns that term."""
    penalty = 0.0
    for j in range(3):
        d = t[j] - centre[j]
        penalty += precision * d * d
        if grad[3 + j] != 0.0 or hess[3 + j, 3 + j] != 1.0:
            grad[3 + j] -= precision * d
            hess[3 + j, 3 + j] += precision
    return penalty


@_jit
def refine_poses(
    volume, rotations, shifts, particle, data, ctf, valid, tilts, kx, ky, padding, free,
    shift_precision, max_steps, max_angle, tolerance, chi2, hessians,
):  # fmt: skip
    """Levenberg-Marquardt on every candidate pose, in place. See reference.refine_poses."""
    half = 0
    for k in range(kx.shape[0]):
        half = max(half, int(abs(kx[k])), int(abs(ky[k])))
    scratch = np.empty((4, 2 * half + 1), np.float32)
    sums = np.zeros(21)
    hess = np.zeros((6, 6))
    grad = np.zeros(6)
    hess_new = np.zeros((6, 6))
    grad_new = np.zeros(6)
    origin = np.zeros(3)
    for c in range(rotations.shape[0]):
        n = particle[c]
        a = rotations[c].copy()
        t = shifts[c].copy()
        now = _normal_equations(
            volume, a, t, tilts, valid[n], kx, ky, data[n], ctf[n], padding, free, scratch, sums, hess, grad
        )
        now += _add_prior(hess, grad, t, origin, shift_precision)
        damping = 1e-3
        for _ in range(max_steps):
            damped = hess.copy()
            for p in range(6):
                damped[p, p] = damped[p, p] * (1.0 + damping) + 1e-12
            step = np.linalg.solve(damped, grad)
            angle = np.sqrt(step[0] ** 2 + step[1] ** 2 + step[2] ** 2)
            if angle > max_angle:
                step *= max_angle / angle
            a_new = _rotation(step[:3]) @ a
            t_new = t + step[3:]
            new = _normal_equations(
                volume, a_new, t_new, tilts, valid[n], kx, ky, data[n], ctf[n], padding, free, scratch, sums,
                hess_new, grad_new,
            )  # fmt: skip
            new += _add_prior(hess_new, grad_new, t_new, origin, shift_precision)
            if new < now:
                gain = now - new
                a = a_new
                t = t_new
                hess[:] = hess_new
                grad[:] = grad_new
                now = new
                damping = max(damping * 0.2, 1e-6)
                if gain < tolerance:
                    break
            else:
                damping = max(damping, 1e-4) * 10.0
                if damping > 1e3:
                    break
        rotations[c] = a
        shifts[c] = t
        chi2[c] = now
        hessians[c] = hess
