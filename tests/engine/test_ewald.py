"""The Ewald sphere, against images whose layers were each given their own defocus."""

from pathlib import Path

import numpy as np
import pytest
import torch

from parhelion.algorithms.reconstruct import ReconstructSettings, reconstruct
from parhelion.contracts import SerialExecutor, SilentObserver
from parhelion.engine.ewald import insert_curved, overlap
from parhelion.engine.points import FourierPoints
from parhelion.engine.update import MapSums
from parhelion.errors import MetadataError
from parhelion.fourier.shells import fsc
from parhelion.geometry.rotations import random_rotations
from parhelion.kernels import portable
from parhelion.model.particles import OpticsGroup, ParticleSet, Views
from parhelion.model.volume import Volume
from parhelion.optics.wavelength import electron_wavelength_angstrom

BOX, PIXEL, KV, COUNT, CONTRAST, SIGMA = 64, 0.7, 60.0, 400, 0.1, 0.45
"""Slow electrons and fine pixels: 45 Å are many depths of focus."""
EXTENT = BOX * PIXEL


def atoms(rng: np.random.Generator) -> np.ndarray:
    points = rng.uniform(-1, 1, (200, 3))
    return points[np.linalg.norm(points, axis=1) < 1][:40] * 0.36 * EXTENT


def truth(points: np.ndarray) -> Volume:
    f = np.fft.fftfreq(BOX, PIXEL)
    kz, ky, kx = np.meshgrid(f, f, f, indexing="ij")
    waves = sum(np.exp(-2j * np.pi * (kx * x + ky * y + kz * z)) for x, y, z in points)
    waves = waves * np.exp(-2 * np.pi**2 * SIGMA**2 * (kx**2 + ky**2 + kz**2))
    return Volume(
        data=np.fft.fftshift(np.fft.ifftn(waves).real).astype(np.float32), pixel_size_angstrom=PIXEL
    )


def layered(points: np.ndarray, rotation: np.ndarray, defocus: np.ndarray) -> np.ndarray:
    """Images in which an atom at height z has the defocus of its particle plus z."""
    wavelength = electron_wavelength_angstrom(KV)
    ky, kx = np.meshgrid(np.fft.fftfreq(BOX, PIXEL), np.fft.rfftfreq(BOX, PIXEL), indexing="ij")
    k2 = kx**2 + ky**2
    images = np.empty((len(rotation), BOX, BOX), np.float32)
    for image, turn, own in zip(images, rotation, defocus, strict=True):
        x, y, z = (points @ turn.T).T[:, :, None, None]
        phase = np.pi * wavelength * (own + z) * k2 + np.arcsin(CONTRAST)
        wave = (np.sin(phase) * np.exp(-2j * np.pi * (kx * x + ky * y))).sum(0)
        wave *= np.exp(-2 * np.pi**2 * SIGMA**2 * k2)
        image[:] = np.fft.fftshift(np.fft.irfft2(wave, s=(BOX, BOX)))
    return images


class Images:
    box = BOX

    def __init__(self, data: np.ndarray) -> None:
        self.data = data

    def images(self, views: np.ndarray) -> np.ndarray:
        return self.data[views]


class Never:
    def check(self) -> None:
        pass


@pytest.fixture(scope="module")
def curved():
    rng = np.random.default_rng(0)
    points = atoms(rng)
    rotation, defocus = random_rotations(COUNT, rng), rng.uniform(200, 900, COUNT)
    images = layered(points, rotation, defocus)
    images += 0.3 * images.std() * rng.normal(size=images.shape).astype(np.float32)
    zero, none = np.zeros(COUNT), np.zeros(COUNT, int)
    views = Views(
        image_path=(Path("images.mrcs"),),
        path_id=none,
        image_index=np.arange(COUNT),
        particle=np.arange(COUNT),
        optics_group=none,
        defocus_u_angstrom=defocus,
        defocus_v_angstrom=defocus,
        defocus_angle_deg=zero,
        phase_shift_deg=zero,
        ctf_bfactor_angstrom2=zero,
        ctf_scale=np.ones(COUNT),
        noise_group=none,
    )
    return truth(points), images, views, rotation


