"""Structural noise of vitreous ice: how its water molecules shift the phase of the electrons.

Water molecules at random places with a structure factor ``S`` have a projected potential whose power per
area is ``t n |f(k)|² S(k)``, with the thickness ``t``, the number density ``n`` and the molecule's potential
``f``. The image shows it through the CTF, averaged over the depth of the ice. In the beam the molecules
wander, so that the pattern is another one after a few electrons per Å² (McMullan, Vinothkumar & Henderson
2015, Ultramicroscopy 158, 26: a mean squared displacement of 1.1 Å² for each e⁻/Å² at 300 kV).
"""

import gemmi
import numpy as np
import torch

from parhelion.algorithms.simulate.density import MOTT_BETHE_VOLT_ANGSTROM2
from parhelion.fourier.fft import rfft2

MOLECULES_PER_ANGSTROM3 = 0.0311  # 0.93 g/cm³
SQUARED_DISPLACEMENT_ANGSTROM2 = 1.1  # in three dimensions, per e⁻/Å²
COMPRESSIBILITY_LIMIT = 0.06  # S(0) of water
HALO_ANGSTROM = (
    3.70,
    2.14,
)  # diffraction maxima of vitreous ice (Dubochet et al. 1988, Q. Rev. Biophys. 21, 129)
HALO_HEIGHT = (1.2, 0.5)
HALO_WIDTH_INVERSE_ANGSTROM = (0.022, 0.035)
RISE_INVERSE_ANGSTROM = 0.24
SPECTRUM_POINTS = 512


def structure_factor(frequency: np.ndarray) -> np.ndarray:
    """S of vitreous ice at ``frequency`` (1/Å): little at low frequency, two maxima, 1 beyond."""
    s = 1 - (1 - COMPRESSIBILITY_LIMIT) * np.exp(-((frequency / RISE_INVERSE_ANGSTROM) ** 4))
    for place, height, width in zip(HALO_ANGSTROM, HALO_HEIGHT, HALO_WIDTH_INVERSE_ANGSTROM, strict=True):
        s = s + height * np.exp(-0.5 * ((frequency - 1 / place) / width) ** 2)
    return np.asarray(s)


def phase_power(frequency: np.ndarray, thickness_angstrom: float, interaction: float) -> np.ndarray:
    """Power per area (rad² Å²) of the phase that ice of this thickness imposes, at ``frequency`` (1/Å);
    ``interaction`` is the phase per projected potential in rad/(V·Å)."""
    grid = np.linspace(0.0, max(float(np.max(frequency)), 1e-3), SPECTRUM_POINTS)
    water = [
        gemmi.Element("O").c4322.calculate_sf(float(k) ** 2 / 4)
        + 2 * gemmi.Element("H").c4322.calculate_sf(float(k) ** 2 / 4)
        for k in grid
    ]
    potential = MOTT_BETHE_VOLT_ANGSTROM2 * np.array(water)
    power = (
        interaction**2 * thickness_angstrom * MOLECULES_PER_ANGSTROM3 * potential**2 * structure_factor(grid)
    )
    return np.interp(frequency, grid, power)


def persistence(frequency: torch.Tensor, dose_per_frame: float) -> torch.Tensor:
    """Correlation of the ice's pattern between one frame and the next at ``frequency`` (1/Å).

    ``exp(-2π² k² u²)`` with the mean squared displacement ``u²`` along one axis.
    """
    along_axis = SQUARED_DISPLACEMENT_ANGSTROM2 / 3 * dose_per_frame
    return torch.exp(-2 * torch.pi**2 * along_axis * frequency**2)


class WanderingIce:
    """The transform of white noise (variance 1 per pixel) that changes from frame to frame as ice does."""

    def __init__(
        self, shape: tuple[int, int], persistence_factor: torch.Tensor, generator: np.random.Generator
    ) -> None:
        self.shape = shape
        self.keep = persistence_factor
        self.renew = torch.sqrt((1 - persistence_factor**2).clamp_min(0.0))
        self.generator = generator
        self.state: torch.Tensor | None = None

    def next_frame(self) -> torch.Tensor:
        """Transform ``(y, x // 2 + 1)`` complex64 of the noise in the next frame; do not change it."""
        fresh = rfft2(torch.from_numpy(self.generator.standard_normal(self.shape, dtype=np.float32)))
        if self.state is None:
            self.state = fresh
        else:
            self.state = self.state.mul_(self.keep).add_(fresh.mul_(self.renew))
        return self.state
