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
    left, power = np.empty(frames.shape[3], np.float32), np.empty(frames.shape[3], np.float32)
    for y in range(frames.shape[2]):
        first, last = runs[y, 0], runs[y, 1]
        ring, q, p = shell[y, first:last], left[: last - first], power[: last - first]
        pr, pi = plain[0, y, first:last], plain[1, y, first:last]
        p[:] = 0.0
        for i in range(frames.shape[0]):
            fr, fi = frames[i, 0, y, first:last], frames[i, 1, y, first:last]
            for x in range(last - first):
                q[x] = amplitude[i, ring[x]]
            for x in range(last - first):
                pr[x] += fr[x]
                pi[x] += fi[x]
                p[x] += fr[x] * fr[x] + fi[x] * fi[x]
                fr[x] *= q[x]
                fi[x] *= q[x]
        for x in range(last - first):
            each[ring[x]] += p[x]


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
    left = np.empty(shell.shape[1], np.float32)
    for y in range(row0, row1):
        first, last = runs[y, 0], runs[y, 1]
        ring, q = shell[y, first:last], left[: last - first]
        mr, mi = phase[0, y, first:last], phase[1, y, first:last]
        mr[:] = 0.0
        mi[:] = 0.0
        for i in range(len(amplitude)):
            yr, yi = ramp_y[i, 0, y], ramp_y[i, 1, y]
            xr, xi = ramp_x[i, 0, first:last], ramp_x[i, 1, first:last]
            for x in range(last - first):
                q[x] = amplitude[i, ring[x]]
            for x in range(last - first):
                mr[x] += q[x] * (yr * xr[x] - yi * xi[x])
                mi[x] += q[x] * (yr * xi[x] + yi * xr[x])


@_jit
def ring_powers(planes, shell, runs, out):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Adds Σ |z|² of each ring of ``planes`` ``(2, ny, nx)`` to ``out`` ``(shells,)``."""
    for y in range(planes.shape[1]):
        for x in range(runs[y, 0], runs[y, 1]):
            out[shell[y, x]] += planes[0, y, x] ** 2 + planes[1, y, x] ** 2


@_jit
def _move(fr, fi, xr, xi, yr, yi, mr, mi, tr, ti):  # type: ignore[no-untyped-def]  # pragma: no cover
    """A row of a frame moved by its ramps: to ``mr``, ``mi``, and added to ``tr``, ``ti``."""
    for x in range(len(fr)):
        ar = yr * xr[x] - yi * xi[x]
        ai = yr * xi[x] + yi * xr[x]
        real = ar * fr[x] - ai * fi[x]
        imaginary = ar * fi[x] + ai * fr[x]
        mr[x] = real
        mi[x] = imaginary
        tr[x] += real
        ti[x] += imaginary


@_jit
def _slope(wr, wi, mr, mi, f):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Σ f Im(w m) and Σ Im(w m) of a row."""
    along = np.float32(0.0)
    across = np.float32(0.0)
    for x in range(len(f)):
        z = wr[x] * mi[x] + wi[x] * mr[x]
        along += f[x] * z
        across += z
    return along, across


@_jit
def plain_likelihood(frames, ramp_y, ramp_x, shell, runs, table, fy, fx, out, row0, row1):  # type: ignore[no-untyped-def]  # pragma: no cover
    """The likelihood without a pattern of rows ``row0`` to ``row1``, as far as it depends on shifts.

    Its slope with each frame's shift along x and y is added to ``out`` ``(n, 2)``; ``table`` ``(shells,)``
    float32 is 1 / (N D) per ring. A row's moved frames stay in the cache between sum and slope.
    """
    count, width = frames.shape[0], frames.shape[3]
    moved, total = np.empty((2, count, width), np.float32), np.empty((2, width), np.float32)
    four_pi, value = 4.0 * np.pi, 0.0
    for y in range(row0, row1):
        first, last = runs[y, 0], runs[y, 1]
        tr, ti, ring, f = (
            total[0, : last - first],
            total[1, : last - first],
            shell[y, first:last],
            fx[first:last],
        )
        tr[:] = 0.0
        ti[:] = 0.0
        for i in range(count):
            _move(
                frames[i, 0, y, first:last], frames[i, 1, y, first:last],
                ramp_x[i, 0, first:last], ramp_x[i, 1, first:last], ramp_y[i, 0, y], ramp_y[i, 1, y],
                moved[0, i], moved[1, i], tr, ti,
            )  # fmt: skip
        power = np.float32(0.0)
        for x in range(last - first):
            factor = table[ring[x]]
            power += factor * (tr[x] * tr[x] + ti[x] * ti[x])
            tr[x] *= factor
            ti[x] *= -factor
        value += float(power)
        for i in range(count):
            along, across = _slope(tr, ti, moved[0, i], moved[1, i], f)
            out[i, 0] += four_pi * along
            out[i, 1] += four_pi * fy[y] * across
    return value


