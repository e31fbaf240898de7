"""What is believed of the maps of classes: a Wiener filter over classes and shells together.

Half maps hold the mean of all classes, what class k differs by from it, and noise. The best linear guess of
all that from all half maps is, shell by shell, Σ T⁻¹ times the half maps, with Σ the covariance of what is
true and T that of the half maps. Compared with such maps a likelihood ratio states its own certainty: its
mean is half its variance. Filters of their own for the mean and the differences have not this property: the
mean holds each difference times the share of its class, and where it is weakened more, or less, than the
difference itself all particles look more like one of the classes, which then drains the others. Two classes
that are alike share their noise away while both stand out against a third.

The half maps' covariance with each other is not quite Σ. Particles of one half are sorted by the other half's
maps, so that these maps' noise is sorted into them: where a particle's posterior has the covariance C over
the classes (share π), the noise e that it was compared with comes back as Π⁻¹ C W e, with the filter W. That
is nearly all of e where nothing tells the classes apart: halves teach each other to agree on noise, and one
structure seems two. With Γ = Π⁻¹ C W the noise of the halves is (1 - Γ²)⁻¹ (ε₁ + Γ ε₂); the power of ε
follows from what the halves disagree about, and what they agree on by that alone is taken off.
"""

import numpy as np
import torch
from torch import Tensor

from parhelion.fourier.fft import irfft3, rfft3
from parhelion.fourier.grids import rfft_weight
from parhelion.fourier.shells import shell_index

LEAST_FILTER = 0.02
"""What is left of a difference that the halves do not agree on yet: it may still grow."""
MOST_FEEDBACK = 0.98
"""Of noise; at 1 nothing but noise tells the classes apart, and the correction has no end."""
SMALLEST = 1e-9


def joint_filters(
    maps: Tensor, share: np.ndarray, max_shell: int, unsure: np.ndarray | None, last: np.ndarray | None
) -> np.ndarray:
    """The filter ``(shells, 1 + classes, 1 + classes)`` of ``maps`` ``(1 + classes, 2, n, n, n)``, both
    halves of the mean of all classes and of what each differs by from it.

    ``unsure`` is C ``(classes, classes)``, the mean covariance of the posteriors, and ``last`` the filter of
    what they came from; None where particles were not compared with maps of the other half.
    """
    # differences have no part along the shares; left in, rounding would be taken for a direction
    free = np.linalg.svd(share[None] / share.sum())[2][1:].T
    basis = np.zeros((1 + len(share), len(share)))
    basis[0, 0], basis[1:, 1:] = 1.0, free
    cross, total = (
        basis @ one @ basis.T
        for one in _smooth(*(basis.T @ one @ basis for one in covariances(maps, max_shell)))
    )
    found = np.zeros_like(total)
    for shell in range(len(total)):
        signal = cross[shell].copy()
        if unsure is not None and last is not None and last.shape == total.shape:
            feedback = (unsure / share[:, None]) @ last[shell, 1:, 1:]
            disagreed = (total[shell] - cross[shell])[1:, 1:]
            signal[1:, 1:] -= taught(disagreed, feedback)
        found[shell] = _wiener(signal, total[shell])
    return found


def covariances(maps: Tensor, max_shell: int) -> tuple[np.ndarray, np.ndarray]:
    """Over ``maps`` ``(m, 2, n, n, n)``, per shell ``(shells, m, m)``: of one half with the other, and of
    each with itself."""
    transform = rfft3(maps)
    shape = tuple(maps.shape[-3:])
    index = shell_index(shape).to(transform.device).reshape(-1)
    weight = rfft_weight(shape).to(transform.device).expand(transform.shape[-3:]).reshape(-1)
    flat = transform.reshape(*transform.shape[:2], -1)
    classes = len(flat)
    cross, total = np.zeros((2, max_shell + 1, classes, classes))
    for k in range(classes):
        for m in range(classes):
            for table, pairs in ((cross, ((0, 1), (1, 0))), (total, ((0, 0), (1, 1)))):
                both = torch.stack([(flat[k, a] * flat[m, b].conj()).real for a, b in pairs]).sum(0)
                sums = torch.zeros(int(index.max()) + 1, dtype=torch.float64, device=flat.device)
                sums.index_add_(0, index, 0.5 * weight * both.double())
                table[:, k, m] = sums[: max_shell + 1].cpu().numpy()
    return cross, total


def _smooth(cross: np.ndarray, total: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both with the correlations of three shells."""
    length = np.sqrt(np.diagonal(total, axis1=1, axis2=2)).clip(1e-150)
    scale = length[:, :, None] * length[:, None, :]
    return _over_three(cross / scale) * scale, _over_three(total / scale) * scale


def _over_three(values: np.ndarray) -> np.ndarray:
    # the first and the last shell count twice where they have no neighbour
    padded = np.pad(values, ((1, 1), (0, 0), (0, 0)), mode="edge")
    return (padded[:-2] + padded[1:-1] + padded[2:]) / 3


def taught(disagreed: np.ndarray, feedback: np.ndarray) -> np.ndarray:
    """What halves agree on ``(classes, classes)`` only because each was sorted by the other's noise.

    ``disagreed`` is what they do not agree on, ``feedback`` Γ: halves ε₁ + Γ ε₂ and ε₂ + Γ ε₁ agree on
    2 Γ (1 - Γ)⁻² of what they disagree on.
    """
    largest = np.abs(np.linalg.eigvals(feedback)).max()
    if largest > MOST_FEEDBACK:
        feedback = feedback * (MOST_FEEDBACK / largest)
    without = np.linalg.inv(np.eye(len(feedback)) - feedback)
    common = 2 * feedback @ without @ without @ disagreed
    return np.asarray((common + common.T) / 2)


def _wiener(signal: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Σ T⁻¹ where T has power, every canonical correlation between LEAST_FILTER and 1."""
    value, vector = np.linalg.eigh((total + total.T) / 2)
    some = value > SMALLEST * max(value.max(), SMALLEST)
    root = np.sqrt(value[some])
    white = vector[:, some] / root
    length, side = np.linalg.eigh(white.T @ ((signal + signal.T) / 2) @ white)
    middle = side @ np.diag(length.clip(LEAST_FILTER, 1.0)) @ side.T
    return np.asarray((vector[:, some] * root) @ middle @ white.T)


def filtered(maps: Tensor, filters: np.ndarray) -> Tensor:
    """``maps`` ``(m, 2, n, n, n)``, each the sum of all times a factor per shell; 0 beyond the last."""
    shape = (maps.shape[-3], maps.shape[-2], maps.shape[-1])
    transform = rfft3(maps)
    shell = shell_index(shape).to(transform.device)
    table = torch.from_numpy(filters).to(maps)
    table = torch.cat([table, table.new_zeros((1, *table.shape[1:]))])
    shell = shell.clamp_max(len(filters))
    mixed = torch.zeros_like(transform)
    for k in range(len(transform)):
        for m in range(len(transform)):
            mixed[k] += table[:, k, m][shell] * transform[m]
    return irfft3(mixed, shape)
