"""Fits of spectra with known CTFs."""

from collections.abc import Callable

import numpy as np
import pytest

from parhelion.algorithms.ctf_fit.fit import fit_ctf
from parhelion.algorithms.ctf_fit.flatten import annulus, iciness
from parhelion.algorithms.ctf_fit.settings import CtfFit, FitSettings, Optics
from parhelion.algorithms.ctf_fit.spectrum import Spectrum, spectrum_of_image
from parhelion.errors import ParameterError

Make = Callable[..., Spectrum]


def angle_error(found: float, wanted: float) -> float:
    return abs((found - wanted + 90.0) % 180.0 - 90.0)


def settings(**changes: object) -> FitSettings:
    return FitSettings(**changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("defocus", "astigmatism", "angle"),
    [
        (5500.0, 200.0, 10.0),
        (9000.0, 0.0, 0.0),
        (12000.0, 600.0, 30.0),
        (12000.0, 600.0, 150.0),
        (25000.0, 1200.0, 75.0),
        (48000.0, 300.0, 120.0),
    ],
)
def test_defocus_and_astigmatism_are_found(
    defocus: float, astigmatism: float, angle: float, spectrum: Make, truth: type, optics: Optics
) -> None:
    made = spectrum(truth(defocus=defocus, astigmatism=astigmatism, angle=angle))
    found = fit_ctf(made, optics, settings())
    assert found.confident
    assert found.defocus_angstrom == pytest.approx(defocus, abs=20)
    assert found.astigmatism_angstrom == pytest.approx(astigmatism, abs=40)
    if astigmatism:
        # from columns towards rows: 30° is not 150°
        assert angle_error(found.defocus_angle_deg, angle) < 3


@pytest.mark.parametrize("shift", [25.0, 90.0, 150.0])
def test_phase_shift_is_found(shift: float, spectrum: Make, truth: type, optics: Optics) -> None:
    made = spectrum(truth(defocus=11000.0, phase_shift=shift))
    found = fit_ctf(made, optics, settings(phase_shift_range_deg=(0.0, 180.0)))
    assert found.phase_shift_deg == pytest.approx(shift, abs=4)
    assert found.defocus_angstrom == pytest.approx(11000.0, abs=60)
    fixed = fit_ctf(made, optics, settings(phase_shift_range_deg=(shift, shift)))
    assert fixed.phase_shift_deg == pytest.approx(shift, abs=1e-6)
    assert fixed.defocus_angstrom == pytest.approx(11000.0, abs=20)


def test_a_micrograph_of_filtered_noise(
    micrograph: Callable[..., np.ndarray], truth: type, optics: Optics
) -> None:
    image = micrograph(truth(defocus=17000.0, astigmatism=500.0, angle=60.0, signal=1.5))
    found = fit_ctf(spectrum_of_image(image, 1.5), optics, settings())
    assert found.confident
    assert found.defocus_angstrom == pytest.approx(17000.0, abs=50)
    assert found.astigmatism_angstrom == pytest.approx(500.0, abs=100)


@pytest.mark.parametrize("seed", range(4))
def test_noise_is_not_believed(seed: int, spectrum: Make, truth: type, optics: Optics) -> None:
    assert not fit_ctf(spectrum(truth(signal=0.0), seed=seed), optics, settings()).confident


def test_a_fit_at_the_end_of_the_range_is_not_believed(spectrum: Make, truth: type, optics: Optics) -> None:
    made = spectrum(truth(defocus=9000.0))
    assert not fit_ctf(made, optics, settings(defocus_range_angstrom=(12000.0, 50000.0))).confident


def test_a_low_start_of_the_search_does_not_tempt(spectrum: Make, truth: type, optics: Optics) -> None:
    made = spectrum(truth(defocus=12000.0, signal=0.1))
    found = fit_ctf(made, optics, settings(defocus_range_angstrom=(300.0, 50000.0)))
    assert found.defocus_angstrom == pytest.approx(12000.0, abs=60)


def test_restraint_and_known_astigmatism(spectrum: Make, truth: type, optics: Optics) -> None:
    made = spectrum(truth(defocus=12000.0, astigmatism=500.0, angle=40.0, signal=0.1))
    free = fit_ctf(made, optics, settings()).astigmatism_angstrom
    held = fit_ctf(made, optics, settings(astigmatism_tolerance_angstrom=20.0)).astigmatism_angstrom
    assert held < 0.5 * free
    known = fit_ctf(made, optics, settings(known_astigmatism=(500.0, 40.0)))
    assert known.astigmatism_angstrom == pytest.approx(500.0)
    assert known.defocus_angle_deg == pytest.approx(40.0)
    assert known.defocus_angstrom == pytest.approx(12000.0, abs=30)


