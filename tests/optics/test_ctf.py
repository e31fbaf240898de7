"""The CTF against its formula and against the images that RELION makes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from parhelion.errors import MetadataError
from parhelion.model.particles import OpticsGroup, Views
from parhelion.optics import ctf as module
from parhelion.optics.aberrations import apply_magnification
from parhelion.optics.ctf import ctf, ctf_of_views, electron_wavelength_angstrom

GOLDEN = Path(__file__).parents[1] / "golden" / "ctf" / "relion_ctf.npz"
OPTICS = {"voltage_kv": 300.0, "spherical_aberration_mm": 2.7, "amplitude_contrast": 0.1}
EVEN = (0.2, 0.5, -0.3, 0.4, 0.1, -0.2, 0.3, 0.25, -0.15)
MAGNIFICATION = (1.03, 0.02, -0.01, 0.97)


def columns(*rows: tuple[float, ...]) -> list[torch.Tensor]:
    return [torch.tensor(column, dtype=torch.float64) for column in zip(*rows)]


def frequencies(seed: int = 0, count: int = 400, limit: float = 0.4) -> tuple[torch.Tensor, torch.Tensor]:
    k = torch.rand(2, count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return tuple(limit * (2 * k - 1) / 2**0.5)


def reference(kx: np.ndarray, ky: np.ndarray, row: tuple[float, ...], cs_mm: float, w: float) -> np.ndarray:
    """The formula of the module's docstring, term by term in float64."""
    u, v, angle, shift, bfactor, scale = row
    wavelength = electron_wavelength_angstrom(300.0)
    s2 = kx**2 + ky**2
    defocus = (u + v) / 2 + (u - v) / 2 * np.cos(2 * (np.arctan2(ky, kx) - np.radians(angle)))
    chi = (
        np.pi * wavelength * defocus * s2
        - 0.5 * np.pi * cs_mm * 1e7 * wavelength**3 * s2**2
        + np.radians(shift)
    )
    return scale * np.exp(-bfactor * s2 / 4) * (np.sqrt(1 - w**2) * np.sin(chi) + w * np.cos(chi))


@pytest.mark.parametrize(("voltage", "wavelength"), [(300, 0.0196875), (200, 0.0250793), (100, 0.0370144)])
def test_wavelength(voltage: float, wavelength: float) -> None:
    assert electron_wavelength_angstrom(voltage) == pytest.approx(wavelength, abs=1e-7)


def test_impossible_optics_are_refused() -> None:
    kx, ky = frequencies()
    row = columns((10000, 10000, 0, 0, 0, 1))
    with pytest.raises(MetadataError, match="voltage"):
        ctf(kx, ky, *row, **OPTICS | {"voltage_kv": 0.0})
    with pytest.raises(MetadataError, match="amplitude contrast"):
        ctf(kx, ky, *row, **OPTICS | {"amplitude_contrast": 1.2})


@pytest.mark.parametrize("w", [0.0, 0.07, 1.0])
def test_origin_is_plus_the_amplitude_contrast(w: float) -> None:
    zero = torch.zeros(1)
    value = ctf(zero, zero, *columns((20000, 18000, 20, 0, 50, 1)), **OPTICS | {"amplitude_contrast": w})
    assert float(value) == pytest.approx(w, abs=1e-6)


def test_formula_at_hundreds_of_radians() -> None:
    kx, ky = frequencies(limit=0.5)
    rows = [(50000, 48000, 33, 0, 0, 1), (12000, 15000, -70, 60, 0, 1), (-8000, -9000, 200, 0, 120, 0.7)]
    found = ctf(kx, ky, *columns(*rows), **OPTICS)
    assert found.shape == (3, 400)
    assert found.dtype == torch.float32
    for row, values in zip(rows, found):
        expected = reference(kx.numpy(), ky.numpy(), row, 2.7, 0.1)
        np.testing.assert_allclose(values.numpy(), expected, atol=3e-6)


def test_result_does_not_depend_on_the_precision_set_for_products() -> None:
    kx, ky = frequencies()
    row = columns((30000, 28000, 33, 0, 0, 1))
    before = torch.get_float32_matmul_precision()
    expected = ctf(kx, ky, *row, **OPTICS)
    try:
        torch.set_float32_matmul_precision("medium")
        torch.testing.assert_close(ctf(kx, ky, *row, **OPTICS), expected, rtol=0, atol=0)
    finally:
        torch.set_float32_matmul_precision(before)


