"""The contract of the likelihood: stated confidence equals accuracy.

Two hypotheses, noise of variance 1 in every pixel. Images are masked by the circle as the loader does; the
likelihood takes the noise power of the unmasked image. A wrong factor of two still ranks poses rightly and
fails here.
"""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from parhelion.engine.batch import ParticleBatch
from parhelion.engine.loader import soft_circle, transform
from parhelion.engine.points import FourierPoints
from parhelion.engine.predict import FourierVolume, fourier_volume
from parhelion.engine.search import score, slice_bank
from parhelion.kernels import dispatch

TRIALS = 6000
POINTS = FourierPoints(32, 13)


def signals(volume: FourierVolume, poses: np.ndarray) -> torch.Tensor:
    """Images ``(2, box, box)`` whose transforms on the points are the slices."""
    slices = dispatch.extract(volume.data, torch.from_numpy(poses), POINTS.kx, POINTS.ky, volume.padding)
    full = torch.zeros((len(poses), 32, 32), dtype=torch.complex64)
    full[:, POINTS.ky.long() % 32, POINTS.kx.long() % 32] = slices
    full[:, -POINTS.ky.long() % 32, -POINTS.kx.long() % 32] = slices.conj()
    return torch.fft.fftshift(torch.fft.ifft2(full, norm="ortho").real, dim=(-2, -1))


@pytest.mark.parametrize("circle", [None, 11.0], ids=["no mask", "circular mask"])
@pytest.mark.parametrize("turn_deg", [8.0, 180.0])
def test_stated_confidence_equals_accuracy(kit, circle, turn_deg) -> None:
    rng = np.random.default_rng(7)
    molecule = kit.blobs(seed=8, spread=0.14)
    first = Rotation.random(random_state=3).as_matrix()
    turn = Rotation.from_rotvec(np.radians(turn_deg) * np.array([0.6, 0.8, 0])).as_matrix()
    poses = np.stack([turn @ first, first])
    plain = signals(fourier_volume(torch.from_numpy(molecule), 13), poses)
    mask = torch.ones((32, 32)) if circle is None else soft_circle(32, circle)
    # the distance between the two images decides how often noise confuses them: about one time in five
    distance = transform((plain[0] - plain[1])[None], POINTS).abs().square().sum().sqrt()
    factor = 1.27 / float(distance)
    truth = torch.from_numpy(rng.integers(0, 2, TRIALS))
    noise = torch.from_numpy(rng.normal(size=(TRIALS, 32, 32)).astype(np.float32))
    data = transform((factor * plain[truth] + noise) * mask, POINTS)
    volume = fourier_volume(torch.from_numpy(molecule * np.float32(factor)), 13)
    identity = torch.eye(3, dtype=torch.float64)[None]
    bank = slice_bank(volume, torch.from_numpy(poses), identity, POINTS, len(POINTS), torch.float32)
    batch = ParticleBatch(
        index=torch.arange(TRIALS),
        data=data[:, None],
        ctf=torch.ones((TRIALS, 1, len(POINTS))),
        valid=torch.ones((TRIALS, 1), dtype=torch.bool),
        tilts=identity,
        noise_group=torch.zeros((TRIALS, 1), dtype=torch.long),
    )
    zero = torch.zeros((1, 3), dtype=torch.float64)
    cross, base, norm = score(batch, bank, zero, torch.zeros((TRIALS, 3), dtype=torch.float64), POINTS)
    log_p = 2 * (cross[:, 0] + base) - norm
    accuracy = float((log_p.argmax(1) == truth).float().mean())
    confidence = float(log_p.softmax(1).max(1).values.mean())
    halved = float((log_p / 2).softmax(1).max(1).values.mean())
    assert 0.7 < accuracy < 0.95
    assert confidence == pytest.approx(accuracy, abs=0.02)
    assert abs(halved - accuracy) > 0.05
