"""Every backend of every kernel against the plain reference."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from parhelion.contracts import SerialExecutor
from parhelion.engine.points import FourierPoints
from parhelion.kernels import dispatch, portable, reference

PADDING = 2.0
POINTS = FourierPoints(box=16, max_shell=5)
H = 11


def hermitian_volume(seed: int) -> np.ndarray:
    """Random values with the symmetry of a real map's transform in the plane x = 0."""
    rng = np.random.default_rng(seed)
    shape = (2 * H + 1, 2 * H + 1, H + 1)
    volume = rng.normal(size=shape) + 1j * rng.normal(size=shape)
    volume[:, :, 0] = (volume[:, :, 0] + volume[::-1, ::-1, 0].conj()) / 2
    return volume.astype(np.complex64)


def rotations(count: int, seed: int = 0) -> np.ndarray:
    return Rotation.random(count, random_state=seed).as_matrix()


@pytest.fixture(params=["dispatch", "portable"])
def backend(request):
    return {"dispatch": dispatch, "portable": portable}[request.param]


def insert_with(backend, num, den, rot, values, weights):
    args = tuple(torch.from_numpy(x) for x in (rot, values, weights))
    if backend is portable:
        portable.insert(num, den, args[0], POINTS.kx, POINTS.ky, PADDING, args[1], args[2])
    else:
        dispatch.insert(num, den, POINTS.kx, POINTS.ky, PADDING, [args])


def test_extract_agrees_with_reference(backend):
    volume, rot = hermitian_volume(1), rotations(4)
    found = backend.extract(
        torch.from_numpy(volume), torch.from_numpy(rot), POINTS.kx, POINTS.ky, PADDING
    ).numpy()
    expected = reference.extract(volume, rot, POINTS.kx.numpy(), POINTS.ky.numpy(), PADDING)
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_insert_agrees_with_reference(backend):
    rng = np.random.default_rng(2)
    rot = rotations(3)
    k = len(POINTS)
    values = (rng.normal(size=(3, k)) + 1j * rng.normal(size=(3, k))).astype(np.complex64)
    weights = rng.random((3, k)).astype(np.float32)
    shape = (2 * H + 1, 2 * H + 1, H + 1)
    num, den = torch.zeros(shape, dtype=torch.complex64), torch.zeros(shape)
    insert_with(backend, num, den, rot, values, weights)
    num_ref, den_ref = np.zeros(shape, complex), np.zeros(shape)
    reference.insert(num_ref, den_ref, rot, POINTS.kx.numpy(), POINTS.ky.numpy(), PADDING, values, weights)
    np.testing.assert_allclose(num.numpy(), num_ref, atol=2e-5)
    np.testing.assert_allclose(den.numpy(), den_ref, atol=2e-5)


def test_insertion_is_the_adjoint_of_extraction(backend):
    """<extract V, d> = <V, insert d> over Hermitian volumes, to floating-point accuracy."""
    rng = np.random.default_rng(3)
    volume, rot = hermitian_volume(4), rotations(6)
    k = len(POINTS)
    d = (rng.normal(size=(6, k)) + 1j * rng.normal(size=(6, k))).astype(np.complex64)
    slices = backend.extract(
        torch.from_numpy(volume), torch.from_numpy(rot), POINTS.kx, POINTS.ky, PADDING
    ).numpy()
    num = torch.zeros(volume.shape, dtype=torch.complex64)
    insert_with(backend, num, torch.zeros(volume.shape), rot, d, np.ones((6, k), np.float32))
    left = np.vdot(d.astype(complex), slices.astype(complex)).real
    right = np.vdot(num.numpy().astype(complex), volume.astype(complex)).real
    assert left == pytest.approx(right, rel=1e-5, abs=1e-3)


def test_insertion_does_not_depend_on_the_number_of_workers():
    class Workers(SerialExecutor):
        workers = 3

    rng = np.random.default_rng(5)
    rot, k = rotations(5), len(POINTS)
    values = (rng.normal(size=(5, k)) + 1j * rng.normal(size=(5, k))).astype(np.complex64)
    weights = rng.random((5, k)).astype(np.float32)
    args = [tuple(torch.from_numpy(x) for x in (rot, values, weights))]
    shape = (2 * H + 1, 2 * H + 1, H + 1)
    results = []
    for executor in (SerialExecutor(), Workers()):
        num, den = torch.zeros(shape, dtype=torch.complex64), torch.zeros(shape)
        dispatch.insert(num, den, POINTS.kx, POINTS.ky, PADDING, args, executor)
        results.append((num, den))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_best_shift_agrees_with_reference(backend, precision):
    rng = np.random.default_rng(6)
    cross = torch.from_numpy(rng.normal(size=(3, 7, 40)).astype(np.float32)).to(precision)
    base = torch.from_numpy(rng.normal(size=(3, 7)).astype(np.float32))
    norm = torch.from_numpy(rng.random((3, 40)).astype(np.float32))
    best, which = backend.best_shift(cross, base, norm)
    expected, expected_which = reference.best_shift(cross.float().numpy(), base.numpy(), norm.numpy())
    np.testing.assert_allclose(best.numpy(), expected, atol=1e-5)
    np.testing.assert_array_equal(which.numpy(), expected_which)


