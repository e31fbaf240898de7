"""The conventions as a whole, against images that another program made, and their documentation."""

import re
from dataclasses import fields
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import starfile
import torch
from scipy.ndimage import map_coordinates

from parhelion import conventions
from parhelion.conventions import centre_pixel
from parhelion.fourier.fft import rfft2, rfft3
from parhelion.geometry.rotations import angle_between, from_relion
from parhelion.io.cistem import read_cistem
from parhelion.io.cryosparc import read_cryosparc, stated_contrast
from parhelion.io.image_names import split_names
from parhelion.io.mrc import open_stack
from parhelion.io.relion import read_relion
from parhelion.model.particles import OpticsGroup, Views
from parhelion.optics.ctf import ctf

ROOT = Path(__file__).parents[1]
BOX, PIXEL_SIZE = 64, 3.0


def _slices(transform: np.ndarray, rotation: np.ndarray, kx: np.ndarray, ky: np.ndarray) -> np.ndarray:
    """Central slices ``(n, k)`` of a centred transform ``(z, y, x)``, at ``Aᵀ (kx, ky, 0)`` in its voxels."""
    middle = len(transform) // 2
    points = np.einsum("nji,jk->nik", rotation, np.stack([kx, ky, 0 * kx]))  # x, y, z
    at = points[:, ::-1].transpose(1, 0, 2).reshape(3, -1) + middle
    parts = [map_coordinates(part, at, order=1) for part in (transform.real, transform.imag)]
    return (parts[0] + 1j * parts[1]).reshape(len(rotation), -1)


@pytest.fixture(scope="module")
def relion_projections(test_data: Path) -> dict[str, np.ndarray]:
    """Forty images of relion_project, their tables, and the volume they show, as transforms."""
    table = starfile.read(test_data / "blob_particles" / "truth.star")["particles"][:40]
    with mrcfile.mmap(test_data / "blob_particles" / "particles.mrcs", permissive=True) as file:
        images = np.asarray(file.data[:40], np.float64)
    with mrcfile.open(test_data / "blob_particles" / "truth.mrc", permissive=True) as file:
        volume = np.pad(file.data.astype(float), BOX // 2)
    middle = np.fft.ifftshift(images, axes=(1, 2))
    return {
        "images": np.fft.fftshift(np.fft.fft2(middle), axes=(1, 2)),
        "volume": np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(volume))),
        "angles": table[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].to_numpy(),
        "shift": table[["rlnOriginXAngst", "rlnOriginYAngst"]].to_numpy(),
        "defocus": table[["rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle"]].to_numpy(),
    }


def _agreement(
    data: dict[str, np.ndarray],
    *,
    transpose: bool = False,
    shift_sign: float = 1.0,
    contrast: float = 1.0,
    mirror: bool = False,
    swap_axes: bool = False,
) -> float:
    """Normalised correlation of predicted and real images over the frequencies that carry signal."""
    n = np.arange(BOX) - BOX // 2
    ky, kx = (axis.ravel() for axis in np.meshgrid(n, n, indexing="ij"))
    inside = (np.hypot(kx, ky) <= 16) & (np.hypot(kx, ky) > 0)
    kx, ky = kx[inside], ky[inside]
    rotation = from_relion(*data["angles"].T)
    rotation = np.swapaxes(rotation, 1, 2) if transpose else rotation
    volume = data["volume"].transpose(2, 1, 0) if swap_axes else data["volume"]
    slices = _slices(volume, rotation, 2.0 * kx, 2.0 * (-ky if mirror else ky))
    frequency_x, frequency_y = kx / (BOX * PIXEL_SIZE), ky / (BOX * PIXEL_SIZE)
    u, v, angle = torch.from_numpy(data["defocus"].T.copy())
    zero = torch.zeros_like(u)
    transfer = ctf(
        torch.from_numpy(frequency_x), torch.from_numpy(frequency_y), u, v, angle, zero, zero, zero + 1,
        voltage_kv=300.0, spherical_aberration_mm=2.7, amplitude_contrast=0.1,
    ).numpy()  # fmt: skip
    # moved by minus the shift: the phase ramp is exp(+2πi k·shift)
    ramp = np.exp(2j * np.pi * shift_sign * (data["shift"] @ np.stack([frequency_x, frequency_y])))
    predicted = contrast * slices * transfer * ramp
    real = data["images"].reshape(len(slices), -1)[:, inside]
    norm = np.sqrt((np.abs(predicted) ** 2).sum() * (np.abs(real) ** 2).sum())
    return float((predicted.conj() * real).real.sum() / norm)


def test_projections_of_relion_are_predicted(relion_projections: dict[str, np.ndarray]) -> None:
    agreement = _agreement(relion_projections)
    assert agreement > 0.5  # the images are noisy: SNR 0.15
    for wrong in ({"transpose": True}, {"shift_sign": -1.0}, {"shift_sign": 0.0}, {"mirror": True},
                  {"swap_axes": True}):  # fmt: skip
        assert _agreement(relion_projections, **wrong) < 0.95 * agreement, wrong
    assert _agreement(relion_projections, contrast=-1.0) == pytest.approx(-agreement)


@pytest.mark.parametrize("box", [8, 9])
def test_a_point_at_the_centre_has_no_phase(box: int) -> None:
    image = np.zeros((box, box), np.float32)
    image[centre_pixel(box), centre_pixel(box)] = 1.0
    np.testing.assert_allclose(rfft2(image), 1.0, atol=1e-6)
    volume = np.zeros((box, box, box), np.float32)
    volume[(centre_pixel(box),) * 3] = 1.0
    np.testing.assert_allclose(rfft3(volume), 1.0, atol=1e-6)


