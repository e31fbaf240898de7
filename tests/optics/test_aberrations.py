"""Beam tilt, Zernike terms and magnification, with the signs that RELION gives them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from parhelion.errors import MetadataError
from parhelion.model.particles import OpticsGroup
from parhelion.optics.aberrations import (
    antisymmetric_phase,
    apply_magnification,
    even_phase,
    zernike_indices,
    zernike_polynomial,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "ctf" / "relion_demodulated_phase.npz"
TILT = (1.5, -0.7)
SETTINGS = {
    "tilt": {"beam_tilt_xy_mrad": TILT},
    "oddz": {"odd_zernike": (2, -3, 4, 5, -6, 35)},
    "both": {"beam_tilt_xy_mrad": TILT, "odd_zernike": (2, -3, 4, 0, 0, 35)},
    # the image lands at the magnified frequencies, so that the plane shows the phases without the matrix
    "magtilt": {"beam_tilt_xy_mrad": TILT, "odd_zernike": (2, -3, 4, 0, 0, 35)},
}


def group(**values: object) -> OpticsGroup:
    return OpticsGroup(
        name="g", pixel_size_angstrom=2.0, voltage_kv=300.0, spherical_aberration_mm=2.7,
        amplitude_contrast=0.1, **values,
    )  # fmt: skip


@pytest.mark.parametrize("name", list(SETTINGS))
def test_relion_demodulates_the_same_phase(name: str) -> None:
    golden = np.load(GOLDEN)
    kx, ky = torch.from_numpy(golden["kx"]), torch.from_numpy(golden["ky"])
    phase = antisymmetric_phase(kx, ky, group(**SETTINGS[name])).numpy()
    left = np.angle(np.exp(1j * (phase + golden[name])))
    # RELION's interpolation between voxels blurs the steepest phases a little
    assert np.sqrt((left**2).mean()) < 0.04
    assert np.sqrt((phase**2).mean()) > 0.15


def test_beam_tilt_formula_and_antisymmetry() -> None:
    kx, ky = torch.tensor([0.2, -0.1], dtype=torch.float64), torch.tensor([0.0, 0.15], dtype=torch.float64)
    phase = antisymmetric_phase(kx, ky, group(beam_tilt_xy_mrad=TILT))
    # -2π Cs λ² s² τ·k at (0.2, 0)
    assert float(phase[0]) == pytest.approx(-2 * np.pi * 2.7e7 * 0.0196875**2 * 0.04 * 1.5e-3 * 0.2, rel=1e-5)
    torch.testing.assert_close(antisymmetric_phase(-kx, -ky, group(beam_tilt_xy_mrad=TILT)), -phase)
    assert antisymmetric_phase(kx, ky, group()).abs().max() == 0.0


def test_phase_is_evaluated_at_the_magnified_frequencies() -> None:
    kx, ky = torch.tensor([0.1, 0.05]), torch.tensor([-0.02, 0.1])
    matrix = (1.03, 0.02, -0.01, 0.97)
    with_matrix = antisymmetric_phase(kx, ky, group(beam_tilt_xy_mrad=TILT, magnification=matrix))
    moved = apply_magnification(kx.double(), ky.double(), matrix)
    torch.testing.assert_close(with_matrix, antisymmetric_phase(*moved, group(beam_tilt_xy_mrad=TILT)))
    assert float(moved[0][0]) == pytest.approx(1.03 * 0.1 + 0.02 * -0.02)
    assert float(moved[1][0]) == pytest.approx(-0.01 * 0.1 + 0.97 * -0.02)


def test_singular_magnification_is_refused() -> None:
    with pytest.raises(MetadataError, match="singular"):
        apply_magnification(torch.zeros(1), torch.zeros(1), (1.0, 1.0, 1.0, 1.0))


def test_zernike_order_is_relions() -> None:
    assert [zernike_indices(i, odd=True) for i in range(6)] == [
        (-1, 1),
        (1, 1),
        (-3, 3),
        (-1, 3),
        (1, 3),
        (3, 3),
    ]
    assert [zernike_indices(i, odd=False) for i in range(5)] == [(0, 0), (-2, 2), (0, 2), (2, 2), (-4, 4)]


@pytest.mark.parametrize(
    ("m", "n", "polynomial"),
    [
        (0, 0, lambda r, p: 1.0 + 0 * r),
        (1, 1, lambda r, p: r * np.cos(p)),
        (-2, 2, lambda r, p: r**2 * np.sin(2 * p)),
        (0, 2, lambda r, p: 2 * r**2 - 1),
        (-1, 3, lambda r, p: (3 * r**3 - 2 * r) * np.sin(p)),
        (3, 3, lambda r, p: r**3 * np.cos(3 * p)),
        (0, 4, lambda r, p: 6 * r**4 - 6 * r**2 + 1),
        (2, 4, lambda r, p: (4 * r**4 - 3 * r**2) * np.cos(2 * p)),
    ],
)
def test_zernike_polynomials(m: int, n: int, polynomial) -> None:
    radius, angle = np.linspace(0, 1, 9), np.linspace(-3, 3, 9)
    x, y = torch.from_numpy(radius * np.cos(angle)), torch.from_numpy(radius * np.sin(angle))
    np.testing.assert_allclose(zernike_polynomial(m, n, x, y).numpy(), polynomial(radius, angle), atol=1e-12)


def test_even_phase_is_even() -> None:
    kx, ky = torch.tensor([0.1, 0.2]), torch.tensor([0.3, -0.1])
    terms = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
    torch.testing.assert_close(even_phase(kx, ky, terms), even_phase(-kx, -ky, terms))
    assert even_phase(kx, ky, ()).tolist() == [0.0, 0.0]
