"""Insertion of slices that leave the central section, on the CPU. Layout of volumes as in ``kernels.cpu``."""

import numba as nb
import numpy as np

_jit = nb.njit(nogil=True, fastmath=True, cache=True, error_model="numpy")


@_jit
def insert_curved(numerator, denominator, rotations, kx, ky, kz, padding, values, weights, z_low, z_high):
    """Adds the points ``Aᵢᵀ (kx, ky, kz[i])`` into planes ``z_low <= z < z_high``, trilinear.

    Workers own disjoint ranges of z, so nothing is locked and the sums do not depend on their number. Points
    beyond the volume are left out.
    """
    h = np.float32(numerator.shape[0] // 2)
    most_x, most = numerator.shape[2] - 2, numerator.shape[0] - 2
    for i in range(rotations.shape[0]):
        turned = np.empty((3, 3), np.float32)
        for a in range(3):
            for b in range(3):
                turned[a, b] = np.float32(rotations[i, a, b] * padding)
        for k in range(kx.shape[0]):
            x = turned[0, 0] * kx[k] + turned[1, 0] * ky[k] + turned[2, 0] * kz[i, k]
            z = turned[0, 2] * kx[k] + turned[1, 2] * ky[k] + turned[2, 2] * kz[i, k]
            sign = np.float32(-1.0) if x < 0 else np.float32(1.0)
            z = z * sign + h
            iz = int(np.floor(z))
            if iz + 1 < z_low or iz >= z_high:
                continue
            x = x * sign
            y = (turned[0, 1] * kx[k] + turned[1, 1] * ky[k] + turned[2, 1] * kz[i, k]) * sign + h
            ix = int(x)
            iy = int(np.floor(y))
            if ix > most_x or iy < 0 or iy > most or iz < 0 or iz > most:
                continue
            dx = x - np.float32(ix)
            dy = y - np.float32(iy)
            dz = z - np.float32(iz)
            weight = weights[i, k]
            value = nb.complex64(complex(values[i, k].real, values[i, k].imag * sign))
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
