"""Planes of defocus through simulated tilted micrographs."""

from collections.abc import Callable

import numpy as np
import pytest

from parhelion.algorithms.ctf_fit.fit import fit_ctf
from parhelion.algorithms.ctf_fit.local import defocus_plane
from parhelion.algorithms.ctf_fit.settings import FitSettings, Optics
from parhelion.algorithms.ctf_fit.spectrum import spectrum_of_image

PIXEL = 1.5


@pytest.mark.parametrize("slope", [(0.6, 0.0), (0.0, -0.6), (0.4, 0.5)])
def test_slope_and_axis_are_found(
    slope: tuple[float, float], micrograph: Callable[..., np.ndarray], truth: type, optics: Optics
) -> None:
    image = micrograph(truth(signal=2.0), slope=slope, seed=1)
    fit = fit_ctf(spectrum_of_image(image, PIXEL), optics, FitSettings())
    plane = defocus_plane(image, PIXEL, fit, optics, FitSettings())
    assert plane.believed
    # slopes are in Å per pixel, along columns and rows
    assert plane.slope_x / PIXEL == pytest.approx(slope[0], abs=0.1)
    assert plane.slope_y / PIXEL == pytest.approx(slope[1], abs=0.1)
    assert plane.defocus_angstrom == pytest.approx(15000.0, abs=80)
    assert plane.tilt_deg == pytest.approx(np.rad2deg(np.arctan(np.hypot(*slope))), abs=5)
    across = np.rad2deg(np.arctan2(slope[1], slope[0])) + 90
    assert abs((plane.axis_deg - across + 90) % 180 - 90) < 8


def test_a_level_micrograph_has_no_slope(
    micrograph: Callable[..., np.ndarray], truth: type, optics: Optics
) -> None:
    image = micrograph(truth(signal=2.0), seed=2)
    fit = fit_ctf(spectrum_of_image(image, PIXEL), optics, FitSettings())
    plane = defocus_plane(image, PIXEL, fit, optics, FitSettings())
    assert not plane.believed
    assert (plane.slope_x, plane.slope_y) == (0.0, 0.0)
    assert plane.defocus_angstrom == fit.defocus_angstrom