def test_physical_scalars_carry_their_unit() -> None:
    units = r"_(angstrom|angstrom2|deg|kv|mm|mrad)$"
    pure = {
        "amplitude_contrast",
        "ctf_scale",
        "dose",
        "ctf_premultiplied",
        "odd_zernike",
        "even_zernike",
        "magnification",
    }
    bookkeeping = {
        "name",
        "box",
        "image_path",
        "path_id",
        "image_index",
        "particle",
        "optics_group",
        "noise_group",
        "tilt_rotation",
    }
    for model in (OpticsGroup, Views):
        for field in fields(model):
            assert field.name in pure | bookkeeping or re.search(units, field.name), field.name


def test_image_numbers_of_tables_count_from_one() -> None:
    _, _, index = split_names(Path("a.star"), "rlnImageName", ["000001@a.mrcs", "7@a.mrcs"])
    assert index.tolist() == [0, 6]


def test_origins_of_relion_keep_their_sign_and_become_angstrom(tmp_path: Path) -> None:
    path = tmp_path / "old.star"
    labels = (
        *("rlnImageName", "rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast", "rlnMagnification"),
        *("rlnDetectorPixelSize", "rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle"),
        *("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginX", "rlnOriginY"),
    )
    head = "".join(f"_{label} #{number}\n" for number, label in enumerate(labels, 1))
    path.write_text(f"data_\n\nloop_\n{head}1@a.mrcs 300 2.7 0.1 20000 5 10000 9000 10 1 2 3 1.5 -2\n")
    particles = read_relion(path)  # 5 µm detector pixels at 20,000×: 2.5 Å
    np.testing.assert_allclose(particles.shift_xyz_angstrom, [[3.75, -5.0, 0.0]])
    np.testing.assert_allclose(particles.rotation, from_relion(1, 2, 3), atol=1e-12)


def test_a_stack_may_be_called_mrc(tmp_path: Path) -> None:
    images = np.random.default_rng(0).normal(size=(3, 8, 8)).astype(np.float32)
    for name, volume in (("a.mrcs", False), ("a.mrc", True)):
        with mrcfile.new(tmp_path / name) as file:
            file.set_data(images)
            if volume:
                file.set_volume()
        stack = open_stack(tmp_path / name)
        assert len(stack) == 3
        np.testing.assert_array_equal(stack.read(np.array([2])), images[2:])


def test_cistem_table_becomes_relions_conventions(test_data: Path) -> None:
    table = starfile.read(test_data / "blob_particles" / "truth.star")["particles"]
    stack = test_data / "blob_particles" / "particles.mrcs"
    particles = read_cistem(test_data / "peers" / "blob_cistem_auto_refine.star", stack=stack)
    assert particles.views.image_index.tolist() == list(range(600))
    # cisTEM's own poses, 7.7° off in the middle
    truth = from_relion(*table[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].to_numpy().T)
    assert np.median(angle_between(particles.rotation, truth)) < 9.0
    shift = table[["rlnOriginXAngst", "rlnOriginYAngst"]].to_numpy()
    assert np.median(np.linalg.norm(particles.shift_xyz_angstrom[:, :2] - shift, axis=1)) < 1.5
    assert np.median(np.linalg.norm(particles.shift_xyz_angstrom[:, :2] + shift, axis=1)) > 4.0


def test_cryosparc_table_equals_relions_of_the_same_particles(test_data: Path) -> None:
    folder = test_data / "formats" / "cryosparc"
    ours = read_cryosparc(folder / "empiar_10076_7.cs")
    same = read_relion(folder / "empiar_10076_7.star")
    assert ours.views.image_path == same.views.image_path
    np.testing.assert_array_equal(ours.views.image_index, same.views.image_index)
    np.testing.assert_allclose(ours.views.defocus_u_angstrom, same.views.defocus_u_angstrom, rtol=1e-6)
    # +5.28° in both, on the same pixels: a flip of the y axis would have changed the sign
    np.testing.assert_allclose(ours.views.defocus_angle_deg, same.views.defocus_angle_deg, atol=1e-4)
    assert ours.views.defocus_angle_deg.min() > 5.0
    assert ours.optics[0].pixel_size_angstrom == pytest.approx(same.optics[0].pixel_size_angstrom)
    assert stated_contrast(ours) == "black"
    aligned = read_cryosparc(folder / "cryosparc_P12_J24_001_particles.cs")
    assert set(np.unique(aligned.half)) == {1, 2}
    assert aligned.class_number.min() == 1


@pytest.mark.parametrize(
    "row", [*conventions.CONVENTIONS, *conventions.DIFFERENCES], ids=lambda row: row.topic
)
def test_every_convention_names_a_test_that_exists(
    row: conventions.Convention | conventions.Difference,
) -> None:
    path, _, function = row.test.partition("::")
    text = (ROOT / "tests" / path).read_text(encoding="utf-8")
    assert re.search(rf"^def {function}\(", text, re.MULTILINE)


def test_the_page_shows_the_tables() -> None:
    page = (ROOT / "docs" / "conventions.md").read_text(encoding="utf-8")
    assert conventions.conventions_markdown() in page
    assert conventions.differences_markdown() in page