def test_exhaustive_search_finds_what_the_fast_one_misses(
    spectrum: Make, truth: type, optics: Optics
) -> None:
    made = spectrum(truth(defocus=20000.0, astigmatism=6000.0, angle=110.0, signal=0.2))
    assert abs(fit_ctf(made, optics, settings()).astigmatism_angstrom - 6000) > 1000
    found = fit_ctf(made, optics, settings(exhaustive=True))
    assert found.defocus_angstrom == pytest.approx(20000.0, abs=60)
    assert found.astigmatism_angstrom == pytest.approx(6000.0, abs=120)


def test_ice_rings_are_left_out(spectrum: Make, truth: type, optics: Optics) -> None:
    icy = spectrum(truth(signal=0.15, ice=3.0))
    found = fit_ctf(icy, optics, settings(max_resolution_angstrom=3.2))
    assert found.defocus_angstrom == pytest.approx(15000.0, abs=30)
    assert found.iciness is not None and found.iciness > 1.3
    clear = iciness(spectrum(truth(signal=0.15)))
    assert clear is not None and clear < 1.1
    ring = annulus(icy, settings(max_resolution_angstrom=3.2))
    assert not ((ring.s > 1 / 3.74) & (ring.s < 1 / 3.61)).any()


def test_a_streak_does_not_lead_astray(spectrum: Make, truth: type, optics: Optics) -> None:
    made = spectrum(truth(signal=0.15))
    made.amplitude[200:203, :] *= 20.0
    found = fit_ctf(made, optics, settings())
    assert found.defocus_angstrom == pytest.approx(15000.0, abs=60)


def test_fit_resolution_is_where_the_rings_end(spectrum: Make, truth: type, optics: Optics) -> None:
    def reach(cut: float) -> CtfFit:
        return fit_ctf(spectrum(truth(cut=cut), noise=0.03), optics, settings())

    assert reach(8.0).fit_resolution_angstrom == pytest.approx(8.0, abs=1.0)
    assert reach(6.0).fit_resolution_angstrom == pytest.approx(6.0, abs=0.7)


@pytest.mark.parametrize("thickness", [700.0, 1500.0])
def test_thickness_is_seen_at_its_nodes(
    thickness: float, spectrum: Make, truth: type, optics: Optics
) -> None:
    made = spectrum(truth(thickness=thickness, signal=1.0, bfactor=30.0), noise=0.03)
    found = fit_ctf(made, optics, settings(thickness=True))
    assert found.thickness_angstrom == pytest.approx(thickness, rel=0.1)
    assert found.fit_resolution_angstrom < 0.8 * fit_ctf(made, optics, settings()).fit_resolution_angstrom


@pytest.mark.parametrize("signal", [0.3, 1.0])
def test_thin_ice_has_no_thickness(signal: float, spectrum: Make, truth: type, optics: Optics) -> None:
    made = spectrum(truth(signal=signal, bfactor=50.0))
    assert fit_ctf(made, optics, settings(thickness=True)).thickness_angstrom is None


def test_aliasing_is_where_zeros_come_within_two_pixels(spectrum: Make, truth: type, optics: Optics) -> None:
    found = fit_ctf(spectrum(truth(defocus=40000.0), size=256), optics, settings())
    assert found.alias_resolution_angstrom is not None
    # zeros are 1/(2 λ Δf s) apart
    s = 1 / found.alias_resolution_angstrom
    spacing = 1 / (2 * 0.0196875 * found.defocus_angstrom * s)
    assert spacing == pytest.approx(2 / (256 * 1.4), rel=0.1)
    assert fit_ctf(spectrum(truth(defocus=8000.0)), optics, settings()).alias_resolution_angstrom is None


def test_ranges_that_cannot_be(spectrum: Make, truth: type, optics: Optics) -> None:
    with pytest.raises(ParameterError, match="at least 20 are needed"):
        fit_ctf(
            spectrum(truth(), size=128),
            optics,
            settings(min_resolution_angstrom=8.0, max_resolution_angstrom=7.0),
        )
    with pytest.raises(ParameterError, match="from a larger to a smaller"):
        settings(min_resolution_angstrom=5.0, max_resolution_angstrom=8.0)
    with pytest.raises(ParameterError, match="range from low to high"):
        settings(defocus_range_angstrom=(9000.0, 8000.0))
    with pytest.raises(ParameterError, match="phase shift"):
        settings(phase_shift_range_deg=(90.0, 0.0))
