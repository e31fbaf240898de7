"""Planar references: turned transforms against analytic images, adjoint insertion, and the way back."""

import numpy as np
import pytest
import torch

from parhelion.engine.loader import transform
from parhelion.engine.planar import (
    PlanarSums,
    exact_padding,
    planar_grid,
    planar_solve,
    planar_transform,
    turned,
)
from parhelion.engine.points import FourierPoints
from parhelion.geometry.rotations import from_relion

SHELL = 12


def spots(box: int, psi_deg: float = 0.0, shift: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """An image of three Gaussians as it looks at the in-plane angle psi: ``V(Aᵀ(x + shift))``."""
    y, x = np.indices((box, box)) - box // 2
    A = from_relion([0.0], [0.0], [psi_deg])[0]
    seen = np.stack([x + shift[0], y + shift[1], np.zeros_like(x)], -1) @ A  # Aᵀ x for row vectors
    image = np.zeros((box, box))
    for cx, cy, height in ((4, -2, 1.0), (-3, 5, 0.6), (-4, -4, 0.4)):
        image += height * np.exp(-((seen[..., 0] - cx) ** 2 + (seen[..., 1] - cy) ** 2) / 8)
    return image.astype(np.float32)


@pytest.mark.parametrize("box", [32, 33])
@pytest.mark.parametrize("psi", [0.0, 33.0, 118.0])
def test_a_turned_transform_is_that_of_the_turned_image(box, psi) -> None:
    points = FourierPoints(box, SHELL)
    padding = exact_padding(box)
    wanted = transform(torch.from_numpy(spots(box, psi)[None]), points)[0]
    reference = planar_transform(torch.from_numpy(spots(box)[None]), SHELL, padding)
    grid = planar_grid(torch.tensor([psi, psi + 180]), points, len(points), padding)
    here, opposite = turned(reference, grid)[0]
    assert (here - wanted).abs().max() < 0.03 * wanted.abs().max()
    torch.testing.assert_close(opposite, here.conj(), atol=1e-4, rtol=0)


def test_insertion_is_the_adjoint_of_turning() -> None:
    box = 24
    points = FourierPoints(box, SHELL - 2)
    torch.manual_seed(1)
    grid = planar_grid(torch.tensor([10.0, 75.0, 200.0]), points, len(points), exact_padding(box))
    sums = PlanarSums.zeros(3, box, SHELL - 2, torch.device("cpu"))
    reference = torch.randn(len(sums.sums), 2, dtype=torch.complex64)
    values = torch.randn(2, 3, len(points), dtype=torch.complex64)
    sums.insert(1, values, torch.ones(2, 3, len(points)), grid)
    taken = (turned(reference, grid) * values.conj()).real.sum()
    inserted = sums.sums[:, 1:]
    given = (reference.real * inserted[..., 0] + reference.imag * inserted[..., 1]).sum()
    torch.testing.assert_close(taken, given, rtol=1e-4, atol=1e-3)
    assert sums.sums[:, 0].abs().max() == 0


def test_an_average_of_turned_images_is_the_image_and_its_denominator_counts_them() -> None:
    box = 32
    points = FourierPoints(box, SHELL)
    angles = torch.arange(0, 180, 9, dtype=torch.float64) + 2
    grid = planar_grid(angles, points, len(points), exact_padding(box))
    images = torch.from_numpy(np.stack([spots(box, float(psi)) for psi in angles]))
    sums = PlanarSums.zeros(1, box, SHELL, torch.device("cpu"))
    sums.insert(0, transform(images, points)[None], torch.ones(1, len(angles), len(points)), grid)
    numerator, denominator = sums.completed()
    found = planar_solve(
        numerator, denominator, torch.zeros(1, SHELL + 1), (0, SHELL), box, SHELL, sums.padding
    )[0].numpy()
    truth = spots(box)
    inside = np.hypot(*(np.indices((box, box)) - box // 2)) < 12
    assert np.corrcoef(found[inside], truth[inside])[0, 1] > 0.999
    spread = (found - found.mean())[inside].std() / (truth - truth.mean())[inside].std()
    assert spread == pytest.approx(1, abs=0.02)
    middle = denominator[0, denominator.shape[1] // 2, 8:16]
    np.testing.assert_allclose(middle.mean(), len(angles), rtol=0.05)


def test_frequencies_outside_the_band_are_left_out() -> None:
    box = 32
    points = FourierPoints(box, SHELL)
    grid = planar_grid(torch.tensor([0.0]), points, len(points), exact_padding(box))
    sums = PlanarSums.zeros(1, box, SHELL, torch.device("cpu"))
    data = torch.randn(1, 1, len(points), dtype=torch.complex64)
    sums.insert(0, data, torch.ones(1, 1, len(points)), grid)
    args = (*sums.completed(), torch.zeros(1, SHELL + 1))
    whole = planar_solve(*args, (0, SHELL), box, SHELL, sums.padding)
    band = planar_solve(*args, (4, 8), box, SHELL, sums.padding)

    def power(image: torch.Tensor, low: float, high: float) -> float:
        rings = (points.radius >= low) & (points.radius <= high)
        return float(transform(image, points)[0, rings].abs().square().mean())

    assert power(band, 1, 3) < 0.05 * power(whole, 1, 3)
    assert power(band, 11, 12) < 0.05 * power(whole, 11, 12)
    assert power(band, 5.5, 7.5) == pytest.approx(power(whole, 5.5, 7.5), rel=0.2)
