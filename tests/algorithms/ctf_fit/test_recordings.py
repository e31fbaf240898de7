"""Real recordings: published fits of CTFFIND4, and micrographs that are hard."""

import csv
from pathlib import Path

import numpy as np
import pytest

from parhelion.algorithms.ctf_fit.fit import fit_ctf
from parhelion.algorithms.ctf_fit.settings import FitSettings, Optics
from parhelion.algorithms.ctf_fit.spectrum import given_spectrum, spectrum_of_image
from parhelion.io.mrc import open_stack

KRIOS = Optics(voltage_kv=300.0, spherical_aberration_mm=2.7, amplitude_contrast=0.07)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"exhaustive": True},
        {"defocus_range_angstrom": (1000.0, 60000.0)},
        {"max_resolution_angstrom": 4.0},
    ],
)
def test_twelve_spectra_agree_with_ctffind4(test_data: Path, changes: dict[str, object]) -> None:
    folder = test_data / "bgal_spectra"
    optics = Optics(voltage_kv=200.0, spherical_aberration_mm=1.4, amplitude_contrast=0.1)
    with (folder / "reference.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 12
    for row in rows if not changes else rows[::4]:
        stack = open_stack(folder / row["power_spectrum"])
        made = given_spectrum(stack.read(np.array([0]))[0], stack.pixel_size_angstrom or 1.3996)
        found = fit_ctf(made, optics, FitSettings(**changes))  # type: ignore[arg-type]
        u, v = float(row["defocus_u_angstrom"]), float(row["defocus_v_angstrom"])
        assert found.defocus_angstrom == pytest.approx((u + v) / 2, abs=60), row
        assert found.astigmatism_angstrom == pytest.approx(u - v, abs=60), row
        # RELION's and CTFFIND's angle: from +x towards +y of the array
        turned = found.defocus_angle_deg - float(row["defocus_angle_degrees"])
        assert abs((turned + 90) % 180 - 90) < 6, row
        assert found.confident and found.fit_resolution_angstrom < 5, row


def test_a_micrograph_of_known_defocus(test_data: Path) -> None:
    image = open_stack(test_data / "micrographs/k2_300kv_0.854A.mrc").read(np.array([0]))[0]
    found = fit_ctf(spectrum_of_image(image, 0.85378), KRIOS, FitSettings())
    assert found.defocus_angstrom == pytest.approx(10600, abs=200)
    assert found.confident and found.fit_resolution_angstrom < 4.5
    # in the last part particles make a slow CTF look better than the rings do
    for y, x in ((0, 0), (2600, 2600)):
        part = image[y : y + 1024, x : x + 1024]
        small = fit_ctf(spectrum_of_image(part, 0.85378), KRIOS, FitSettings())
        assert small.defocus_angstrom == pytest.approx(found.defocus_angstrom, abs=400)


def test_thick_ice_shows_its_node(test_data: Path) -> None:
    image = open_stack(test_data / "micrographs/k2_300kv_0.854A.mrc").read(np.array([0]))[0]
    found = fit_ctf(spectrum_of_image(image, 0.85378), KRIOS, FitSettings(thickness=True))
    assert found.thickness_angstrom is not None and 500 < found.thickness_angstrom < 1000
    assert found.fit_resolution_angstrom < 4.0


def test_a_wrong_pixel_size_is_not_believed(test_data: Path) -> None:
    image = open_stack(test_data / "micrographs/contaminated_bin8.mrc").read(np.array([0]))[0]
    assert not fit_ctf(spectrum_of_image(image, 1.0), KRIOS, FitSettings()).confident