def table(views: Views, rotation: np.ndarray, **optics) -> ParticleSet:
    group = OpticsGroup(
        name="a",
        pixel_size_angstrom=PIXEL,
        voltage_kv=KV,
        spherical_aberration_mm=0.0,
        amplitude_contrast=CONTRAST,
        box=BOX,
        **optics,
    )
    return ParticleSet(
        optics=(group,), views=views, count=COUNT, rotation=rotation, shift_xyz_angstrom=np.zeros((COUNT, 3))
    )


def detail(curved, ewald: str) -> tuple[float, float]:
    """FSC with the truth at 3 to 6 Å, and near Nyquist."""
    volume, images, views, rotation = curved
    found = reconstruct(
        table(views, rotation),
        Images(images),
        ReconstructSettings(halves=False, ewald=ewald),
        executor=SerialExecutor(),
        observer=SilentObserver(),
        cancel=Never(),
    )
    curve = fsc(found.map.data, volume.data)
    return float(curve[7:15].mean()), float(curve[28:31].mean())


def test_the_right_sign_wins_where_it_matters(curved) -> None:
    flat, right, wrong = (detail(curved, sign) for sign in ("off", "positive", "negative"))
    assert right[1] > flat[1] + 0.02
    assert wrong[1] < flat[1] - 0.1
    # coarse detail does not know about the sphere
    assert right[0] == pytest.approx(flat[0], abs=0.01)


def test_overlap_is_that_of_a_ball() -> None:
    assert float(overlap(torch.tensor(0.0), 10.0)) == pytest.approx(1.0)
    first_zero = 4.493409 / (2 * np.pi * 10.0)
    assert float(overlap(torch.tensor(first_zero), 10.0)) == pytest.approx(0.0, abs=1e-5)


def test_what_has_no_sidebands_is_refused(curved) -> None:
    _, images, views, rotation = curved
    with pytest.raises(MetadataError, match="mixes the sidebands"):
        reconstruct(
            table(views, rotation, ctf_premultiplied=True),
            Images(images),
            ReconstructSettings(halves=False, ewald="positive"),
            executor=SerialExecutor(),
            observer=SilentObserver(),
            cancel=Never(),
        )


def curved_slice(points: FourierPoints, count: int = 5):
    """Random slices on a sphere whose last points leave the volume."""
    rng = np.random.default_rng(4)
    k = len(points)
    rotation = torch.from_numpy(random_rotations(count, rng)).contiguous()
    height = torch.from_numpy(np.outer(rng.uniform(-1, 1, count), 0.02 * points.radius**2)).float()
    values = torch.from_numpy(rng.normal(size=(count, k, 2)).astype(np.float32))
    weights = torch.from_numpy(rng.uniform(size=(count, k)).astype(np.float32))
    return rotation, height, torch.view_as_complex(values), weights


def inserted(points: FourierPoints, executor=None) -> MapSums:
    sums = MapSums.zeros(points.box, points.max_shell, torch.device("cpu"))
    insert_curved(sums, [curved_slice(points), curved_slice(points, 2)], points, executor)
    return sums


def test_curved_slices_do_not_depend_on_the_number_of_workers(kit) -> None:
    points = FourierPoints(24, 11)
    one = inserted(points)
    for workers in (2, 3, 7):
        other = inserted(points, kit.Workers(workers))
        assert torch.equal(one.numerator, other.numerator)
        assert torch.equal(one.denominator, other.denominator)


def test_compiled_and_portable_insertion_agree() -> None:
    points = FourierPoints(24, 11)
    compiled, portable_sums = inserted(points), MapSums.zeros(24, 11, torch.device("cpu"))
    for slices in (curved_slice(points), curved_slice(points, 2)):
        rotation, height, values, weights = slices
        portable.insert_curved(
            portable_sums.numerator, portable_sums.denominator, rotation, points.kx, points.ky, height,
            portable_sums.padding, values, weights,
        )  # fmt: skip
    torch.testing.assert_close(compiled.numerator, portable_sums.numerator, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(compiled.denominator, portable_sums.denominator, atol=2e-5, rtol=1e-4)


def test_a_flat_sphere_is_a_flat_slice() -> None:
    points = FourierPoints(24, 11)
    rotation, height, values, weights = curved_slice(points)
    flat, curved = (MapSums.zeros(24, 11, torch.device("cpu")) for _ in range(2))
    flat.add([(rotation, values, weights)], points)
    insert_curved(curved, [(rotation, 0 * height, values, weights)], points)
    torch.testing.assert_close(curved.numerator, flat.numerator, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(curved.denominator, flat.denominator, atol=2e-5, rtol=1e-4)
