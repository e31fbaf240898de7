"""What each image would be without noise: its class's map projected at its pose, with CTF."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from parhelion.algorithms.manual.models import predicted
from parhelion.algorithms.manual.problem import ManualProblem, ManualState
from parhelion.engine.points import FourierPoints
from parhelion.engine.predict import fourier_volume
from parhelion.engine.score import chunks

Projections = Callable[[int, np.ndarray, int], None]
"""Takes the number of the first image, images ``(m, box, box)``, protein white, and how many come in all."""


def matching_projections(problem: ManualProblem, state: ManualState, write: Projections) -> None:
    """All particles with a pose, in the table's order, at the scale of normalised images."""
    loader, points = problem.loader, problem.loader.points
    rows = np.flatnonzero(state.posed)
    best = state.occupancy.argmax(1)
    volumes = [
        fourier_volume(
            (one.references[0] + one.references[1]).to(loader.device) / 2,
            points.max_shell,
            problem.settings.padding,
        )
        for one in state.solved
    ]
    done = 0
    for piece in chunks(torch.from_numpy(rows), problem.chunk):
        problem.cancel.check()
        part = piece.numpy()
        batch = loader.batch(part, points.count(problem.refine_shell))
        images = np.zeros((len(part), loader.box, loader.box), np.float32)
        for number, volume in enumerate(volumes):
            mine = np.flatnonzero(best[part] == number)
            poses = state.candidates(number, part).moved_to(loader.device).take(torch.from_numpy(mine))
            images[mine] = to_images(predicted(batch, volume, poses, points), points).cpu().numpy()[:, 0]
        write(done, images, len(rows))
        done += len(part)
        problem.observer.progress("matching projections", float(done), float(len(rows)))


def to_images(transforms: Tensor, points: FourierPoints) -> Tensor:
    """Images ``(m, v, box, box)`` of transforms ``(m, v, k)`` on the first ``k`` points."""
    box, k = points.box, transforms.shape[-1]
    if not len(transforms):
        return torch.zeros((*transforms.shape[:-1], box, box), device=transforms.device)
    full = transforms.new_zeros((*transforms.shape[:-1], box, box // 2 + 1))
    kx, ky = (axis[:k].long().to(transforms.device) for axis in (points.kx, points.ky))
    full[..., ky % box, kx] = transforms
    # the column of kx = 0 holds one of each Friedel pair
    axis = kx == 0
    full[..., (-ky[axis]) % box, kx[axis]] = transforms[..., axis].conj()
    return torch.fft.fftshift(torch.fft.irfft2(full, s=(box, box), norm="ortho"), dim=(-2, -1))
