"""What is inserted of a blurred particle is the mean of its image over all poses, by their likelihood."""

import numpy as np
import torch

from parhelion.algorithms.pose_blurring import LEAST, SHIFT_STEP, SHIFTS, STEPS, TURNS, make_blurring
from parhelion.algorithms.simulate.particles import simulate_particles
from parhelion.contracts import SilentObserver
from parhelion.engine.batch import phase_ramp
from parhelion.engine.candidates import Candidates
from parhelion.engine.loader import ParticleLoader
from parhelion.engine.points import FourierPoints
from parhelion.kernels import dispatch
from parhelion.model.volume import Volume

BOX, PIXEL, COUNT, DIAMETER = 24, 4.0, 5, 60.0


class Images:
    def __init__(self, data: np.ndarray) -> None:
        self.data, self.box = data, data.shape[-1]

    def images(self, views: np.ndarray) -> np.ndarray:
        return self.data[views]


def blob() -> Volume:
    z, y, x = np.indices((BOX,) * 3) - BOX // 2
    data = np.exp(-((z - 2) ** 2 + y**2 + (x + 3) ** 2) / 4) + np.exp(-(z**2 + (y - 4) ** 2 + x**2) / 3)
    return Volume(data=data.astype(np.float32), pixel_size_angstrom=PIXEL)


def test_the_mean_image_is_that_of_all_poses_one_by_one() -> None:
    made = simulate_particles(blob(), COUNT, snr=0.3, shift_angstrom=4.0, seed=3)
    loader = ParticleLoader(
        particles=made.particles,
        source=Images(made.images(np.arange(COUNT))),
        points=FourierPoints(BOX, 10),
        diameter_angstrom=DIAMETER,
    )
    noise = torch.ones((1, len(loader.points)))
    blurring = make_blurring(
        blob(),
        loader,
        torch.ones((1, 11)),
        diameter_angstrom=DIAMETER,
        resolution_angstrom=14.0,
        smoothing=0.7,
        rows=np.arange(COUNT),
        observer=SilentObserver(),
    )
    rows = np.array([1, 3, 4])
    batch = loader.batch(rows, len(loader.points)).whitened(noise)
    poses = Candidates(
        particle=torch.arange(len(rows)),
        rotation=torch.from_numpy(np.ascontiguousarray(made.particles.rotation[rows])),
        shift=torch.from_numpy(loader.shift_xyz_angstrom[rows] / loader.extent_angstrom),
        weight=torch.ones(len(rows), dtype=torch.float64),
    )
    spread, found = blurring.blurred(batch, poses)
    owner = torch.searchsorted(torch.from_numpy(rows), spread.index)
    assert owner.unique().tolist() == [0, 1, 2]
    np.testing.assert_allclose(np.bincount(owner, found.weight), 1, atol=1e-9)
    kx, ky = loader.points.kx, loader.points.ky
    step = SHIFT_STEP * 14.0 / loader.extent_angstrom * np.arange(-STEPS, STEPS + 1)
    tried = torch.from_numpy(np.array([(x, y, 0.0) for y in step for x in step]))
    for i in range(len(rows)):
        ramps = phase_ramp(poses.shift[i] + tried, batch.tilts, kx, ky)[:, 0]
        turned = (blurring.turns @ poses.rotation[i]).contiguous()
        slices = dispatch.extract(blurring.volume.data, turned, kx, ky, blurring.volume.padding)
        log = torch.empty((TURNS, SHIFTS), dtype=torch.float64)
        n = blurring.count
        for a in range(TURNS):
            model = slices[a] * batch.ctf[i, 0] * ramps
            log[a] = -(batch.data[i, 0, :n] - model[:, :n]).abs().square().sum(1).double()
        weight = torch.exp(0.7 * (log - log.max()))
        weight = torch.where(weight >= LEAST, weight, 0.0)
        weight /= weight.sum()
        expected = (weight.to(ramps) @ ramps.conj()) * batch.data[i, 0]
        kept = weight.sum(1) > 0
        mine = owner == i
        inserted = spread.data[mine, 0] * found.weight[mine, None]
        scale = expected.abs().max()
        np.testing.assert_allclose(inserted / scale, expected[kept] / scale, atol=2e-3)
        np.testing.assert_allclose(found.weight[mine], weight.sum(1)[kept], atol=2e-3)
        np.testing.assert_allclose(found.rotation[mine], turned[kept], atol=1e-12)
        assert not found.shift[mine].any()
        assert kept.sum() > 1 and (weight > 0).sum() > kept.sum()
