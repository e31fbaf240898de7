"""Compiled loops over frames and frequencies: sums of aligned frames, the likelihood and its slope.

Transforms are planar, real and imaginary parts ``(2, ny, nx)`` float32, and each row has one run of used
points ``[first, last)``: the inner loops then are plain arithmetic that the compiler makes vectors of. All
work on a range of rows, without the interpreter lock, so that ranges can run on several threads.
"""

import numba as nb
import numpy as np

_jit = nb.njit(nogil=True, fastmath=True, cache=True, error_model="numpy")


@_jit
def weigh(frames, amplitude, shell, runs, plain, each):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Multiply ``frames`` ``(n, 2, ny, nx)`` by their ``amplitude`` ``(n, shells)`` in place.

    Before that their sum goes to ``plain`` ``(2, ny, nx)``, and Σ_i |F_i|² of each ring to ``each``
    ``(shells,)``.
    """
    for y in range(frames.shape[2]):
        first, last = runs[y, 0], runs[y, 1]
        ring = shell[y]
        for i in range(frames.shape[0]):
            fr, fi, q = frames[i, 0, y], frames[i, 1, y], amplitude[i]
            for x in range(first, last):
                plain[0, y, x] += fr[x]
                plain[1, y, x] += fi[x]
                each[ring[x]] += fr[x] * fr[x] + fi[x] * fi[x]
                fr[x] *= q[ring[x]]
                fi[x] *= q[ring[x]]


@_jit
def aligned_sums(frames, ramp_y, ramp_x, runs, total, row0, row1):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Σ a F per point of rows ``row0`` to ``row1``, of frames that carry their amplitudes already.

    Ramps are ``(n, 2, ny)`` and ``(n, 2, nx)``, ``runs`` ``(ny, 2)``; the result goes to ``total`` ``(2,
    ny, nx)``.
    """
    for y in range(row0, row1):
        first, last = runs[y, 0], runs[y, 1]
        tr, ti = total[0, y, first:last], total[1, y, first:last]
        for x in range(last - first):
            tr[x] = 0.0
            ti[x] = 0.0
        for i in range(frames.shape[0]):
            yr, yi = ramp_y[i, 0, y], ramp_y[i, 1, y]
            xr, xi = ramp_x[i, 0, first:last], ramp_x[i, 1, first:last]
            fr, fi = frames[i, 0, y, first:last], frames[i, 1, y, first:last]
            for x in range(last - first):
                ar = yr * xr[x] - yi * xi[x]
                ai = yr * xi[x] + yi * xr[x]
                tr[x] += ar * fr[x] - ai * fi[x]
                ti[x] += ar * fi[x] + ai * fr[x]


@_jit
def phase_sums(ramp_y, ramp_x, amplitude, shell, runs, phase, row0, row1):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Σ q a per point of rows ``row0`` to ``row1``: what ``aligned_sums`` is for frames of 1."""
    for y in range(row0, row1):
        first, last = runs[y, 0], runs[y, 1]
        ring, mr, mi = shell[y], phase[0, y], phase[1, y]
        for x in range(first, last):
            mr[x] = 0.0
            mi[x] = 0.0
        for i in range(len(amplitude)):
            yr, yi, q = ramp_y[i, 0, y], ramp_y[i, 1, y], amplitude[i]
            xr, xi = ramp_x[i, 0], ramp_x[i, 1]
            for x in range(first, last):
                w = q[ring[x]]
                mr[x] += w * (yr * xr[x] - yi * xi[x])
                mi[x] += w * (yr * xi[x] + yi * xr[x])


@_jit
def ring_powers(planes, shell, runs, out):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Adds Σ |z|² of each ring of ``planes`` ``(2, ny, nx)`` to ``out`` ``(shells,)``."""
    for y in range(planes.shape[1]):
        for x in range(runs[y, 0], runs[y, 1]):
            out[shell[y, x]] += planes[0, y, x] ** 2 + planes[1, y, x] ** 2


