"""The kernels' plain statements in NumPy, float64: slow, obvious, and what every backend is tested against.

A Fourier volume is ``(2h+1, 2h+1, h+1)``, axes z, y, x, zero frequency at ``[h, h, 0]``, holding the
half x >= 0 of a Hermitian transform sampled ``padding`` times finer than the images' transforms.
"""

import itertools

import numpy as np


def _trilinear(
    shape: tuple[int, int, int], rotation: np.ndarray, kx: float, ky: float, padding: float
) -> tuple[list[tuple[tuple[int, int, int], float]], bool]:
    """The eight voxels around ``padding · Aᵀ (kx, ky, 0)`` with their weights; True: conjugate them."""
    h = shape[0] // 2
    point = padding * (rotation[0] * kx + rotation[1] * ky)
    mate = bool(point[0] < 0)
    if mate:
        point = -point
    x, y, z = point + np.array([0, h, h])
    corner = np.floor([z, y, x]).astype(int)
    fraction = np.array([z, y, x]) - corner
    terms = []
    for offset in itertools.product((0, 1), repeat=3):
        weight = np.prod(np.where(offset, fraction, 1 - fraction))
        iz, iy, ix = corner + offset
        terms.append(((int(iz), int(iy), int(ix)), float(weight)))
    return terms, mate


def extract(
    volume: np.ndarray, rotations: np.ndarray, kx: np.ndarray, ky: np.ndarray, padding: float
) -> np.ndarray:
    """Central slices ``(m, k)``: ``out[i, k] = F(padding · Aᵢᵀ (kx, ky, 0))`` by trilinear interpolation."""
    out = np.zeros((len(rotations), len(kx)), complex)
    for i, rotation in enumerate(rotations):
        for k in range(len(kx)):
            terms, mate = _trilinear(volume.shape, rotation, kx[k], ky[k], padding)
            value = sum(weight * complex(volume[at]) for at, weight in terms)
            out[i, k] = np.conj(value) if mate else value
    return out


def insert(
    numerator: np.ndarray,
    denominator: np.ndarray,
    rotations: np.ndarray,
    kx: np.ndarray,
    ky: np.ndarray,
    padding: float,
    values: np.ndarray,
    weights: np.ndarray,
) -> None:
    """Adds slices ``values`` (complex) and ``weights`` ``(m, k)`` in place: the adjoint of extract.

    The plane x = 0 receives only what its points bring; ``engine.update`` adds the mates' share.
    """
    for i, rotation in enumerate(rotations):
        for k in range(len(kx)):
            terms, mate = _trilinear(numerator.shape, rotation, kx[k], ky[k], padding)
            value = np.conj(values[i, k]) if mate else values[i, k]
            for at, weight in terms:
                numerator[at] += weight * value
                denominator[at] += weight * weights[i, k]


def best_shift(cross: np.ndarray, base: np.ndarray, norm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Over shifts, the maximum of ``2 (cross + base) - norm`` and its row.

    ``cross`` ``(n, t, o)``, ``base`` ``(n, t)``, ``norm`` ``(n, o)``; both results ``(n, o)``.
    """
    total = cross.astype(float) + base[:, :, None]
    return 2 * total.max(1) - norm, total.argmax(1)


def chi2(
    volume: np.ndarray,
    rotation: np.ndarray,
    shift: np.ndarray,
    data: np.ndarray,
    ctf: np.ndarray,
    tilts: np.ndarray,
    kx: np.ndarray,
    ky: np.ndarray,
    padding: float,
) -> float:
    """Σ |X - C S P|² over the views ``(v, k)`` of one particle; ``shift`` ``(3,)`` in units of the extent.

    What refine_poses minimises; its gradient is checked against differences of this function.
    """
    total = 0.0
    for view, tilt in enumerate(tilts):
        t = tilt @ shift
        wave = np.exp(2j * np.pi * (kx * t[0] + ky * t[1]))
        model = ctf[view] * wave * extract(volume, (tilt @ rotation)[None], kx, ky, padding)[0]
        total += float((abs(data[view] - model) ** 2).sum())
    return total


def average_over_operators(
    numerator: np.ndarray, denominator: np.ndarray, operators: np.ndarray, radius: float
) -> tuple[np.ndarray, np.ndarray]:
    """Mean over ``operators`` R of ``F(R k)``, trilinear, at voxels within ``radius`` of the origin."""
    h = numerator.shape[-1] - 1
    num, den = np.zeros(numerator.shape, complex), np.zeros(denominator.shape)
    for jz, jy, jx in np.ndindex(numerator.shape):
        k = np.array([jx, jy - h, jz - h], float)
        if k @ k > radius * radius:
            continue
        for operator in operators:
            # A rotation whose first row is R k turns the point (1, 0) of a slice into R k.
            pose = np.zeros((3, 3))
            pose[0] = operator @ k
            terms, mate = _trilinear(numerator.shape, pose, 1.0, 0.0, 1.0)
            value = sum(weight * complex(numerator[at]) for at, weight in terms)
            num[jz, jy, jx] += (np.conj(value) if mate else value) / len(operators)
            den[jz, jy, jx] += sum(weight * denominator[at] for at, weight in terms) / len(operators)
    return num, den
