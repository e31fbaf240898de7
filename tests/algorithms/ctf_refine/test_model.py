"""The Jacobian is the derivative of the model."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from parhelion.algorithms.ctf_refine.model import (
    central_slices,
    chunk_of,
    group_model,
    jacobian,
    slice_frequencies,
    slopes,
)
from parhelion.algorithms.ctf_refine.prepare import undistorted_loader
from parhelion.algorithms.ctf_refine.settings import CtfRefineSettings, layout_of
from parhelion.algorithms.ctf_refine.state import Changes, Start
from parhelion.engine.predict import fourier_volume

from .conftest import Case

SETTINGS = CtfRefineSettings(
    astigmatism="group", tetrafoil=True, spherical_aberration=True, magnification=True
)
ROWS = np.arange(3)
NAMES = [column.name for column in layout_of(SETTINGS).columns]


@pytest.fixture(scope="module")
def setting(odd_case: Case):
    group = replace(
        odd_case.start.optics[0],
        beam_tilt_xy_mrad=(0.4, 0.3),
        odd_zernike=(0.0, 0.0, 5.0, 0.0, 0.0, -8.0),
        magnification=(1.01, 0.002, 0.001, 0.99),
    )
    particles = replace(odd_case.start, optics=(group,))
    loader = undistorted_loader(particles, odd_case.images, SETTINGS, 2**30, torch.device("cpu"))
    start = Start(
        particles=particles,
        layout=layout_of(SETTINGS),
        micrograph=np.zeros(len(particles), np.int64),
        frequency=1 / 3.5,
    )
    reference = fourier_volume(torch.from_numpy(odd_case.volume.data), 31)
    return start, loader, reference, loader.points.count(26)


def predicted(setting, changes: Changes, demodulated: bool = True):
    """``a C P`` times the odd phases and the shift, which the chunk takes off the data instead."""
    start, loader, reference, count = setting
    optics = start.optics(changes)
    model = group_model(optics.groups[0], start.layout.columns, loader, count, start.frequency)
    kx, ky = slice_frequencies(optics.groups[0], loader, count)
    slices = central_slices(reference, optics.rotation[ROWS], kx.float(), ky.float())
    ones = torch.ones((1, count))
    chunk = chunk_of(loader, ROWS, model, optics, slices, ones, torch.ones(count))
    shift = torch.from_numpy(optics.shift_xyz_angstrom[ROWS]) / loader.extent_angstrom
    x, y = loader.points.kx[:count].double(), loader.points.ky[:count].double()
    phase = model.phi + 2 * torch.pi * (shift[:, :1] * x + shift[:, 1:2] * y)
    return chunk.prediction.to(torch.complex128) * torch.exp(1j * phase), chunk, model, phase


@pytest.mark.parametrize("at", range(len(NAMES)), ids=NAMES)
def test_columns_are_derivatives(setting, at: int) -> None:
    start, _, reference, count = setting
    unchanged = start.unchanged()
    _, chunk, model, phase = predicted(setting, unchanged)
    slope = slopes(reference, start.optics(unchanged).rotation[ROWS], model, torch.ones((3, count)))
    column = jacobian(chunk, start.layout.columns, model, slope)[:, at].to(torch.complex128)
    column = column * torch.exp(1j * phase)
    size = 1e-4 if start.layout.columns[at].kind == "slice" else 1e-3
    ends = []
    for sign in (1, -1):
        particle, group = unchanged.particle.copy(), unchanged.group.copy()
        if at < 2:
            particle[:, at] = sign * size * start.unit[0, at]
        else:
            group[:, at - 2] = sign * size * start.unit[0, at]
        ends.append(predicted(setting, replace(unchanged, particle=particle, group=group))[0])
    difference = (ends[0] - ends[1]) / (2 * size)
    likeness = float(
        (column.conj() * difference).real.sum() / (column.abs().norm() * difference.abs().norm())
    )
    ratio = float(column.abs().norm() / difference.abs().norm())
    # slopes of a slice are taken over half a voxel of the padded transform: a little smoother
    loose = start.layout.columns[at].kind == "slice"
    assert likeness > (0.97 if loose else 0.9999)
    assert ratio == pytest.approx(1, abs=0.1 if loose else 2e-3)