def test_blocks_join_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    kx, ky = frequencies()
    rows = columns(*[(10000 + 100 * i, 9000 + 70 * i, 3 * i, 0, 0, 1) for i in range(23)])
    whole = ctf(kx, ky, *rows, **OPTICS)
    monkeypatch.setattr(module, "ELEMENTS_IN_CACHE", 3 * len(kx))
    torch.testing.assert_close(ctf(kx, ky, *rows, **OPTICS), whole, rtol=0, atol=1e-6)
    none = ctf(kx, ky, *(column[:0] for column in rows), **OPTICS)
    assert none.shape == (0, 400)


def test_friedel_symmetry_and_equal_axes() -> None:
    kx, ky = frequencies()
    row = columns((21000, 19000, 30, 20, 0, 1))
    same = ctf(kx, ky, *row, **OPTICS, even_zernike=EVEN)
    torch.testing.assert_close(ctf(-kx, -ky, *row, **OPTICS, even_zernike=EVEN), same, rtol=0, atol=1e-5)
    # exchanging U and V and turning the axis by 90° describes the same lens
    torch.testing.assert_close(
        ctf(kx, ky, *columns((19000, 21000, 120, 20, 0, 1)), **OPTICS),
        ctf(kx, ky, *row, **OPTICS),
        rtol=0,
        atol=1e-5,
    )


@pytest.mark.parametrize("name", ["plain", "evenz", "mag"])
def test_relion_applies_the_same_ctf(name: str) -> None:
    golden = np.load(GOLDEN)
    kx, ky = torch.from_numpy(golden["kx"]), torch.from_numpy(golden["ky"])
    if name == "mag":
        kx, ky = apply_magnification(kx, ky, MAGNIFICATION)
    found = ctf(kx, ky, *columns(*golden["rows"]), **OPTICS, even_zernike=EVEN if name == "evenz" else ())
    # RELION's wavelength differs by 5e-6 (older constants): 3e-4 at the 70 radians reached here
    np.testing.assert_allclose(found.numpy(), golden[name], atol=6e-4)


def test_views_use_their_optics_groups() -> None:
    kx, ky = frequencies()
    a = OpticsGroup(name="a", pixel_size_angstrom=1.0, **OPTICS)
    b = replace(a, name="b", voltage_kv=200.0, even_zernike=EVEN, magnification=MAGNIFICATION)
    n = 5
    views = Views(
        image_path=(Path("p.mrcs"),), path_id=np.zeros(n, int), image_index=np.arange(n),
        particle=np.arange(n),
        optics_group=np.array([0, 1, 0, 1, 1]), defocus_u_angstrom=np.linspace(1e4, 2e4, n),
        defocus_v_angstrom=np.linspace(9e3, 2.1e4, n), defocus_angle_deg=np.full(n, 12.0),
        phase_shift_deg=np.zeros(n), ctf_bfactor_angstrom2=np.zeros(n), ctf_scale=np.ones(n),
        noise_group=np.zeros(n, int),
    )  # fmt: skip
    found = ctf_of_views(kx, ky, views, (a, b), np.array([3, 0]))
    row = columns((views.defocus_u_angstrom[3], views.defocus_v_angstrom[3], 12.0, 0, 0, 1))
    expected = ctf(
        *apply_magnification(kx, ky, MAGNIFICATION), *row, **OPTICS | {"voltage_kv": 200.0}, even_zernike=EVEN
    )
    torch.testing.assert_close(found[:1], expected, rtol=0, atol=1e-5)
    row = columns((views.defocus_u_angstrom[0], views.defocus_v_angstrom[0], 12.0, 0, 0, 1))
    torch.testing.assert_close(found[1:], ctf(kx, ky, *row, **OPTICS), rtol=0, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_gpu_agrees() -> None:
    kx, ky = frequencies()
    row = columns((30000, 28000, 33, 10, 40, 0.9))
    on_gpu = ctf(kx.cuda(), ky.cuda(), *row, **OPTICS, even_zernike=EVEN)
    assert on_gpu.is_cuda
    torch.testing.assert_close(
        on_gpu.cpu(), ctf(kx, ky, *row, **OPTICS, even_zernike=EVEN), rtol=0, atol=3e-6
    )
