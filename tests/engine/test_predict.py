"""A slice of the Fourier volume is the unitary transform of the projection."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from parhelion.algorithms.simulate.project import Projector
from parhelion.engine.loader import transform
from parhelion.engine.points import FourierPoints
from parhelion.engine.predict import crop_half, divide_envelope, fourier_volume, half_size, uncrop_half
from parhelion.kernels import dispatch


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().square().sum().sqrt() / expected.abs().square().sum().sqrt())


@pytest.mark.parametrize("box", [32, 24])
def test_slices_along_the_axes_equal_sums_along_the_axes(kit, box) -> None:
    volume = kit.blobs(box)
    points = FourierPoints(box, box // 2 - 2)
    model = fourier_volume(torch.from_numpy(volume), points.max_shell)
    # x_image = A x_volume: the first image looks along z, the second shows (y, z), the third (z, x)
    # at these poses slices hit the samples, where nothing makes up for the envelope of interpolation
    volume = divide_envelope(torch.from_numpy(volume)).numpy()
    poses = np.stack([np.eye(3), [[0, 1, 0], [0, 0, 1], [1, 0, 0]], [[0, 0, 1], [1, 0, 0], [0, 1, 0]]])
    pictures = np.stack([volume.sum(0), volume.sum(2), volume.sum(1).T])
    found = dispatch.extract(model.data, torch.from_numpy(poses), points.kx, points.ky, model.padding)
    expected = transform(torch.from_numpy(pictures), points)
    for number in range(3):
        assert relative_error(found[number], expected[number]) < 1e-5


@pytest.mark.parametrize("padding", [1.0, 67 / 33, 2.0, 2.5, 3.0, 4.0])
@pytest.mark.parametrize("max_shell", [1, 2, 13, 40, 111, 1000])
def test_the_volume_goes_one_sample_beyond_every_point(padding, max_shell) -> None:
    farthest = np.float32(FourierPoints(2 * max_shell + 2, max_shell).radius[-1] * padding)
    h = half_size(max_shell, padding)
    assert int(np.float32(h) + farthest) + 1 <= 2 * h
    assert h <= (max_shell + 0.5) * padding + 1.01


@pytest.mark.parametrize(("padding", "most"), [(2.0, 0.02), (3.0, 0.01)])
def test_slices_in_any_direction_equal_exact_projections(kit, padding, most) -> None:
    volume = kit.blobs()
    points = FourierPoints(kit.BOX, 13)
    model = fourier_volume(torch.from_numpy(volume), points.max_shell, padding)
    rotation = Rotation.random(20, random_state=4).as_matrix()
    pictures = Projector(volume).images(rotation, kit.BOX)
    found = dispatch.extract(model.data, torch.from_numpy(rotation), points.kx, points.ky, model.padding)
    expected = transform(torch.as_tensor(pictures), points)
    assert relative_error(found, expected) < most
    scale = float((found * expected.conj()).real.sum() / expected.abs().square().sum())
    assert scale == pytest.approx(1, abs=0.002)


def test_white_images_have_power_one_per_point() -> None:
    noise = torch.from_numpy(np.random.default_rng(1).normal(size=(200, 32, 32)).astype(np.float32))
    power = transform(noise, FourierPoints(32, 14)).abs().square().mean()
    assert float(power) == pytest.approx(1, rel=0.01)


@pytest.mark.parametrize(("n", "h"), [(16, 5), (17, 5), (16, 11)])
def test_crop_and_uncrop_keep_low_frequencies(n, h) -> None:
    full = torch.fft.rfftn(torch.from_numpy(np.random.default_rng(2).normal(size=(n, n, n))))
    small = crop_half(full, h)
    assert small.shape == (2 * h + 1, 2 * h + 1, h + 1)
    assert small[h, h, 0] == full[0, 0, 0]
    assert small[h - 2, h + 1, 3] == full[-2, 1, 3]
    again = crop_half(uncrop_half(small, n), h)
    torch.testing.assert_close(again, small)


def test_an_odd_box_holds_every_point_of_its_last_shell():
    """An odd box is padded by more than two; the cropped volume must reach as far as its points do."""
    from parhelion.engine.predict import fourier_volume, half_size, padded_box

    box, shell = 201, 98
    padding = padded_box(box) / box
    assert padding > 2
    assert half_size(shell, padding) > shell * padding + 1 - 1e-9
    small = fourier_volume(torch.zeros((21, 21, 21)), 8)
    assert small.data.shape[-1] - 1 >= 8 * small.padding + 1 - 1e-9
