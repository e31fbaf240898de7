"""How much signal each frame still carries, and the weights of frames in a sum (Grant & Grigorieff 2015)."""

from dataclasses import dataclass

import numpy as np
import torch

from parhelion.optics.dose import dose_weights, signal_left

LEAST_AMPLITUDE = 1e-4


@dataclass(frozen=True, kw_only=True)
class Exposure:
    """The electrons (e⁻/Å²) of each frame and before the first, and the voltage that sets their damage."""

    dose_per_frame: float
    pre_exposure: float
    voltage_kv: float
    pixel_size_angstrom: float

    def amplitudes(self, frames: np.ndarray, cycles_per_pixel: np.ndarray) -> np.ndarray:
        """Amplitude ``(n, k)`` float32 of the signal in the middle of ``frames`` (numbers from 0)."""
        dose = self.pre_exposure + (np.asarray(frames) + 0.5) * self.dose_per_frame
        left = signal_left(self._frequency(cycles_per_pixel), torch.from_numpy(dose), self.voltage_kv)
        return np.maximum(left.numpy(), LEAST_AMPLITUDE)

    def weights(self, frames: np.ndarray, cycles_per_pixel: np.ndarray, restore_power: bool) -> np.ndarray:
        """Weights ``(n, k)`` of ``frames`` in a sum, by the dose at the end of each.

        ``restore_power`` gives the sum's noise the power of a plain sum (the paper's eq. 9).
        """
        dose = torch.from_numpy(self.pre_exposure + (np.asarray(frames) + 1.0) * self.dose_per_frame)
        weigh = dose_weights if restore_power else signal_left
        return np.asarray(weigh(self._frequency(cycles_per_pixel), dose, self.voltage_kv).numpy())

    def _frequency(self, cycles_per_pixel: np.ndarray) -> torch.Tensor:
        # zero frequency: the critical exposure is infinite there, which a small number stands for
        return torch.from_numpy(np.maximum(cycles_per_pixel, 1e-6) / self.pixel_size_angstrom)