@_jit
def plain_slope_factors(total, shell, runs, table, of_frame, row0, row1):  # type: ignore[no-untyped-def]  # pragma: no cover
    """``slope_factors`` without a pattern: ``table`` ``(shells,)`` float32 is 1 / (N D) per ring.

    What the likelihood has beyond the powers returned here does not depend on shifts.
    """
    value = 0.0
    for y in range(row0, row1):
        first, last = runs[y, 0], runs[y, 1]
        tr, ti, ring = total[0, y, first:last], total[1, y, first:last], shell[y, first:last]
        wr, wi = of_frame[0, y, first:last], of_frame[1, y, first:last]
        power = np.float32(0.0)
        for x in range(last - first):
            factor = table[ring[x]]
            wr[x] = factor * tr[x]
            wi[x] = -factor * ti[x]
            power += factor * (tr[x] * tr[x] + ti[x] * ti[x])
        value += float(power)
    return value


@_jit
def slope_factors(  # type: ignore[no-untyped-def]
    total, phase, plain, shell, runs, table, of_frame, of_phase, row0, row1
):  # pragma: no cover
    """The likelihood of rows ``row0`` to ``row1``, and the factors of its slope per point.

    ``table`` ``(shells, 4)``: 1/N, c, Σq² + N/S, and Σq² S/N + 1, which is 1 for a ring without signal (see
    likelihood.py). A frame's slope at a point is the imaginary part of ``q a (of_frame F + of_phase)``
    times the frequency and 4π.
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
def frame_slope(frames, ramp_y, ramp_x, runs, of_frame, fy, fx, out, row0, row1):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Adds to ``out`` ``(n, 2)`` the slope of the likelihood with each frame's shift along x and y."""
    four_pi = 4.0 * np.pi
    for i in range(frames.shape[0]):
        sum_x, sum_y = 0.0, 0.0
        for y in range(row0, row1):
            first, last = runs[y, 0], runs[y, 1]
            yr, yi = ramp_y[i, 0, y], ramp_y[i, 1, y]
            xr, xi, f = ramp_x[i, 0, first:last], ramp_x[i, 1, first:last], fx[first:last]
            fr, fi = frames[i, 0, y, first:last], frames[i, 1, y, first:last]
            wr, wi = of_frame[0, y, first:last], of_frame[1, y, first:last]
            along = np.float32(0.0)
            across = np.float32(0.0)
            for x in range(last - first):
                br = wr[x] * fr[x] - wi[x] * fi[x]
                bi = wr[x] * fi[x] + wi[x] * fr[x]
                z = (yr * xr[x] - yi * xi[x]) * bi + (yr * xi[x] + yi * xr[x]) * br
                along += f[x] * z
                across += z
            sum_x += float(along)
            sum_y += float(fy[y] * across)
        out[i, 0] += four_pi * sum_x
        out[i, 1] += four_pi * sum_y


@_jit
def phase_slope(  # type: ignore[no-untyped-def]
    ramp_y, ramp_x, amplitude, shell, runs, of_phase, fy, fx, out, row0, row1
):  # pragma: no cover
    """Adds to ``out`` ``(n, 2)`` the part of the slope that a fixed pattern makes."""
    four_pi = 4.0 * np.pi
    for i in range(len(amplitude)):
        q, xr, xi = amplitude[i], ramp_x[i, 0], ramp_x[i, 1]
        sum_x, sum_y = 0.0, 0.0
        for y in range(row0, row1):
            yr, yi, ring, vr, vi = ramp_y[i, 0, y], ramp_y[i, 1, y], shell[y], of_phase[0, y], of_phase[1, y]
            along = np.float32(0.0)
            across = np.float32(0.0)
            for x in range(runs[y, 0], runs[y, 1]):
                z = q[ring[x]] * ((yr * xr[x] - yi * xi[x]) * vi[x] + (yr * xi[x] + yi * xr[x]) * vr[x])
                along += fx[x] * z
                across += z
            sum_x += float(along)
            sum_y += float(fy[y] * across)
        out[i, 0] += four_pi * sum_x
        out[i, 1] += four_pi * sum_y
