"""Batches: sign and unit of shifts, whitening, rows and limits."""

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from parhelion.engine.batch import ParticleBatch, phase_ramp
from parhelion.engine.loader import transform
from parhelion.engine.points import FourierPoints
from parhelion.fourier.resample import shift_images

BOX = 32
POINTS = FourierPoints(BOX, 14)


def image() -> torch.Tensor:
    y, x = np.mgrid[:BOX, :BOX] - BOX // 2
    data = np.exp(-((x - 2) ** 2 + (y + 3) ** 2) / 8) + 0.5 * np.exp(-((x + 4) ** 2 + y**2) / 6)
    return torch.from_numpy(data.astype(np.float32))[None]


def batch(valid: torch.Tensor) -> ParticleBatch:
    n, v = valid.shape
    rng = np.random.default_rng(1)
    data = rng.normal(size=(n, v, len(POINTS))) + 1j * rng.normal(size=(n, v, len(POINTS)))
    return ParticleBatch(
        index=torch.arange(n),
        data=torch.from_numpy(data.astype(np.complex64)),
        ctf=torch.ones((n, v, len(POINTS))),
        valid=valid,
        tilts=torch.eye(3, dtype=torch.float64).expand(v, 3, 3),
        noise_group=torch.zeros((n, v), dtype=torch.long),
    )


def test_the_image_shows_the_projection_moved_by_minus_the_shift() -> None:
    shift_pixels = np.array([3.0, -2.25, 0.0])
    moved = shift_images(image(), -shift_pixels[None, :2])
    ramp = phase_ramp(
        torch.from_numpy(shift_pixels[None] / BOX),
        torch.eye(3, dtype=torch.float64)[None],
        POINTS.kx,
        POINTS.ky,
    )[0]
    expected = transform(moved, POINTS)
    torch.testing.assert_close(transform(image(), POINTS) * ramp, expected, atol=2e-4, rtol=0)
    wrong = transform(image(), POINTS) * ramp.conj()
    assert (wrong - expected).abs().max() > 0.1


def test_shifted_undoes_the_shift() -> None:
    one = batch(torch.ones((2, 1), dtype=torch.bool))
    shift = torch.tensor([[0.05, -0.1, 0], [0.2, 0, 0]], dtype=torch.float64)
    ramp = phase_ramp(shift, one.tilts, POINTS.kx, POINTS.ky)
    away = one.with_data(one.data * ramp, one.ctf)
    torch.testing.assert_close(away.shifted(shift, POINTS.kx, POINTS.ky), one.data, atol=1e-5, rtol=0)


def test_a_tilted_view_moves_by_the_xy_of_the_turned_shift() -> None:
    tilt = Rotation.from_euler("y", 40, degrees=True).as_matrix()
    t = np.array([0.03, -0.02, 0.07])
    in_view = tilt @ t
    ramp = phase_ramp(torch.from_numpy(t[None]), torch.from_numpy(tilt[None]), POINTS.kx, POINTS.ky)
    angle = 2 * np.pi * (POINTS.kx.numpy() * in_view[0] + POINTS.ky.numpy() * in_view[1])
    np.testing.assert_allclose(ramp[0, 0].numpy(), np.exp(1j * angle), atol=1e-5)


def test_whitening_divides_by_the_groups_amplitude_and_drops_invalid_views() -> None:
    views = batch(torch.tensor([[True, False], [True, True]]))
    views.noise_group[1] = 1
    noise = torch.stack((torch.full((len(POINTS),), 4.0), torch.full((len(POINTS),), 0.25)))
    white = views.whitened(noise)
    torch.testing.assert_close(white.data[0, 0], views.data[0, 0] / 2)
    torch.testing.assert_close(white.ctf[1, 1], views.ctf[1, 1] * 2)
    assert not white.data[0, 1].any()
    assert not white.ctf[0, 1].any()


def test_rows_and_limits_cut_every_array() -> None:
    part = batch(torch.ones((5, 2), dtype=torch.bool)).rows(slice(1, 3)).limited(7)
    assert part.index.tolist() == [1, 2]
    assert part.data.shape == part.ctf.shape == (2, 2, 7)
    assert part.data.is_contiguous()
