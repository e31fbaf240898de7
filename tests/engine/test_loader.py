"""From images to batches: bad images, the cache, premultiplied images, tilt geometry."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from parhelion.engine import loader as loader_module
from parhelion.engine.loader import normalise, soft_circle, undistorted_shifts
from parhelion.errors import MetadataError
from parhelion.fourier.nufft import FourierSampler
from parhelion.optics.ctf import ctf_of_views


def test_bad_images_become_views_that_are_not_valid(kit, clear) -> None:
    particles, images, _ = clear
    data = images.data.copy()
    data[3, 5, 5] = np.nan
    data[7] = 2.0
    loader = kit.loader_of(particles, kit.Images(data))
    batch = loader.batch(np.arange(10), 50)
    assert (~batch.valid[:, 0]).nonzero().flatten().tolist() == [3, 7]
    assert loader.bad_views == {3, 7}
    assert torch.isfinite(torch.view_as_real(batch.data)).all()
    again = loader.batch(np.arange(10), 50)
    assert torch.equal(again.valid, batch.valid)


def test_the_cache_changes_nothing(kit, clear) -> None:
    particles, images, _ = clear
    reads = []

    class Counting(kit.Images):
        def images(self, views):
            reads.append(len(views))
            return super().images(views)

    kept, read = (kit.loader_of(particles, Counting(images.data), cache_bytes=size) for size in (2**30, 0))
    rows = np.array([4, 1, 9])
    for _ in range(2):
        assert torch.equal(kept.batch(rows, 60).data, read.batch(rows, 60).data)
    assert sum(reads) == 3 + 6


def test_premultiplied_images_are_divided_by_their_ctf(kit, clear) -> None:
    from parhelion.engine.loader import transform

    particles, images, _ = clear
    plain = kit.loader_of(particles, images)
    optics = tuple(replace(g, ctf_premultiplied=True) for g in particles.optics)
    loader = kit.loader_of(replace(particles, optics=optics), images)
    rows = np.arange(4)
    first, second = plain.batch(rows, 200), loader.batch(rows, 200)
    strong = first.ctf.abs() > 0.1
    torch.testing.assert_close((second.data * first.ctf)[strong], first.data[strong], atol=1e-4, rtol=1e-4)
    assert transform(torch.zeros((1, kit.BOX, kit.BOX)), plain.points).shape == (1, len(plain.points))


def test_groups_of_one_magnification_share_their_sampler(kit, clear, monkeypatch) -> None:
    particles, images, _ = clear
    made = []
    sampler = loader_module.ImageSampler
    monkeypatch.setattr(loader_module, "ImageSampler", lambda *args: made.append(1) or sampler(*args))
    stretched = replace(particles.optics[0], magnification=(1.02, 0.0, 0.0, 0.98))
    one = kit.loader_of(replace(particles, optics=(stretched,)), images).batch(np.arange(8), 60).data
    views = replace(particles.views, optics_group=np.arange(len(particles.views)) % 4)
    optics = tuple(replace(stretched, name=f"g{i}") for i in range(4))
    many = kit.loader_of(replace(particles, optics=optics, views=views), images).batch(np.arange(8), 60).data
    assert len(made) == 2
    torch.testing.assert_close(one, many)
    flat = replace(particles.optics[0], magnification=(1.0, 1.0, 1.0, 1.0))
    with pytest.raises(MetadataError, match="singular magnification matrix"):
        kit.loader_of(replace(particles, optics=(flat,)), images)


def test_normalised_images_have_a_background_of_mean_zero_and_variance_one() -> None:
    rng = np.random.default_rng(1)
    images = torch.from_numpy(rng.normal(50, 9, (6, 32, 32)).astype(np.float32))
    mask = soft_circle(32, 9)
    found, good = normalise(images, mask)
    outside = found[:, mask < 0.01]
    assert good.all()
    torch.testing.assert_close(outside.mean(1), torch.zeros(6), atol=1e-4, rtol=0)
    torch.testing.assert_close(outside.std(1), torch.ones(6), atol=1e-4, rtol=0)


def test_what_the_engine_cannot_do_is_refused_by_name(kit, clear) -> None:
    particles, images, _ = clear
    other = replace(particles.optics[0], pixel_size_angstrom=9.9)
    with pytest.raises(MetadataError, match="one pixel size"):
        kit.loader_of(replace(particles, optics=(particles.optics[0], other)), images)


def test_distorted_images_become_those_of_the_undistorted_particle(kit, clear) -> None:
    """RELION's model, an image's transform at k shows the particle and its CTF at M k, made here directly."""
    particles, _, molecule = clear
    matrix = np.array([[1.02, 0.012], [-0.004, 0.97]])
    group = replace(particles.optics[0], magnification=tuple(matrix.ravel()))
    particles = replace(particles, optics=(group,)).take(np.arange(4))
    fy, fx = np.meshgrid(np.fft.fftfreq(kit.BOX), np.fft.rfftfreq(kit.BOX), indexing="ij")
    image_k = np.stack([fx.ravel(), fy.ravel()])
    sampler = FourierSampler(molecule)

    def model(k: np.ndarray, optics, shift_angstrom: np.ndarray) -> np.ndarray:
        """Transforms at the undistorted frequencies ``k (2, m)`` in cycles per pixel."""
        waves = ctf_of_views(*torch.from_numpy(k / kit.PIXEL), particles.views, optics, np.arange(4)).numpy()
        slices = np.stack([sampler.at(k.T @ a[:2]) for a in particles.rotation])
        return slices * waves * np.exp(2j * np.pi * (shift_angstrom[:, :2] / kit.PIXEL) @ k)

    plain = (replace(group, magnification=(1.0, 0.0, 0.0, 1.0)),)
    moved = undistorted_shifts(particles)
    there = matrix @ image_k
    there *= np.minimum(1, 0.5 / np.hypot(*there).clip(1e-9))
    seen = model(there, plain, moved).reshape(4, *fx.shape)
    seen[:, np.hypot(fx, fy) > 0.46] = 0  # what the sampler cannot know
    images = np.fft.fftshift(np.fft.irfft2(seen, s=(kit.BOX, kit.BOX)), axes=(1, 2)).astype(np.float32)
    noise = 1e-4 * np.random.default_rng(1).standard_normal(images.shape).astype(np.float32)
    loader = kit.loader_of(particles, kit.Images(images + images.std() * noise))
    count = loader.points.count(11)
    found = loader.batch(np.arange(4), count)
    k = np.stack([loader.points.kx[:count].numpy(), loader.points.ky[:count].numpy()]) / kit.BOX
    expected = model(k.astype(np.float64), plain, moved)
    for one, other in zip(found.data[:, 0].numpy(), expected):
        assert np.vdot(one, other).real > 0.998 * np.linalg.norm(one) * np.linalg.norm(other)
    undistorted = replace(particles, optics=plain)
    torch.testing.assert_close(
        found.ctf, kit.loader_of(undistorted, kit.Images(images)).batch(np.arange(4), count).ctf
    )


def test_shifts_go_to_the_undistorted_frame_and_back(clear) -> None:
    particles, _, _ = clear
    group = replace(particles.optics[0], magnification=(1.02, 0.012, -0.004, 0.97))
    particles = replace(particles, optics=(group,))
    there = undistorted_shifts(particles)
    assert np.abs(there - particles.shift_xyz_angstrom).max() > 0.02
    back = undistorted_shifts(replace(particles, shift_xyz_angstrom=there), back=True)
    np.testing.assert_allclose(back, particles.shift_xyz_angstrom, atol=1e-12)


def test_views_of_a_tilt_series_are_in_their_order_and_may_be_missing(kit) -> None:
    particles, images, _ = kit.tilt_series(6, 3, 5.0)
    whole = kit.loader_of(particles, images)
    batch = whole.batch(np.array([2, 0]), 40)
    assert batch.data.shape == (2, 3, 40)
    assert whole.tilts.shape == (3, 3, 3)
    direct = whole._data(np.array([6, 7, 8]))[0][:, :40]
    assert torch.equal(batch.data[0], direct)
    keep = np.arange(17)
    views = replace(
        particles.views,
        **{
            name: getattr(particles.views, name)[keep]
            for name in particles.views.__dataclass_fields__
            if name not in ("image_path", "dose")
        },
    )
    part = kit.loader_of(replace(particles, views=views), images).batch(np.arange(6), 40)
    assert part.valid.sum() == 17
    assert not part.valid[5, 2]


def test_tilt_geometries_that_differ_are_refused(kit) -> None:
    particles, images, _ = kit.tilt_series(4, 3, 5.0)
    tilts = particles.views.tilt_rotation.copy()
    tilts[7] = np.eye(3)[[1, 2, 0]]
    with pytest.raises(MetadataError, match="another tilt geometry"):
        kit.loader_of(replace(particles, views=replace(particles.views, tilt_rotation=tilts)), images)
    with pytest.raises(MetadataError, match="need a tilt rotation"):
        kit.loader_of(replace(particles, views=replace(particles.views, tilt_rotation=None)), images)
