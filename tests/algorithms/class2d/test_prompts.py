"""What refine2d asks for beyond the usual: ranges of x and y, padding, normalising, earlier poses."""

from dataclasses import replace

import numpy as np
import pytest

from parhelion.errors import MetadataError
from parhelion.geometry.rotations import from_relion
from parhelion.model.table import Table

QUICK = {
    "classes": 3,
    "cycles": 2,
    "initial_resolution_angstrom": 20.0,
    "final_resolution_angstrom": 12.0,
    "centre": False,
}


@pytest.fixture(scope="module")
def few(mixture_of):
    return mixture_of(per_view=20, noise=0, snr=1.0)


@pytest.mark.parametrize(("x", "y"), [(12.0, 0.0), (0.0, 12.0)])
def test_ranges_in_x_and_y_are_apart(few, class2d, x, y) -> None:
    found = class2d.classified(few, shift_range_angstrom=x, shift_range_y_angstrom=y, **QUICK)
    for shift, reach in zip(found.shift_angstrom.T, (x, y)):
        assert np.abs(shift).max() <= reach + 1e-6
        assert (np.abs(shift).max() > 2) == (reach > 0)


def test_particles_lie_in_the_ellipse_of_both_ranges(few, class2d) -> None:
    found = class2d.classified(few, shift_range_angstrom=10.0, shift_range_y_angstrom=5.0, **QUICK)
    assert (
        np.hypot(*(found.shift_angstrom / (10.0, 5.0)).T).max() < 1.3
    )  # a step of the grid beyond its points
    assert np.abs(found.shift_angstrom[:, 0]).max() > 6


def test_padding_makes_averages_exacter(few, class2d) -> None:
    coarse, usual, fine = (
        class2d.classified(few, padding=padding, **{**QUICK, "cycles": 1}).start
        for padding in (1.0, 2.0, 4.0)
    )
    worse, better = (np.abs(one - fine).mean() for one in (coarse, usual))
    assert 0 < 2 * better < worse


def test_without_normalising_images_keep_their_scale(few, class2d) -> None:
    scale = np.where(np.arange(len(few.images.data)) % 2, 3.0, 1.0).astype(np.float32)[:, None, None]
    strong = replace(few, images=replace(few.images, data=few.images.data * scale))
    options = {**QUICK, "own_sigma": False, "own_scale": False}
    one, other = (class2d.classified(mixed, **options) for mixed in (few, strong))
    np.testing.assert_allclose(other.averages, one.averages, atol=1e-3 * np.abs(one.averages).max())
    loud = class2d.classified(strong, normalise=False, **options)
    assert np.abs(loud.averages - one.averages).max() > 0.05 * np.abs(one.averages).max()
    found = class2d.classified(strong, normalise=False, **QUICK)
    assert found.sigma[1::2].mean() > 1.5 * found.sigma[::2].mean()


def posed(mixed, category: np.ndarray | None = None):
    """The particles with their true poses."""
    zero = np.zeros(len(mixed.view))
    shift = np.concatenate([mixed.shift_angstrom, zero[:, None]], axis=1)
    particles = mixed.particles.with_poses(from_relion(zero, zero, mixed.psi_deg), shift)
    return replace(mixed, particles=replace(particles, class_number=category))


def test_the_table_s_poses_and_classes_are_the_start(few, class2d) -> None:
    known = posed(few, few.view + 1)
    found = class2d.classified(known, local=True, **{**QUICK, "classes": None, "cycles": 1})
    for number in range(3):
        start = next(s for s, c in zip(found.start, np.arange(3)) if c == number)
        best = max(np.corrcoef(start.ravel(), few.clean(v).ravel())[0, 1] for v in range(3))
        assert best > 0.8
    pairs = np.zeros((3, 3), int)
    np.add.at(pairs, (found.category, few.view[found.rows]), 1)
    assert pairs.max(axis=1).sum() > 0.9 * pairs.sum()
    assert np.abs(found.shift_angstrom - few.shift_angstrom[found.rows]).max() < 6


def test_particles_are_looked_for_about_their_known_centres(few, class2d) -> None:
    true = class2d.classified(posed(few, few.view + 1), local=True, **{**QUICK, "classes": None})
    away = replace(few, shift_angstrom=few.shift_angstrom + np.array([40.0, 0.0]))
    options = {
        "references": true.averages,
        "shift_range_angstrom": 60.0,
        **QUICK,
        "classes": None,
        "cycles": 1,
    }
    local = class2d.classified(posed(away), local=True, **options)
    free = class2d.classified(posed(away), **options)
    assert np.median(local.shift_angstrom[:, 0]) > 20
    assert abs(np.median(free.shift_angstrom[:, 0])) < 5


def test_sigma_of_the_table_is_the_first_one(few, class2d) -> None:
    noisy = np.where(np.arange(60) % 2, 1.5, 1.0)
    columns = {"cisTEMSigma": noisy, "parhelionScale": np.ones(60)}
    known = posed(few, few.view + 1)
    told = replace(known, particles=replace(known.particles, extra=Table(columns)))
    options = {**QUICK, "classes": None, "cycles": 1}
    plain, weighed = (class2d.classified(mixed, local=True, **options) for mixed in (known, told))
    loss = plain.evidence - weighed.evidence
    assert loss[1::2].mean() > 5 * abs(loss[::2].mean())
    # both find the noise that there is, whichever they started from
    np.testing.assert_allclose(weighed.sigma.mean(), plain.sigma.mean(), atol=0.03)
    assert np.abs(weighed.sigma - plain.sigma).max() < 0.2


def test_a_local_search_needs_poses_and_classes(few, class2d) -> None:
    with pytest.raises(MetadataError, match="no classes"):
        class2d.classified(posed(few), local=True, **{**QUICK, "classes": None})
    bare = replace(few, particles=replace(few.particles, class_number=few.view + 1))
    with pytest.raises(MetadataError, match="no angles and centres"):
        class2d.classified(bare, local=True, **{**QUICK, "classes": None})
