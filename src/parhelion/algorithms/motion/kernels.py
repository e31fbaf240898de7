"""Compiled loops over frames and frequencies: sums of aligned frames, the likelihood and its slope.

Transforms are planar, real and imaginary parts ``(2, ny, nx)`` float32, and each row has one run of used points
``[first, last)``: the inner loops then are plain arithmetic that the compiler makes vectors of. All work
on a range of rows, without the interpreter lock, so that ranges can run on several threads.
"""

import numba as nb
import numpy as np

_jit = nb.njit(nogil=True, fastmath=True, cache=True, error_model="numpy")


@_jit
def aligned_sums(  # type: ignore[no-untyped-def]
    frames, ramp_y, ramp_x, amplitude, shell, runs, total, phase, with_phase, row0, row1
):  # pragma: no cover
    """Σ q a F, and with ``with_phase`` Σ q a, per point of rows ``row0`` to ``row1``.

    ``frames`` ``(n, 2, ny, nx)``, ramps ``(n, 2, ny)`` and ``(n, 2, nx)``, ``amplitude`` ``(n, shells)`` is q, ``runs``
    ``(ny, 2)``; results in ``total`` and ``phase`` ``(2, ny, nx)``.
    """
    for y in range(row0, row1):
        first, last = runs[y, 0], runs[y, 1]
        tr, ti, mr, mi, ring = total[0, y], total[1, y], phase[0, y], phase[1, y], shell[y]
        for x in range(first, last):
            tr[x] = 0.0
            ti[x] = 0.0
            mr[x] = 0.0
            mi[x] = 0.0
        for i in range(frames.shape[0]):
            yr, yi, q = ramp_y[i, 0, y], ramp_y[i, 1, y], amplitude[i]
            xr, xi, fr, fi = ramp_x[i, 0], ramp_x[i, 1], frames[i, 0, y], frames[i, 1, y]
            if with_phase:
                for x in range(first, last):
                    w = q[ring[x]]
                    mr[x] += w * (yr * xr[x] - yi * xi[x])
                    mi[x] += w * (yr * xi[x] + yi * xr[x])
            for x in range(first, last):
                w = q[ring[x]]
                ar = w * (yr * xr[x] - yi * xi[x])
                ai = w * (yr * xi[x] + yi * xr[x])
                tr[x] += ar * fr[x] - ai * fi[x]
                ti[x] += ar * fi[x] + ai * fr[x]


@_jit
def ring_powers(frames, total, phase, plain, shell, runs, shells):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Sums over each ring ``(shells, 4)``: Σ_i |F_i|², |total|², |plain|², |phase|²."""
    out = np.zeros((shells, 4))
    count, _, ny, nx = frames.shape
    power = np.empty(nx, np.float32)
    for y in range(ny):
        first, last = runs[y, 0], runs[y, 1]
        for x in range(first, last):
            power[x] = 0.0
        for i in range(count):
            fr, fi = frames[i, 0, y], frames[i, 1, y]
            for x in range(first, last):
                power[x] += fr[x] * fr[x] + fi[x] * fi[x]
        for x in range(first, last):
            s = shell[y, x]
            out[s, 0] += power[x]
            out[s, 1] += total[0, y, x] ** 2 + total[1, y, x] ** 2
            out[s, 2] += plain[0, y, x] ** 2 + plain[1, y, x] ** 2
            out[s, 3] += phase[0, y, x] ** 2 + phase[1, y, x] ** 2
    return out


@_jit
def slope_factors(  # type: ignore[no-untyped-def]
    total, phase, plain, shell, runs, table, of_frame, of_phase, row0, row1
):  # pragma: no cover
    """The likelihood of rows ``row0`` to ``row1``, and the factors of its slope per point.

    ``table`` ``(shells, 4)``: 1/N, c, Σq² + N/S, and Σq² S/N + 1, which is 1 for a ring without signal (see
    likelihood.py). A frame's slope at a point is the imaginary part of ``q a (of_frame F + of_phase)`` times the
    frequency and 4π.
    """
    value = 0.0
    for y in range(row0, row1):
        for x in range(runs[y, 0], runs[y, 1]):
            s = shell[y, x]
            if table[s, 3] <= 1.0:
                of_frame[0, y, x] = 0.0
                of_frame[1, y, x] = 0.0
                of_phase[0, y, x] = 0.0
                of_phase[1, y, x] = 0.0
                continue
            inverse_noise, c = table[s, 0], table[s, 1]
            m = complex(phase[0, y, x], phase[1, y, x])
            u = complex(plain[0, y, x], plain[1, y, x])
            g = complex(total[0, y, x], total[1, y, x]) - c * m * u
            power = (g.real * g.real + g.imag * g.imag) * inverse_noise
            d = table[s, 2] - c * (m.real * m.real + m.imag * m.imag)
            value += power / d - np.log(table[s, 3] * d / table[s, 2])
            w = g.conjugate() * (inverse_noise / d)
            v = m.conjugate() * (c * (power / d + 1.0) / d) - w * c * u
            of_frame[0, y, x] = w.real
            of_frame[1, y, x] = w.imag
            of_phase[0, y, x] = v.real
            of_phase[1, y, x] = v.imag
    return value


@_jit
def frame_slope(  # type: ignore[no-untyped-def]
    frames, ramp_y, ramp_x, amplitude, shell, runs, of_frame, of_phase, fy, fx, out, row0, row1
):  # pragma: no cover
    """Adds to ``out`` ``(n, 2)`` the slope of the likelihood with each frame's shift along x and y."""
    four_pi = 4.0 * np.pi
    for i in range(frames.shape[0]):
        q, xr, xi = amplitude[i], ramp_x[i, 0], ramp_x[i, 1]
        sum_x, sum_y = 0.0, 0.0
        for y in range(row0, row1):
            yr, yi, ring = ramp_y[i, 0, y], ramp_y[i, 1, y], shell[y]
            fr, fi = frames[i, 0, y], frames[i, 1, y]
            wr, wi, vr, vi = of_frame[0, y], of_frame[1, y], of_phase[0, y], of_phase[1, y]
            along = np.float32(0.0)
            across = np.float32(0.0)
            for x in range(runs[y, 0], runs[y, 1]):
                br = wr[x] * fr[x] - wi[x] * fi[x] + vr[x]
                bi = wr[x] * fi[x] + wi[x] * fr[x] + vi[x]
                ar = yr * xr[x] - yi * xi[x]
                ai = yr * xi[x] + yi * xr[x]
                z = q[ring[x]] * (ar * bi + ai * br)
                along += fx[x] * z
                across += z
            sum_x += along
            sum_y += fy[y] * across
        out[i, 0] += four_pi * sum_x
        out[i, 1] += four_pi * sum_y
