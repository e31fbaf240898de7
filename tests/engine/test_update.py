"""Sums and the solve: a map comes back from its own slices; mates; symmetry."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from parhelion.engine.points import FourierPoints
from parhelion.engine.predict import fourier_volume
from parhelion.engine.update import MapSums, complete_mates, shell_means, shell_of_voxels, solve, symmetrise
from parhelion.fourier.shells import fsc, spectrum
from parhelion.geometry.symmetry import symmetry_group
from parhelion.images.masks import spherical_mask
from parhelion.kernels import dispatch

CPU = torch.device("cpu")


def slices_of(volume: np.ndarray, points: FourierPoints, rotation: np.ndarray):
    model = fourier_volume(torch.from_numpy(volume), points.max_shell)
    poses = torch.from_numpy(rotation)
    values = dispatch.extract(model.data, poses, points.kx, points.ky, model.padding)
    return poses, values, torch.ones(values.shape)


def rough(box: int) -> np.ndarray:
    """A map with signal at all frequencies inside a sphere."""
    rng = np.random.default_rng(6)
    return (rng.normal(size=(box,) * 3) * spherical_mask(box, 1.0, 0.25 * box, 3.0)).astype(np.float32)


@pytest.mark.parametrize("box", [32, 33])
def test_a_map_comes_back_from_its_own_slices(box) -> None:
    volume = rough(box)
    points = FourierPoints(box, box // 2 - 2)
    sums = MapSums.zeros(box, points.max_shell, CPU)
    sums.add([slices_of(volume, points, Rotation.random(1500, random_state=1).as_matrix())], points)
    found = solve(complete_mates(sums), torch.full((points.max_shell + 1,), 1e-4), points.max_shell).numpy()
    assert fsc(found, volume)[1 : points.max_shell].min() > 0.99
    assert spectrum(found)[1:10].sum() / spectrum(volume)[1:10].sum() == pytest.approx(1, abs=0.03)


def test_sums_are_additive() -> None:
    points = FourierPoints(16, 6)
    rng = np.random.default_rng(2)
    volume = rng.normal(size=(16, 16, 16)).astype(np.float32)
    parts = [slices_of(volume, points, Rotation.random(5, random_state=s).as_matrix()) for s in (1, 2)]
    together, first, second = (MapSums.zeros(16, 6, CPU) for _ in range(3))
    together.add(parts, points)
    first.add(parts[:1], points)
    second.add(parts[1:], points)
    torch.testing.assert_close(together.numerator, first.numerator + second.numerator, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(together.denominator, first.denominator + second.denominator)


def test_mates_make_the_plane_of_zero_x_hermitian() -> None:
    points = FourierPoints(16, 6)
    rng = np.random.default_rng(3)
    sums = MapSums.zeros(16, 6, CPU)
    values = torch.from_numpy(
        (rng.normal(size=(9, len(points))) + 1j * rng.normal(size=(9, len(points)))).astype(np.complex64)
    )
    poses = torch.from_numpy(Rotation.random(9, random_state=1).as_matrix())
    sums.add([(poses, values, torch.ones(values.shape))], points)
    before = sums.numerator.clone()
    whole = complete_mates(sums)
    plane = whole.numerator[:, :, 0]
    torch.testing.assert_close(plane, plane.flip(0, 1).conj())
    assert not torch.allclose(before[:, :, 0], before[:, :, 0].flip(0, 1).conj(), atol=1e-3)
    torch.testing.assert_close(sums.numerator, before)
    torch.testing.assert_close(whole.numerator[:, :, 1:], before[:, :, 1:])


@pytest.mark.parametrize("name", ["C4", "D2", "O"])
def test_symmetrising_equals_inserting_rotated_copies(name) -> None:
    """Operators that carry the grid into itself: interpolation is exact, the copies must agree."""
    points = FourierPoints(16, 6)
    operators = symmetry_group(name).operators
    rng = np.random.default_rng(4)
    values = torch.from_numpy(
        (rng.normal(size=(6, len(points))) + 1j * rng.normal(size=(6, len(points)))).astype(np.complex64)
    )
    rotation = Rotation.random(6, random_state=2).as_matrix()
    weights = torch.from_numpy(rng.random(values.shape).astype(np.float32))
    once, copies = MapSums.zeros(16, 6, CPU), MapSums.zeros(16, 6, CPU)
    once.add([(torch.from_numpy(rotation), values, weights)], points)
    copies.add([(torch.from_numpy(rotation @ g), values, weights) for g in operators], points)
    averaged = symmetrise(complete_mates(once), operators)
    explicit = complete_mates(copies)
    count = len(operators)
    assert averaged.copies == count
    within = shell_of_voxels(averaged) < points.max_shell
    torch.testing.assert_close(
        averaged.numerator[within] * count, explicit.numerator[within], atol=2e-4, rtol=1e-3
    )
    torch.testing.assert_close(
        averaged.denominator[within] * count, explicit.denominator[within], atol=2e-4, rtol=1e-3
    )


def test_a_symmetric_map_keeps_its_scale(kit) -> None:
    """Copies made by interpolation are corrected for their envelope: C3 does not preserve the grid."""
    volume = kit.blobs(symmetry="C3")
    points = FourierPoints(kit.BOX, 13)
    sums = MapSums.zeros(kit.BOX, 13, CPU)
    sums.add([slices_of(volume, points, Rotation.random(900, random_state=1).as_matrix())], points)
    whole = symmetrise(complete_mates(sums), symmetry_group("C3").operators)
    found = solve(whole, torch.full((14,), 1e-4), 13).numpy()
    inside = volume > 0.1
    assert np.polyfit(volume[inside], found[inside], 1)[0] == pytest.approx(1, abs=0.04)
    assert fsc(found, volume)[1:9].min() > 0.99


def test_the_prior_is_relative_to_its_shell(kit) -> None:
    """A prior as large as the shell's mean halves the map, whatever the weight of the images."""
    volume = kit.blobs()
    points = FourierPoints(kit.BOX, 10)
    rotation, values, weights = slices_of(volume, points, Rotation.random(1000, random_state=1).as_matrix())
    peaks = []
    for factor in (1.0, 50.0):
        sums = MapSums.zeros(kit.BOX, 10, CPU)
        sums.add([(rotation, values * factor, weights * factor)], points)
        whole = complete_mates(sums)
        means = shell_means(whole, shell_of_voxels(whole))
        assert (means[1:10] > 0).all()
        peaks.append(float(solve(whole, torch.ones(11), 10).max() / solve(whole, torch.zeros(11), 10).max()))
    assert peaks[0] == pytest.approx(peaks[1], rel=1e-3)
    assert 0.35 < peaks[0] < 0.65


def test_nothing_above_the_limit_survives(kit) -> None:
    volume = kit.blobs()
    points = FourierPoints(kit.BOX, 13)
    sums = MapSums.zeros(kit.BOX, 13, CPU)
    sums.add([slices_of(volume, points, Rotation.random(500, random_state=1).as_matrix())], points)
    whole = complete_mates(sums)
    found = solve(whole, torch.full((14,), 1e-4), 5.0, soft_shells=1.0)
    power = torch.fft.fftn(found).abs()
    k = torch.fft.fftfreq(kit.BOX) * kit.BOX
    radius = (k[:, None, None] ** 2 + k[None, :, None] ** 2 + k**2).sqrt()
    assert power[radius > 8].max() < 0.02 * power[radius < 3].max()


def test_empty_sums_give_an_empty_map() -> None:
    assert not solve(complete_mates(MapSums.zeros(16, 6, CPU)), torch.ones(7), 6).any()
