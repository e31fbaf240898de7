"""The matrix products against a plain float64 evaluation of the likelihood."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from parhelion.engine.noise import background_noise, on_points
from parhelion.engine.predict import fourier_volume
from parhelion.engine.search import global_search, score, shift_grid, slice_bank
from parhelion.kernels import reference


@pytest.fixture(scope="module", params=[1, 3], ids=["one view", "three views"])
def problem(request, kit):
    """A whitened batch, the reference, orientations and shifts."""
    make = kit.single_particles(10, 0.5) if request.param == 1 else kit.tilt_series(10, request.param, 0.5)
    particles, images, molecule = make
    loader = kit.loader_of(particles, images)
    noise = on_points(background_noise(loader, 100, np.random.default_rng(0)), loader.points)
    count = loader.points.count(6)
    batch = loader.batch(np.arange(10), count).whitened(noise)
    volume = fourier_volume(torch.from_numpy(molecule * 0.8), 13)
    rotations = torch.from_numpy(Rotation.random(30, random_state=1).as_matrix())
    shifts = shift_grid(0.06, 0.03)
    return loader, batch, volume, rotations, shifts, count


def brute_force(loader, batch, volume, rotations, shifts, count) -> np.ndarray:
    """2 cross - norm ``(n, t, o)`` in float64 from reference slices."""
    kx, ky = loader.points.kx[:count].numpy(), loader.points.ky[:count].numpy()
    tilts = batch.tilts.numpy()
    data, ctf = batch.data.numpy().astype(complex), batch.ctf.numpy().astype(float)
    out = np.zeros((len(batch), len(shifts), len(rotations)))
    for o, rotation in enumerate(rotations.numpy()):
        slices = [
            reference.extract(volume.data.numpy(), (tilt @ rotation)[None], kx, ky, volume.padding)[0]
            for tilt in tilts
        ]
        for t, shift in enumerate(shifts.numpy()):
            for view, tilt in enumerate(tilts):
                moved = tilt @ shift
                model = ctf[:, view] * np.exp(2j * np.pi * (kx * moved[0] + ky * moved[1])) * slices[view]
                out[:, t, o] += (2 * (data[:, view].conj() * model).real - abs(model) ** 2).sum(-1)
    return out


def test_scores_equal_the_likelihood(problem) -> None:
    loader, batch, volume, rotations, shifts, count = problem
    bank = slice_bank(volume, rotations, batch.tilts, loader.points, count, torch.float32)
    centres = torch.zeros((len(batch), 3), dtype=torch.float64)
    cross, base, norm = score(batch, bank, shifts, centres, loader.points)
    found = 2 * (cross + base.unsqueeze(-1)) - norm.unsqueeze(1)
    expected = brute_force(loader, batch, volume, rotations, shifts, count)
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-3 * np.abs(expected).max())


def test_the_top_hits_are_those_of_brute_force(problem) -> None:
    loader, batch, volume, rotations, shifts, count = problem
    prior = -20 * shifts.square().sum(-1).float().expand(len(batch), -1)
    expected = brute_force(loader, batch, volume, rotations, shifts, count) + prior.numpy()[:, :, None]
    bank = slice_bank(volume, rotations, batch.tilts, loader.points, count, torch.float32)
    centres = torch.zeros((len(batch), 3), dtype=torch.float64)
    hits = global_search(batch, bank, shifts, centres, prior, loader.points, 4)
    assert hits.score.shape == (len(batch), 4)
    best = expected.max(1)
    for n in range(len(batch)):
        order = np.argsort(-best[n])[:4]
        assert hits.orientation[n, 0] == order[0]
        assert hits.shift[n, 0] == expected[n, :, order[0]].argmax()
        np.testing.assert_allclose(hits.score[n].numpy(), best[n][order], rtol=2e-3, atol=1e-2)


def test_centres_move_the_grid(problem) -> None:
    """A search about a centre finds what a search about zero finds at the sum of both shifts."""
    loader, batch, volume, rotations, shifts, count = problem
    bank = slice_bank(volume, rotations, batch.tilts, loader.points, count, torch.float32)
    centre = torch.tensor([0.02, -0.01, 0.0], dtype=torch.float64)
    zero = torch.zeros((1, 3), dtype=torch.float64)
    cross, base, norm = score(batch, bank, shifts, centre.expand(len(batch), 3), loader.points)
    about = 2 * (cross + base.unsqueeze(-1)) - norm.unsqueeze(1)
    cross, base, norm = score(batch, bank, shifts + centre, zero.expand(len(batch), 3), loader.points)
    direct = 2 * (cross + base.unsqueeze(-1)) - norm.unsqueeze(1)
    torch.testing.assert_close(about, direct, atol=1e-2, rtol=1e-3)


def test_bfloat16_chooses_the_same_hits(problem) -> None:
    loader, batch, volume, rotations, shifts, count = problem
    centres = torch.zeros((len(batch), 3), dtype=torch.float64)
    prior = torch.zeros((len(batch), len(shifts)))
    hits = [
        global_search(
            batch,
            slice_bank(volume, rotations, batch.tilts, loader.points, count, precision),
            shifts,
            centres,
            prior,
            loader.points,
            5,
        )
        for precision in (torch.float32, torch.bfloat16)
    ]
    agree = (hits[0].orientation[:, 0] == hits[1].orientation[:, 0]).float().mean()
    assert float(agree) >= 0.9
    among = (hits[1].orientation == hits[0].orientation[:, :1]).any(1)
    assert bool(among.all())


@pytest.mark.parametrize(("radius", "step"), [(0.1, 0.03), (0.05, 0.06), (0.09, 0.03)])
def test_shift_grid_covers_the_disc_and_holds_zero(radius, step) -> None:
    grid = shift_grid(radius, step)
    assert (grid.norm(dim=1) <= radius * 1.0001).all()
    assert (grid.norm(dim=1) == 0).sum() == 1
    expected = sum(np.hypot(i, j) * step <= radius * (1 + 1e-6) for i in range(-9, 10) for j in range(-9, 10))
    assert len(grid) == expected