@_jit
def pattern_likelihood(  # type: ignore[no-untyped-def]
    frames, plain, amplitude, ramp_y, ramp_x, shell, runs, table, fy, fx, out, row0, row1
):  # pragma: no cover
    """The likelihood with a pattern of rows ``row0`` to ``row1``; its slope is added to ``out`` ``(n, 2)``.

    ``plain`` ``(2, ny, nx)`` is the sum of the frames as they are; ``table`` ``(shells, 4)``: 1/N, c, Σq² +
    N/S, and Σq² S/N + 1, which is 1 for a ring without signal (see likelihood.py). A frame's slope at a point
    is the imaginary part of ``a (w F + v q)`` times the frequency and 4π.
    """
    count, width = frames.shape[0], frames.shape[3]
    moved, phase = np.empty((2, count, width), np.float32), np.empty((2, count, width), np.float32)
    total, mean = np.empty((2, width), np.float32), np.empty((2, width), np.float32)
    left, nothing = np.empty(width, np.float32), np.zeros(width, np.float32)
    four_pi, value = 4.0 * np.pi, 0.0
    for y in range(row0, row1):
        first, last = runs[y, 0], runs[y, 1]
        size = last - first
        tr, ti, mr, mi = total[0, :size], total[1, :size], mean[0, :size], mean[1, :size]
        ring, f, q = shell[y, first:last], fx[first:last], left[:size]
        total[:] = 0.0
        mean[:] = 0.0
        for i in range(count):
            xr, xi, yr, yi = (
                ramp_x[i, 0, first:last],
                ramp_x[i, 1, first:last],
                ramp_y[i, 0, y],
                ramp_y[i, 1, y],
            )
            fr, fi = frames[i, 0, y, first:last], frames[i, 1, y, first:last]
            _move(fr, fi, xr, xi, yr, yi, moved[0, i], moved[1, i], tr, ti)
            for x in range(size):
                q[x] = amplitude[i, ring[x]]
            _move(q, nothing[:size], xr, xi, yr, yi, phase[0, i], phase[1, i], mr, mi)
        for x in range(size):
            inverse_noise, c, depth, ratio = table[ring[x]]
            if ratio <= 1.0:
                tr[x], ti[x], mr[x], mi[x] = 0.0, 0.0, 0.0, 0.0
                continue
            m = complex(mr[x], mi[x])
            u = complex(plain[0, y, first + x], plain[1, y, first + x])
            g = complex(tr[x], ti[x]) - c * m * u
            power = (g.real * g.real + g.imag * g.imag) * inverse_noise
            d = depth - c * (m.real * m.real + m.imag * m.imag)
            value += power / d - np.log(ratio * d / depth)
            w = g.conjugate() * (inverse_noise / d)
            v = m.conjugate() * (c * (power / d + 1.0) / d) - w * c * u
            tr[x], ti[x], mr[x], mi[x] = w.real, w.imag, v.real, v.imag
        for i in range(count):
            along, across = _slope(tr, ti, moved[0, i], moved[1, i], f)
            more_along, more_across = _slope(mr, mi, phase[0, i], phase[1, i], f)
            out[i, 0] += four_pi * (along + more_along)
            out[i, 1] += four_pi * fy[y] * (across + more_across)
    return value
