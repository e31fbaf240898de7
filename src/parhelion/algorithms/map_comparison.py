"""Two maps compared in Fourier space while one of them moves: score, best shift, local refinement."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from parhelion.fourier.fft import irfft3, rfft3
from parhelion.fourier.grids import rfft_frequencies
from parhelion.fourier.nufft import FourierSampler
from parhelion.fourier.resample import fourier_resize_volumes
from parhelion.fourier.shells import shell_index, shell_mean
from parhelion.geometry.rotations import exp_so3

MIRROR = np.diag([1.0, 1.0, -1.0])
KERNEL_WIDTH = 4
BATCH = 128
ITERATIONS = 15
LEAST_SCORE = 0.1


@dataclass(frozen=True, kw_only=True)
class Pose:
    """Where the moving map lies: mirrored in z if ``flipped``, then turned by ``rotation (3, 3)``, then
    shifted by ``shift (3,)`` (x, y, z, in units of the box's extent). ``score`` is what that is worth."""

    rotation: np.ndarray
    flipped: bool
    shift: np.ndarray
    score: float

    @property
    def linear(self) -> np.ndarray:
        """Mirror and rotation as one matrix ``(3, 3)``."""
        return self.rotation @ MIRROR if self.flipped else self.rotation


class MapComparison:
    """Score of a moving map ``(n, n, n)`` against a target of the same shape up to a Fourier shell.

    The score is the mean FSC over the shells 1 … ``shells`` (up to the small change of a shell's power
    under rotation): every shell weighs alike, whatever its power and number of points.
    """

    def __init__(self, target: np.ndarray, moving: np.ndarray, shells: int) -> None:
        full = target.shape[0]
        self.box = min(full, 2 * shells + 2)
        self.shells = min(shells, self.box // 2 - 1)
        small_target, small_moving = (_shrink(data, self.box) for data in (target, moving))
        shape = small_target.shape
        index = shell_index(shape)
        keep = (index >= 1) & (index <= self.shells)
        keep[..., 0] &= _half_of_first_column(shape)
        fz, fy, fx = torch.broadcast_tensors(*rfft_frequencies(shape, dtype=torch.float64))
        self.points = torch.stack([fx[keep], fy[keep], fz[keep]], dim=1).numpy()
        shell = index[keep].numpy()
        count = np.bincount(shell, minlength=self.shells + 1)
        amplitude = [_root_mean_power(data)[shell] for data in (small_target, small_moving)]
        values = rfft3(torch.from_numpy(small_target))[keep].numpy()
        weight = 1 / (np.maximum(count, 1)[shell] * self.shells)
        # Weights that make the sum over points the mean FSC, and the moving map's mean power.
        self.weighted = values.conj() * weight / (amplitude[0] * amplitude[1])
        self.power_weight = weight / amplitude[1] ** 2
        axis = (np.arange(self.box) - self.box // 2).astype(np.float32)
        along = (axis[None, None, :], axis[None, :, None], axis[:, None, None])
        self.sampler = FourierSampler(small_moving, KERNEL_WIDTH)
        self.moment_samplers = tuple(FourierSampler(small_moving * a, KERNEL_WIDTH) for a in along)

    def moved(self, pose: Pose) -> np.ndarray:
        """Transform of the moving map in this pose, at the points."""
        return self.sampler.at(self.points @ pose.linear) * self._ramp(pose)

    def score(self, pose: Pose) -> float:
        """Mean FSC over the shells in this pose."""
        return float((self.weighted * self.moved(pose)).real.sum())

    def scored(self, pose: Pose) -> Pose:
        """The pose with its score by this comparison."""
        return replace(pose, score=self.score(pose))

    def scores(self, linears: np.ndarray) -> np.ndarray:
        """Scores ``(o,)`` of the moving map after ``x → linear x``, ``linears (o, 3, 3)``, without shift."""
        out = np.empty(len(linears))
        for start in range(0, len(linears), BATCH):
            part = linears[start : start + BATCH]
            values = self.sampler.at((self.points[None] @ part).reshape(-1, 3)).reshape(len(part), -1)
            out[start : start + BATCH] = (values @ self.weighted).real
        return out

    def likeness(self, a: Pose, b: Pose) -> float:
        """Correlation (shell-weighted) of the moving map in two poses: 1 for poses that symmetry relates."""
        fa, fb = self.moved(a), self.moved(b)
        cross = float((self.power_weight * (fa.conj() * fb).real).sum())
        norms = [float((self.power_weight * np.abs(f) ** 2).sum()) for f in (fa, fb)]
        return cross / float(np.sqrt(norms[0] * norms[1]))

    def refined(self, pose: Pose, iterations: int = ITERATIONS) -> Pose:
        """The pose nearby of the best score: Gauss–Newton with damping on rotation (left) and shift."""
        pose = self.scored(pose)
        gradient, curvature = self._derivatives(pose)
        damping = 1e-3
        for _ in range(iterations):
            system = curvature * max(pose.score, LEAST_SCORE)
            step = np.linalg.solve(system + damping * np.diag(np.diag(system)), gradient)
            trial = replace(
                pose,
                rotation=exp_so3(step[:3])[0] @ pose.rotation,
                shift=_turned(step[:3], pose.shift) + step[3:] / self.box,
            )
            trial = self.scored(trial)
            if trial.score <= pose.score:
                damping *= 10
                if damping > 1e3:
                    break
                continue
            gained, pose = trial.score - pose.score, trial
            damping = max(damping / 10, 1e-6)
            if gained < 1e-6:
                break
            gradient, curvature = self._derivatives(pose)
        return pose

    def _derivatives(self, pose: Pose) -> tuple[np.ndarray, np.ndarray]:
        """Gradient ``(6,)`` of the score and the power ``(6, 6)`` of its derivatives, for a small rotation
        about the origin (rad) of map and shift together, and a shift in pixels."""
        points = self.points @ pose.linear
        ramp = self._ramp(pose)
        value = self.sampler.at(points) * ramp
        moments = np.stack([s.at(points) * ramp for s in self.moment_samplers])
        # In the turned frame: the moment about the origin, with the shift's own moment added.
        moments = pose.linear @ moments + (pose.shift * self.box)[:, None] * value
        slope = -2j * np.pi * moments
        k = self.points.T
        columns = np.concatenate([-np.cross(k, slope, axis=0), -2j * np.pi * k * value])
        gradient = (self.weighted * columns).real.sum(axis=1)
        scaled = columns * np.sqrt(self.power_weight)
        curvature = (scaled.conj() @ scaled.T).real
        return gradient, curvature

    def _ramp(self, pose: Pose) -> np.ndarray:
        return np.exp(-2j * np.pi * (self.points @ (pose.shift * self.box)))

    def best_shifts(self, linears: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For each matrix of ``linears (o, 3, 3)`` the best score ``(o,)`` over all shifts by whole pixels,
        and that shift ``(o, 3)`` in units of the extent."""
        n = self.box
        index = np.rint(self.points * n).astype(np.int64)
        # The column kx = 0 holds one of each Friedel pair; irfftn expects the other as well.
        first = np.flatnonzero(index[:, 0] == 0)
        rows_of, mate = (torch.from_numpy(_half_layout_rows(i, n)) for i in (index, -index[first]))
        scores, shifts = np.empty(len(linears)), np.empty((len(linears), 3))
        for start in range(0, len(linears), BATCH):
            rows = slice(start, start + BATCH)
            part = linears[rows]
            points = (self.points[None] @ part).reshape(-1, 3)
            values = self.sampler.at(points).reshape(len(part), -1) * self.weighted
            spectrum = torch.zeros((len(part), n * n * (n // 2 + 1)), dtype=torch.complex64)
            # Σ Re(value · exp(−2πi k·t)) over all t: the inverse transform of the conjugate.
            spectrum[:, rows_of] = torch.from_numpy(values.conj().astype(np.complex64))
            spectrum[:, mate] = torch.from_numpy(values[:, first].astype(np.complex64))
            correlation = torch.fft.irfftn(
                spectrum.reshape(-1, n, n, n // 2 + 1), s=(n, n, n), dim=(1, 2, 3), norm="forward"
            )
            best, at = correlation.reshape(len(part), -1).max(dim=1)
            scores[rows] = 0.5 * best.numpy()
            grid = np.stack(np.unravel_index(at.numpy(), (n, n, n))[::-1], axis=1)
            shifts[rows] = np.where(grid >= (n + 1) // 2, grid - n, grid) / n
        return scores, shifts


def _turned(rotation_vector: np.ndarray, vector: np.ndarray) -> np.ndarray:
    return np.asarray(exp_so3(rotation_vector)[0] @ vector)


def _shrink(data: np.ndarray, box: int) -> np.ndarray:
    data = np.ascontiguousarray(data, dtype=np.float32)
    return fourier_resize_volumes(data, box) if box < data.shape[0] else data


def _root_mean_power(data: np.ndarray) -> np.ndarray:
    power = shell_mean(rfft3(torch.from_numpy(data)).abs() ** 2, data.shape).numpy()
    return np.sqrt(np.maximum(power, 1e-12 * power.max()))


def _half_of_first_column(shape: tuple[int, ...]) -> torch.Tensor:
    """Boolean ``(z, y)``: one member of each Friedel pair of the column kx = 0."""
    z, y = np.meshgrid(*(np.fft.fftfreq(n) for n in shape[:2]), indexing="ij")
    return torch.from_numpy((y > 0) | ((y == 0) & (z > 0)))


def _half_layout_rows(index_xyz: np.ndarray, n: int) -> np.ndarray:
    """Positions ``(p,)`` of Fourier points ``(p, 3)`` (x, y, z; x ≥ 0) in a flattened half layout."""
    return np.asarray(
        ((index_xyz[:, 2] % n) * n + index_xyz[:, 1] % n) * (n // 2 + 1) + index_xyz[:, 0], np.int64
    )


def moved_volume(moving: np.ndarray, pose: Pose) -> np.ndarray:
    """A cubic map in this pose, on its own grid, float32; what lies beyond the Nyquist sphere is lost."""
    shape = moving.shape
    fz, fy, fx = torch.broadcast_tensors(*rfft_frequencies(shape, dtype=torch.float64))
    keep = (fz**2 + fy**2 + fx**2) <= 0.25
    points = torch.stack([fx[keep], fy[keep], fz[keep]], dim=1).numpy()
    values = FourierSampler(np.asarray(moving, np.float32)).at(points @ pose.linear)
    values = values * np.exp(-2j * np.pi * (points @ (pose.shift * shape[0])))
    transform = torch.zeros(keep.shape, dtype=torch.complex64)
    transform[keep] = torch.from_numpy(values.astype(np.complex64))
    return irfft3(transform, (shape[0], shape[1], shape[2])).numpy()
