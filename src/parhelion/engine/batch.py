"""A chunk of particles on the engine's Fourier points: what every algorithm is written against."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class ParticleBatch:
    """``n`` particles of one tilt geometry with ``v`` views each, on ``k`` Fourier points.

    ``index`` ``(n,)`` are rows of the particle table; ``data`` ``(n, v, k)`` complex64 is unitary (white
    noise of variance 1 has power 1); ``ctf`` ``(n, v, k)`` float32 is signed; ``valid`` ``(n, v)`` is
    False for a view that is missing; ``tilts`` ``(v, 3, 3)`` float64 map the particle's frame to each
    view's; ``noise_group`` ``(n, v)`` says whose noise power applies.
    """

    index: Tensor
    data: Tensor
    ctf: Tensor
    valid: Tensor
    tilts: Tensor
    noise_group: Tensor

    def __len__(self) -> int:
        return len(self.index)

    def limited(self, points: int) -> "ParticleBatch":
        """The same particles on the first ``points`` Fourier points."""
        return replace(
            self, data=self.data[..., :points].contiguous(), ctf=self.ctf[..., :points].contiguous()
        )

    def rows(self, part: slice | Tensor) -> "ParticleBatch":
        """The particles of a slice or of an index."""
        return replace(
            self,
            index=self.index[part],
            data=self.data[part],
            ctf=self.ctf[part],
            valid=self.valid[part],
            noise_group=self.noise_group[part],
        )

    def with_data(self, data: Tensor, ctf: Tensor) -> "ParticleBatch":
        """The same particles with other data and CTF."""
        return replace(self, data=data, ctf=ctf)

    def whitened(self, noise: Tensor) -> "ParticleBatch":
        """Data and CTF divided by the noise amplitude; ``noise`` ``(groups, k)`` is a power.

        Views that are not valid become zero, so that sums over views need no mask.
        """
        amplitude = noise[:, : self.data.shape[-1]].rsqrt()[self.noise_group]
        amplitude = torch.where(self.valid.unsqueeze(-1), amplitude, 0.0)
        return replace(self, data=self.data * amplitude, ctf=self.ctf * amplitude)

    def shifted(self, shifts: Tensor, kx: Tensor, ky: Tensor) -> Tensor:
        """Data moved by ``shifts`` ``(n, 3)`` (units of the extent), so that a particle is centred."""
        k = self.data.shape[-1]
        return self.data * phase_ramp(shifts, self.tilts, kx[:k], ky[:k]).conj()


def phase_ramp(shifts: Tensor, tilts: Tensor, kx: Tensor, ky: Tensor) -> Tensor:
    """exp(2πi k·t) ``(n, v, k)`` complex64: multiplies a centred projection to give the image.

    ``shifts`` ``(n, 3)`` carry the particle to the centre, so the projection moves by minus the shift.
    """
    in_plane = torch.einsum("vij,nj->nvi", tilts[:, :2], shifts.to(tilts.dtype)).float()
    angle = 2 * torch.pi * (in_plane[..., :1] * kx + in_plane[..., 1:2] * ky)
    return torch.polar(torch.ones_like(angle), angle)