def refinement_problem(views: int):
    """Noise-free data of a smooth volume at known poses, and starts 5° off."""
    rng = np.random.default_rng(7)
    box, n = 16, 4
    z, y, x = (np.mgrid[:box, :box, :box] - box // 2).astype(float)
    density = np.zeros((box,) * 3, np.float32)
    for centre in rng.uniform(-3.5, 3.5, (6, 3)):
        density += np.exp(-((z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2) / 2)
    from parhelion.engine.predict import fourier_volume

    volume = fourier_volume(torch.from_numpy(density), 5)
    tilts = Rotation.from_rotvec(
        np.outer(np.radians(np.linspace(-40, 40, views)) if views > 1 else [0.0], [0.0, 1.0, 0.0])
    ).as_matrix()
    true = rotations(n, seed=8)
    shift = rng.uniform(-0.03, 0.03, (n, 3)) * ([1, 1, 1] if views > 1 else [1, 1, 0])
    ctf = np.ones((n, views, len(POINTS)), np.float32)
    data = np.zeros((n, views, len(POINTS)), np.complex64)
    kx, ky = POINTS.kx.numpy(), POINTS.ky.numpy()
    for i in range(n):
        for v, tilt in enumerate(tilts):
            t = tilt @ shift[i]
            wave = np.exp(2j * np.pi * (kx * t[0] + ky * t[1]))
            data[i, v] = (
                wave * reference.extract(volume.data.numpy(), (tilt @ true[i])[None], kx, ky, PADDING)[0]
            )
    start = Rotation.from_rotvec(np.radians(rng.normal(size=(n, 3)) * 3)).as_matrix() @ true
    return volume, data, ctf, tilts, true, shift, start


@pytest.mark.parametrize("views", [1, 5])
def test_refinement_recovers_known_poses(backend, views):
    volume, data, ctf, tilts, true, shift, start = refinement_problem(views)
    n = len(data)
    rotation, found, chi2, _ = backend.refine_poses(
        volume.data,
        torch.from_numpy(start),
        torch.zeros((n, 3), dtype=torch.float64),
        torch.arange(n),
        torch.from_numpy(data),
        torch.from_numpy(ctf),
        torch.ones((n, views), dtype=torch.bool),
        torch.from_numpy(tilts),
        POINTS.kx,
        POINTS.ky,
        PADDING,
        torch.tensor([True] * 5 + [views > 1]),
        0.0,
        30,
        0.3,
        1e-9,
    )
    cosine = (np.einsum("nij,nij->n", rotation.numpy(), true) - 1) / 2
    assert np.degrees(np.arccos(cosine.clip(-1, 1))).max() < 0.2
    np.testing.assert_allclose(found.numpy(), shift, atol=2e-4)
    for i in range(n):
        plain = reference.chi2(
            volume.data.numpy(), rotation.numpy()[i], found.numpy()[i], data[i], ctf[i], tilts,
            POINTS.kx.numpy(), POINTS.ky.numpy(), PADDING,
        )  # fmt: skip
        assert chi2.numpy()[i] == pytest.approx(plain, rel=1e-3, abs=1e-6)


def test_average_over_operators_agrees_with_reference(backend):
    numerator = hermitian_volume(9)[5:18, 5:18, :7].copy()
    denominator = np.abs(hermitian_volume(10))[5:18, 5:18, :7].astype(np.float32).copy()
    operators = rotations(3)
    operators[0] = np.eye(3)
    found = backend.average_over_operators(
        torch.from_numpy(numerator), torch.from_numpy(denominator), torch.from_numpy(operators), 5.0
    )
    expected = reference.average_over_operators(numerator, denominator, operators, 5.0)
    np.testing.assert_allclose(found[0].numpy(), expected[0], atol=2e-5)
    np.testing.assert_allclose(found[1].numpy(), expected[1], atol=2e-5)
