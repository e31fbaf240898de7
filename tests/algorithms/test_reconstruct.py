"""Maps from known poses: what went in comes out, with its scale, symmetry and half sets."""

from dataclasses import replace

import numpy as np
import pytest

from parhelion.algorithms.reconstruct import ReconstructSettings, reconstruct
from parhelion.algorithms.simulate.particles import simulate_particles
from parhelion.contracts import SerialExecutor, SilentObserver
from parhelion.errors import InputError, MetadataError, ParameterError
from parhelion.fourier.shells import fsc
from parhelion.geometry.symmetry import symmetry_group
from parhelion.model.volume import Volume

BOX, PIXEL, COUNT = 32, 4.0, 200


class Images:
    def __init__(self, data: np.ndarray) -> None:
        self.data, self.box = data, data.shape[-1]

    def images(self, views: np.ndarray) -> np.ndarray:
        return self.data[views]


class Listening(SilentObserver):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def notice(self, message: str) -> None:
        self.heard.append(message)


class Never:
    def check(self) -> None:
        pass


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """As the runner's executor: chunks do not compete with torch's own threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def molecule(box: int = BOX, symmetry: str = "C1") -> Volume:
    rng = np.random.default_rng(5)
    z, y, x = np.indices((box,) * 3) - box // 2
    data = np.zeros((box,) * 3)
    for centre in rng.uniform(-0.2 * box, 0.2 * box, (8, 3)):
        for operator in symmetry_group(symmetry).operators:
            cx, cy, cz = operator @ centre
            data += np.exp(-((z - cz) ** 2 + (y - cy) ** 2 + (x - cx) ** 2) / 4)
    return Volume(data=data.astype(np.float32), pixel_size_angstrom=PIXEL)


def simulated(volume: Volume, snr: float = 1.0, count: int = COUNT):
    made = simulate_particles(volume, count, snr=snr, shift_angstrom=4.0, seed=1)
    return made.particles, made.images(np.arange(count))


@pytest.fixture(scope="module")
def particles():
    return (*simulated(molecule()), molecule())


def run(table, images, observer=None, mask=None, **settings):
    return reconstruct(
        table,
        Images(images),
        ReconstructSettings(**settings),
        executor=SerialExecutor(),
        observer=observer or SilentObserver(),
        cancel=Never(),
        mask=mask,
    )


def test_the_map_and_its_half_maps(particles) -> None:
    table, images, volume = particles
    found = run(table, images)
    assert fsc(found.map.data * found.mask.data, volume.data)[1:10].mean() > 0.95
    assert found.curves.resolution_angstrom < 14
    assert sorted(np.bincount(found.half)[1:]) == [COUNT // 2, COUNT // 2]
    for half in found.half_maps:
        assert 0.5 < fsc(half.data, volume.data)[2:8].mean() < 1
    assert not len(found.unusable)


@pytest.mark.parametrize("box", [32, 33])
def test_odd_and_even_boxes_keep_the_centre(box) -> None:
    """Half a pixel of error would leave 0.7 of the correlation at shell 8."""
    volume = molecule(box)
    found = run(*simulated(volume, snr=20.0), halves=False)
    assert fsc(found.map.data, volume.data)[1:9].min() > 0.98


def test_one_map_without_half_sets(particles) -> None:
    table, images, volume = particles
    found = run(table, images, halves=False)
    assert found.half_maps is None
    assert found.curves is None
    assert found.half is None
    assert fsc(found.map.data, volume.data)[1:9].mean() > 0.9


def test_symmetry_makes_the_most_of_few_particles() -> None:
    volume = molecule(symmetry="D2")
    table, images = simulated(volume, snr=0.3, count=60)
    alone = run(table, images).curves.unmasked
    found = run(table, images, symmetry="D2")
    assert found.curves.unmasked[2:10].mean() > alone[2:10].mean() + 0.1
    inner = found.map.data[1:, 1:, 1:]
    assert np.corrcoef(inner.ravel(), inner[:, ::-1, ::-1].ravel())[0, 1] > 0.999


def test_the_tables_half_sets_are_used(particles) -> None:
    table, images, _ = particles
    half = np.where(np.arange(COUNT) < 50, 1, 2)
    assert run(replace(table, half=half), images).half.tolist() == half.tolist()
    observer = Listening()
    mixed = half.copy()
    mixed[0] = 0
    run(replace(table, half=mixed), images, observer=observer)
    assert any("split anew" in note for note in observer.heard)


def test_a_wrong_sign_of_the_shift_would_show(particles) -> None:
    table, images, volume = particles
    wrong = table.with_poses(table.rotation, -table.shift_xyz_angstrom)
    right = fsc(run(table, images, halves=False).map.data, volume.data)[4:9].mean()
    assert fsc(run(wrong, images, halves=False).map.data, volume.data)[4:9].mean() < right - 0.2


def test_the_resolution_limit_is_kept(particles) -> None:
    table, images, _ = particles
    found = run(table, images, halves=False, resolution_limit_angstrom=20.0)
    power = np.abs(np.fft.fftn(found.map.data))
    k = np.fft.fftfreq(BOX, PIXEL)
    radius = np.sqrt(k[:, None, None] ** 2 + k[None, :, None] ** 2 + k**2)
    assert power[radius > 1 / 11].max() < 0.03 * power.max()


def test_bad_images_are_named_and_left_out(particles) -> None:
    table, images, volume = particles
    data = images.copy()
    data[:70] = np.nan
    observer = Listening()
    found = run(table, data, observer=observer)
    assert found.unusable.tolist() == list(range(70))
    assert "70 of 200" in observer.heard[-1]
    assert "and 65 more" in observer.heard[-1]
    assert np.isfinite(found.map.data).all()
    assert fsc(found.map.data * found.mask.data, volume.data)[1:8].mean() > 0.9


@pytest.mark.parametrize("halves", [True, False])
def test_nothing_but_bad_images_is_an_error(particles, halves) -> None:
    table, images, _ = particles
    with pytest.raises(InputError, match="not finite"):
        run(table, np.zeros_like(images), halves=halves)


def test_what_cannot_be_reconstructed_is_refused(particles) -> None:
    table, images, _ = particles
    with pytest.raises(MetadataError, match="no poses"):
        run(replace(table, rotation=None, shift_xyz_angstrom=None), images)
    with pytest.raises(ParameterError, match="does not fit into the box"):
        run(table, images, diameter_angstrom=400.0)
    with pytest.raises(MetadataError, match="2 particles are too few"):
        run(table.take(np.arange(2)), images)


def test_a_given_mask_serves_the_fsc(particles) -> None:
    from parhelion.images.masks import spherical_mask

    table, images, _ = particles
    mask = Volume(data=spherical_mask(BOX, PIXEL, 30.0, 8.0), pixel_size_angstrom=PIXEL)
    found = run(table, images, mask=mask)
    assert (found.mask.data <= mask.data + 1e-6).all()
