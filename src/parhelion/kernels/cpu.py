"""CPU versions of the kernels: Numba, single-threaded and without the GIL, so that chunks run in threads.

Layout of a Fourier volume: ``(2h+1, 2h+1, h+1)`` complex64, axes z, y, x, zero frequency at
``[h, h, 0]``, x >= 0 only (a real map's transform is Hermitian), sampled ``padding`` times finer than
the images' transforms. ``kernels.reference`` states the same operations plainly.
"""

import numba as nb
import numpy as np

_jit = nb.njit(nogil=True, fastmath=True, cache=True, error_model="numpy")


@_jit
def extract(volume, rotations, kx, ky, padding, out):
    """Central slices: ``out[i, k] = F(Aᵢᵀ (kx, ky, 0))``, trilinear. See reference.extract."""
    h = np.float32(volume.shape[0] // 2)
    for i in range(rotations.shape[0]):
        a00 = np.float32(rotations[i, 0, 0] * padding)
        a01 = np.float32(rotations[i, 0, 1] * padding)
        a02 = np.float32(rotations[i, 0, 2] * padding)
        a10 = np.float32(rotations[i, 1, 0] * padding)
        a11 = np.float32(rotations[i, 1, 1] * padding)
        a12 = np.float32(rotations[i, 1, 2] * padding)
        for k in range(kx.shape[0]):
            x = a00 * kx[k] + a10 * ky[k]
            y = a01 * kx[k] + a11 * ky[k]
            z = a02 * kx[k] + a12 * ky[k]
            sign = np.float32(-1.0) if x < 0 else np.float32(1.0)
            x = x * sign
            y = y * sign + h
            z = z * sign + h
            ix = int(x)
            iy = int(y)
            iz = int(z)
            dx = x - np.float32(ix)
            dy = y - np.float32(iy)
            dz = z - np.float32(iz)
            c00 = volume[iz, iy, ix] + dx * (volume[iz, iy, ix + 1] - volume[iz, iy, ix])
            c01 = volume[iz, iy + 1, ix] + dx * (volume[iz, iy + 1, ix + 1] - volume[iz, iy + 1, ix])
            c10 = volume[iz + 1, iy, ix] + dx * (volume[iz + 1, iy, ix + 1] - volume[iz + 1, iy, ix])
            c11 = volume[iz + 1, iy + 1, ix] + dx * (
                volume[iz + 1, iy + 1, ix + 1] - volume[iz + 1, iy + 1, ix]
            )
            c0 = c00 + dy * (c01 - c00)
            c1 = c10 + dy * (c11 - c10)
            value = c0 + dz * (c1 - c0)
            out[i, k] = nb.complex64(complex(value.real, value.imag * sign))


@_jit
def insert(numerator, denominator, rotations, kx, ky, padding, values, weights, z_low, z_high):
    """Adds slices into planes ``z_low <= z < z_high``; the adjoint of extract. See reference.insert.

    Workers own disjoint ranges of z, so nothing is locked and the sums do not depend on their number.
    """
    h = np.float32(numerator.shape[0] // 2)
    for i in range(rotations.shape[0]):
        a00 = np.float32(rotations[i, 0, 0] * padding)
        a01 = np.float32(rotations[i, 0, 1] * padding)
        a02 = np.float32(rotations[i, 0, 2] * padding)
        a10 = np.float32(rotations[i, 1, 0] * padding)
        a11 = np.float32(rotations[i, 1, 1] * padding)
        a12 = np.float32(rotations[i, 1, 2] * padding)
        for k in range(kx.shape[0]):
            x = a00 * kx[k] + a10 * ky[k]
            z = a02 * kx[k] + a12 * ky[k]
            sign = np.float32(-1.0) if x < 0 else np.float32(1.0)
            z = z * sign + h
            iz = int(z)
            if iz + 1 < z_low or iz >= z_high:
                continue
            x = x * sign
            y = (a01 * kx[k] + a11 * ky[k]) * sign + h
            ix = int(x)
            iy = int(y)
            dx = x - np.float32(ix)
            dy = y - np.float32(iy)
            dz = z - np.float32(iz)
            re = values[i, k].real
            im = values[i, k].imag * sign
            weight = weights[i, k]
            value = nb.complex64(complex(re, im))
            for c in range(2):
                if iz + c < z_low or iz + c >= z_high:
                    continue
                wz = dz if c else np.float32(1.0) - dz
                for b in range(2):
                    wy = wz * (dy if b else np.float32(1.0) - dy)
                    w1 = wy * dx
                    w0 = wy - w1
                    numerator[iz + c, iy + b, ix] += w0 * value
                    numerator[iz + c, iy + b, ix + 1] += w1 * value
                    denominator[iz + c, iy + b, ix] += w0 * weight
                    denominator[iz + c, iy + b, ix + 1] += w1 * weight


@_jit
def best_shift(cross, base, norm, best, which):
    """Over shifts, the maximum of ``2 (cross + base) - norm`` per orientation.

    ``cross`` ``(n, t, o)`` float32, ``base`` ``(n, t)``, ``norm`` ``(n, o)``; writes ``best`` ``(n, o)``
    and ``which`` ``(n, o)``.
    """
    n, t, o = cross.shape
    for i in range(n):
        for j in range(o):
            best[i, j] = np.float32(-3e38)
        for s in range(t):
            b = base[i, s]
            for j in range(o):
                value = cross[i, s, j] + b
                better = value > best[i, j]
                best[i, j] = value if better else best[i, j]
                which[i, j] = s if better else which[i, j]
        for j in range(o):
            best[i, j] = np.float32(2.0) * best[i, j] - norm[i, j]


@_jit
def best_shift_bfloat16(cross, base, norm, best, which):
    """As best_shift, ``cross`` being the bit patterns (uint16) of bfloat16 numbers."""
    n, t, o = cross.shape
    row = np.empty(o, np.uint32)
    as_float = row.view(np.float32)
    for i in range(n):
        for j in range(o):
            best[i, j] = np.float32(-3e38)
        for s in range(t):
            b = base[i, s]
            for j in range(o):
                row[j] = np.uint32(cross[i, s, j]) << np.uint32(16)
            for j in range(o):
                value = as_float[j] + b
                better = value > best[i, j]
                best[i, j] = value if better else best[i, j]
                which[i, j] = s if better else which[i, j]
        for j in range(o):
            best[i, j] = np.float32(2.0) * best[i, j] - norm[i, j]


@_jit
def average_over_operators(numerator, denominator, operators, radius, z_low, z_high, num_out, den_out):
    """Planes ``z_low <= z < z_high`` of the mean over operators. See reference.average_over_operators."""
    h = numerator.shape[0] // 2
    hf = np.float32(h)
    share = np.float32(1.0 / operators.shape[0])
    for jz in range(z_low, z_high):
        for jy in range(numerator.shape[1]):
            for jx in range(numerator.shape[2]):
                z0 = np.float32(jz - h)
                y0 = np.float32(jy - h)
                x0 = np.float32(jx)
                if x0 * x0 + y0 * y0 + z0 * z0 > radius * radius:
                    continue
                re = np.float32(0)
                im = np.float32(0)
                total = np.float32(0)
                for g in range(operators.shape[0]):
                    r = operators[g]
                    x = np.float32(r[0, 0] * x0 + r[0, 1] * y0 + r[0, 2] * z0)
                    y = np.float32(r[1, 0] * x0 + r[1, 1] * y0 + r[1, 2] * z0)
                    z = np.float32(r[2, 0] * x0 + r[2, 1] * y0 + r[2, 2] * z0)
                    sign = np.float32(-1.0) if x < 0 else np.float32(1.0)
                    x = x * sign
                    y = y * sign + hf
                    z = z * sign + hf
                    ix = min(int(x), h - 1)
                    iy = min(max(int(y), 0), 2 * h - 1)
                    iz = min(max(int(z), 0), 2 * h - 1)
                    dx = x - np.float32(ix)
                    dy = y - np.float32(iy)
                    dz = z - np.float32(iz)
                    for c in range(2):
                        wz = dz if c else np.float32(1.0) - dz
                        for b in range(2):
                            wy = wz * (dy if b else np.float32(1.0) - dy)
                            for a in range(2):
                                w = wy * (dx if a else np.float32(1.0) - dx)
                                value = numerator[iz + c, iy + b, ix + a]
                                re += w * value.real
                                im += w * value.imag * sign
                                total += w * denominator[iz + c, iy + b, ix + a]
                num_out[jz, jy, jx] = nb.complex64(complex(re * share, im * share))
                den_out[jz, jy, jx] = total * share
