"""Figures of merit per shell, and the file they go into."""

from pathlib import Path

import numpy as np
import pytest

from parhelion.algorithms.postprocess import statistics as st
from parhelion.errors import ParameterError
from parhelion.fourier.shells import fsc, shell_resolution
from parhelion.io.statistics import read_statistics, write_statistics

BOX, PIXEL = 32, 3.0


def test_the_fsc_of_the_particle_does_without_the_solvent() -> None:
    """Signal in a quarter of the box, noise everywhere: the corrected curve is that without the solvent."""
    rng = np.random.default_rng(0)
    signal = np.zeros((BOX,) * 3)
    signal[:, :, : BOX // 4] = rng.normal(size=(BOX, BOX, BOX // 4))
    halves = [signal + rng.normal(size=signal.shape) for _ in range(2)]
    whole = fsc(*halves)
    # power 1 of the signal in a quarter of the volume: SSNR 1/4 per half in the box, 1 in the particle
    assert whole[4:].mean() == pytest.approx(0.2, abs=0.02)
    part = st.particle_fsc(whole, 0.25)
    assert part[4:].mean() == pytest.approx(0.5, abs=0.03)


def test_ssnr_and_figure_of_merit() -> None:
    curve = np.array([1.0, 0.5, 0.143, -0.1])
    ssnr = st.ssnr_of_fsc(curve)
    np.testing.assert_allclose(ssnr[1:], [2.0, 2 * 0.143 / 0.857, 0.0])
    np.testing.assert_allclose(st.figure_of_merit(ssnr)[1:], [2 / 3, 2 * 0.143 / 1.143, 0.0])
    np.testing.assert_allclose(st.figure_of_merit(ssnr, 2.0)[1], 4 / 5)


def test_default_ssnr_grows_with_mass_and_falls_with_resolution() -> None:
    resolution = np.array([40.0, 20.0, 10.0, 5.0, 3.0])
    small, large = (st.default_ssnr(mass, resolution) for mass in (50.0, 500.0))
    assert (large > small).all() and (np.diff(small) < 0).all()
    # far beyond the particle's shape only exp(−25/d) is left
    assert large[-1] == pytest.approx(500**1.5 / 2200 * np.exp(-25 / 3), rel=1e-3)
    with pytest.raises(ParameterError, match="positive"):
        st.default_ssnr(0.0, resolution)


def test_smoothing_keeps_the_course_of_a_curve() -> None:
    rng = np.random.default_rng(1)
    truth = 1 / (1 + np.exp((np.arange(60) - 30) / 5))
    noisy = truth + rng.normal(0, 0.05, 60)
    assert np.abs(st.smoothed(noisy) - truth).mean() < 0.7 * np.abs(noisy - truth).mean()
    np.testing.assert_array_equal(st.smoothed(noisy[:5]), noisy[:5])


def test_statistics_come_back_from_their_file(tmp_path: Path) -> None:
    curve = np.linspace(1, -0.1, BOX // 2 + 1)
    found = st.shell_statistics(curve, shell_resolution(len(curve), BOX, PIXEL), 0.3)
    path = tmp_path / "statistics.txt"
    write_statistics(
        path,
        found.resolution_angstrom,
        found.fsc,
        found.part_fsc,
        found.part_ssnr,
        found.rec_ssnr,
        PIXEL,
    )
    assert path.read_text().split()[:4] == ["C", "SHELL", "RESOLUTION", "RING_RADIUS"]
    table = read_statistics(path)
    np.testing.assert_allclose(table.fsc, curve[1:], atol=1e-5)
    np.testing.assert_allclose(table.resolution_angstrom, found.resolution_angstrom[1:], atol=1e-3)
    assert table.part_ssnr is not None
    np.testing.assert_allclose(table.part_ssnr, found.part_ssnr[1:], rtol=1e-3, atol=1e-6)


def test_a_particle_larger_than_its_mask_is_refused() -> None:
    with pytest.raises(ParameterError, match="120 % of the mask"):
        st.particle_fsc(np.ones(4), 1.2)
