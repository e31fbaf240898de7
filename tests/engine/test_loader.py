"""From images to batches: bad images, the cache, premultiplied images, tilt geometry."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from parhelion.engine.loader import normalise, soft_circle
from parhelion.errors import MetadataError


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
    stretched = replace(particles.optics[0], name="new scope", magnification=(1.02, 0, 0, 0.98))
    with pytest.raises(MetadataError, match="new scope has a magnification matrix"):
        kit.loader_of(replace(particles, optics=(stretched,)), images)
    other = replace(particles.optics[0], pixel_size_angstrom=9.9)
    with pytest.raises(MetadataError, match="one pixel size"):
        kit.loader_of(replace(particles, optics=(particles.optics[0], other)), images)


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
