"""The first operation: search, stages of refinement, weights."""

import itertools

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from parhelion.engine.candidates import Candidates
from parhelion.engine.fit import pose_fit, table_of_fits
from parhelion.engine.noise import background_noise, on_points
from parhelion.engine.predict import fourier_volume
from parhelion.engine.score import ScoreSettings, chunks, refined, searched, stages_between
from parhelion.engine.search import shift_grid, slice_bank
from parhelion.geometry.rotations import angle_between
from parhelion.geometry.so3 import so3_grid


@pytest.mark.parametrize(("low", "high"), [(13, 20), (5, 5), (4, 40), (20, 10), (9, 9.1)])
def test_limits_rise_by_at_most_two_and_end_where_asked(low, high) -> None:
    stages = stages_between(low, high, kept=4)
    limits = [stage.limit for stage in stages]
    assert len(stages) >= 2
    assert limits[0] == min(low, high)
    assert limits[-1] == pytest.approx(high, rel=0.02)
    assert all(a <= b <= 2 * a for a, b in itertools.pairwise(limits))


@pytest.mark.parametrize(("count", "size"), [(10, 4), (8, 4), (3, 64), (0, 4)])
def test_chunks_cover_all_rows_in_order(count, size) -> None:
    parts = chunks(torch.arange(count), size)
    assert all(0 < len(p) <= size for p in parts)
    assert [row for p in parts for row in p.tolist()] == list(range(count))


def settings(three_dimensional: bool = False) -> ScoreSettings:
    return ScoreSettings(
        top=8,
        stages=stages_between(6, 13, 3),
        shift_precision=50.0,
        same_angle_rad=np.radians(1),
        same_shift=0.005,
        three_dimensional_shift=three_dimensional,
    )


def prepared(kit, particles, images, molecule):
    loader = kit.loader_of(particles, images)
    noise = on_points(background_noise(loader, 200, np.random.default_rng(0)), loader.points)
    batch = loader.batch(np.arange(len(particles)), len(loader.points)).whitened(noise)
    return loader, batch, fourier_volume(torch.from_numpy(kit.on_scale_of(loader, molecule)), 13)


def test_search_and_refinement_find_known_poses(kit, noisy) -> None:
    particles, images, molecule = noisy
    loader, batch, volume = prepared(kit, particles, images, molecule)
    count = loader.points.count(6)
    bank = slice_bank(volume, torch.from_numpy(so3_grid(1)), batch.tilts, loader.points, count, torch.float32)
    step = 0.06
    found = searched(
        batch.limited(count),
        bank,
        shift_grid(step, step),
        torch.zeros((100, 3), dtype=torch.float64),
        settings(),
        loader.points,
    )
    assert found.particle.bincount().tolist() == [8] * 100
    poses = refined(batch, volume, found, settings(), loader.points)
    total = torch.zeros(100, dtype=torch.float64).index_add_(0, poses.particle, poses.weight)
    torch.testing.assert_close(total, torch.ones(100, dtype=torch.float64))
    best = [int(torch.argmax(torch.where(poses.particle == n, poses.weight, -1))) for n in range(100)]
    error = angle_between(poses.rotation[best].numpy(), particles.rotation)
    assert np.median(error) < 4
    assert (error < 12).mean() > 0.9
    shift = poses.shift[best].numpy()[:, :2] * loader.extent_angstrom - particles.shift_xyz_angstrom[:, :2]
    assert np.median(np.abs(shift)) < 1.0
    _stated_uncertainty_is_the_error(batch, poses, error)


def _stated_uncertainty_is_the_error(batch, poses, error: np.ndarray) -> None:
    log_likelihood, angle = table_of_fits([pose_fit(batch, poses)], 100)
    right = error < 12
    ratio = np.sqrt((error[right] ** 2).mean()) / np.sqrt((angle[right] ** 2).mean())
    assert 0.7 < ratio < 1.4
    assert (log_likelihood > 0).mean() > 0.95


@pytest.mark.parametrize("views", [1, 5])
def test_refinement_needs_no_search_from_a_near_start(kit, views) -> None:
    """Several views per particle: the shift along the beam is found too."""
    count = 16
    make = kit.single_particles(count, 5.0, seed=3) if views == 1 else kit.tilt_series(count, views, 5.0)
    particles, images, molecule = make
    loader, batch, volume = prepared(kit, particles, images, molecule)
    rng = np.random.default_rng(5)
    off = Rotation.from_rotvec(np.radians(rng.normal(size=(count, 3)) * 3)).as_matrix()
    start = Candidates(
        particle=torch.arange(count),
        rotation=torch.from_numpy(off @ particles.rotation),
        shift=torch.zeros((count, 3), dtype=torch.float64),
    )
    poses = refined(batch, volume, start, settings(views > 1), loader.points)
    assert poses.particle.tolist() == list(range(count))
    assert np.median(angle_between(poses.rotation.numpy(), particles.rotation)) < 1.0
    axes = 3 if views > 1 else 2
    shift = poses.shift.numpy() * loader.extent_angstrom - particles.shift_xyz_angstrom
    assert np.median(np.abs(shift[:, :axes])) < 0.5
