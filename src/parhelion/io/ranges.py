"""Physical ranges of metadata: the impossible is refused, the unusual is noted."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from parhelion.errors import MetadataError


@dataclass(frozen=True)
class Range:
    """What a quantity can be (``low`` to ``high``) and what it mostly is (``usual``), in ``unit``."""

    what: str
    unit: str
    low: float
    high: float
    usual: tuple[float, float]


PIXEL_SIZE = Range("pixel size", "Å", 0.1, 30.0, (0.3, 15.0))
VOLTAGE = Range("voltage", "kV", 60.0, 400.0, (80.0, 300.0))
SPHERICAL_ABERRATION = Range("spherical aberration", "mm", 0.0, 10.0, (0.0, 3.0))
AMPLITUDE_CONTRAST = Range("amplitude contrast", "of 1", 0.0, 1.0, (0.0, 0.3))
DEFOCUS = Range("defocus", "Å", -10_000.0, 100_000.0, (0.0, 60_000.0))


def check_range(path: Path, label: str, values: np.ndarray, limits: Range, notes: list[str]) -> None:
    """Raise MetadataError where a value of column ``label`` is impossible or not a number.

    Unusual values add one line to ``notes``.
    """
    values = np.asarray(values, dtype=np.float64)
    bad = np.flatnonzero(~((values >= limits.low) & (values <= limits.high)))
    span = f"{limits.low:g} and {limits.high:g} {limits.unit}"
    if len(bad):
        raise MetadataError(
            f"{path}: {label} is {values[bad[0]]:g} in row {bad[0] + 1} ({len(bad)} of {len(values)} rows); "
            f"a {limits.what} lies between {span}. Correct the table or its unit"
        )
    odd = np.flatnonzero((values < limits.usual[0]) | (values > limits.usual[1]))
    if len(odd):
        notes.append(
            f"{path.name}: unusual {limits.what} of {values[odd[0]]:g} {limits.unit} in {len(odd)} of "
            f"{len(values)} rows ({label})"
        )
