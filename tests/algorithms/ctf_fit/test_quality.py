"""Averages along equal phase, and the diagnostic picture."""

from collections.abc import Callable

import numpy as np
import pytest

from parhelion.algorithms.ctf_fit.fit import best_fit, fit_ctf
from parhelion.algorithms.ctf_fit.phases import sine_and_cosine
from parhelion.algorithms.ctf_fit.picture import LIMIT, diagnostic_picture
from parhelion.algorithms.ctf_fit.quality import equal_phase_radius
from parhelion.algorithms.ctf_fit.settings import FitSettings, Optics
from parhelion.algorithms.ctf_fit.spectrum import Spectrum

Make = Callable[..., Spectrum]


def test_equal_phase_radius_has_the_phase(spectrum: Make, truth: type, optics: Optics) -> None:
    found = best_fit(spectrum(truth(astigmatism=1500.0)), optics, FitSettings()).fit
    rng = np.random.default_rng(0)
    kx, ky = rng.uniform(0.02, 0.2, (2, 500))
    same = equal_phase_radius(kx, ky, found, optics)
    phase = np.array([found.phase_shift_deg])
    here, _ = sine_and_cosine(
        kx, ky, np.array([found.defocus]), np.array([found.astigmatism]), phase, optics, cosine=False
    )
    there, _ = sine_and_cosine(
        same, np.zeros_like(same), np.array([found.defocus]), np.zeros((1, 2)), phase, optics, cosine=False
    )
    assert np.abs(here - there).max() < 1e-3


def test_curves_show_the_rings_that_astigmatism_hides(spectrum: Make, truth: type, optics: Optics) -> None:
    made = spectrum(truth(defocus=20000.0, astigmatism=1500.0), noise=0.02)
    found = fit_ctf(made, optics, FitSettings())
    curves = found.curves
    band = (curves.frequency_per_angstrom > 0.1) & (curves.frequency_per_angstrom < 0.2)
    assert np.corrcoef(curves.experiment[band], curves.fit[band])[0, 1] > 0.9
    plain = curves.average[band] - np.poly1d(np.polyfit(np.arange(band.sum()), curves.average[band], 3))(
        np.arange(band.sum())
    )
    assert np.corrcoef(plain, curves.fit[band])[0, 1] < 0.6
    assert {len(c) for c in curves.__dict__.values()} == {256}
    assert curves.quality[band].min() > 0.8
    assert 0 < curves.noise.min() < curves.noise.max() < 1


def test_noise_has_the_stated_correlation(spectrum: Make, truth: type, optics: Optics) -> None:
    inside = []
    for seed in range(5):
        curves = fit_ctf(spectrum(truth(cut=12.0), seed=seed), optics, FitSettings()).curves
        beyond = curves.frequency_per_angstrom > 1 / 7
        inside.append((np.abs(curves.quality) < curves.noise)[beyond].mean())
    assert np.mean(inside) > 0.85


def test_picture_shows_model_and_spectrum(spectrum: Make, truth: type, optics: Optics) -> None:
    made = spectrum(truth(defocus=9000.0, astigmatism=800.0, angle=20.0), noise=0.02)
    found = fit_ctf(made, optics, FitSettings())
    picture = diagnostic_picture(made, found, optics)
    assert picture.shape == (512, 512) and picture.dtype == np.float32
    assert np.isfinite(picture).all() and np.abs(picture).max() <= LIMIT
    y, x = np.indices(picture.shape) - 256
    radius = np.hypot(y, x)
    wanted = (y > 1) & (x > 1) & (radius > 40) & (radius < 110)
    # the mate of the upper right pixel (y, x) is (-y, -x), in the model's quadrant
    measured, model = picture[256 + y[wanted], 256 + x[wanted]], picture[256 - y[wanted], 256 - x[wanted]]
    assert np.corrcoef(measured, model)[0, 1] > 0.85
    below = picture[256 - 110 : 255, 258 : 256 + 110]
    assert 0.005 < (below == LIMIT).mean() < 0.2


def test_iciness_needs_resolution(spectrum: Make, truth: type, optics: Optics) -> None:
    coarse = fit_ctf(spectrum(truth(), size=256, pixel=2.2), optics, FitSettings())
    assert coarse.iciness is None
    assert fit_ctf(spectrum(truth()), optics, FitSettings()).iciness == pytest.approx(1.0, abs=0.05)
