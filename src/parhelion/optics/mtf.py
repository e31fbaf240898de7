"""The modulation transfer function of a detector."""

import numpy as np
import torch

from parhelion.errors import MetadataError


def interpolate(
    frequency: torch.Tensor, table_frequency: np.ndarray, table_value: np.ndarray
) -> torch.Tensor:
    """The detector's MTF ``(k,)`` float32 at ``frequency`` ``(k,)``, linear between the rows of a table.

    Frequencies are in 1/pixel of the *detector* (``rlnResolutionInversePixel``; Nyquist is 0.5). Beyond the
    table its first or last value holds. Raises MetadataError where the table is empty, not increasing or not
    positive: dividing by it would then invent signal.
    """
    x, y = np.asarray(table_frequency, float), np.asarray(table_value, float)
    if len(x) == 0 or len(x) != len(y):
        raise MetadataError(f"an MTF table needs as many values as frequencies, found {len(y)} and {len(x)}")
    if not (np.isfinite(x).all() and (np.diff(x) > 0).all()):
        raise MetadataError(
            "the frequencies of the MTF table do not increase from row to row; sort the table"
        )
    if not (np.isfinite(y).all() and (y > 0).all()):
        row = int(np.flatnonzero(~(y > 0))[0]) + 1
        raise MetadataError(
            f"the MTF table has the value {y[row - 1]} in row {row}; expected positive numbers"
        )
    values = np.interp(frequency.detach().cpu().numpy().astype(float), x, y)
    return torch.from_numpy(values.astype(np.float32)).to(frequency.device)
