"""Quadratic forms of defocus and what a magnification matrix does to them."""

import numpy as np
import pytest
import torch

from parhelion.optics.aberrations import apply_magnification
from parhelion.optics.astigmatism import defoci, quadratic_form, seen_through
from parhelion.optics.ctf import ctf

U, V, ANGLE = np.array([12000.0, 15000.0]), np.array([11000.0, 14800.0]), np.array([20.0, 130.0])
MATRIX = (1.02, 0.004, -0.003, 0.985)


def waves(kx, ky, u, v, angle):
    zero = torch.zeros(len(u), dtype=torch.float64)
    columns = (torch.from_numpy(np.asarray(c)) for c in (u, v, angle))
    return ctf(
        kx, ky, *columns, zero, zero, zero + 1,
        voltage_kv=300.0, spherical_aberration_mm=0.0, amplitude_contrast=0.1,
    )  # fmt: skip


def test_forms_come_back_as_defoci() -> None:
    for found, given in zip(defoci(quadratic_form(U, V, ANGLE)), (U, V, ANGLE)):
        np.testing.assert_allclose(found, given)


def test_u_is_the_larger_and_the_angle_follows() -> None:
    u, v, angle = defoci(quadratic_form(V, U, ANGLE))
    np.testing.assert_allclose(u, U)
    np.testing.assert_allclose(v, V)
    np.testing.assert_allclose(angle, (ANGLE + 90) % 180)


def test_a_stretched_image_shows_the_same_rings() -> None:
    """The CTF at M k of the true defoci is the CTF at k of the defoci seen through M."""
    rng = np.random.default_rng(1)
    kx, ky = torch.from_numpy(rng.uniform(-0.25, 0.25, (2, 400)))
    true = waves(*apply_magnification(kx, ky, MATRIX), U, V, ANGLE)
    seen = waves(kx, ky, *defoci(seen_through(quadratic_form(U, V, ANGLE), MATRIX)))
    torch.testing.assert_close(true, seen, atol=2e-4, rtol=0)
    assert (true - waves(kx, ky, U, V, ANGLE)).abs().max() > 0.5


def test_the_inverse_goes_back() -> None:
    form = quadratic_form(U, V, ANGLE)
    inverse = np.linalg.inv(np.reshape(MATRIX, (2, 2))).ravel().tolist()
    assert seen_through(seen_through(form, MATRIX), inverse) == pytest.approx(form)
