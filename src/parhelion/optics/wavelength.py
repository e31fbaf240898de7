"""The wavelength of the electrons."""

import math

from parhelion.errors import MetadataError


def electron_wavelength_angstrom(voltage_kv: float) -> float:
    """The relativistic de Broglie wavelength in Å of electrons accelerated by ``voltage_kv`` (CODATA 2018).

    ``λ = h / √(2 m e U (1 + e U / 2 m c²))``. Raises MetadataError where the voltage is not positive.
    """
    if not voltage_kv > 0.0:
        raise MetadataError(
            f"an acceleration voltage of {voltage_kv} kV is impossible; 60 to 400 kV is usual"
        )
    volt = 1e3 * voltage_kv
    return 12.264259 / math.sqrt(volt * (1.0 + 0.97847551e-6 * volt))
