"""FSC curves as jobs write them: ``fsc.star`` with RELION's labels, one row per shell."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from parhelion.algorithms.postprocess.gold_standard import GoldStandard

LABELS = {
    "corrected": "rlnFourierShellCorrelationCorrected",
    "unmasked": "rlnFourierShellCorrelationUnmaskedMaps",
    "masked": "rlnFourierShellCorrelationMaskedMaps",
    "randomised": "rlnCorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps",
}


def write_fsc(path: Path, curves: Mapping[str, "np.ndarray"], box: int, pixel_size_angstrom: float) -> None:
    """Write curves by kind (keys of LABELS), one value per shell from 0. Raises OutputError."""
    import numpy as np

    from parhelion.io.star_writer import write_star
    from parhelion.model.table import Table

    shells = np.arange(min(len(curve) for curve in curves.values()))
    frequency = shells / (box * pixel_size_angstrom)
    columns = {
        "rlnSpectralIndex": shells,
        "rlnResolution": frequency,
        # RELION's convention for the shell of infinite resolution
        "rlnAngstromResolution": np.where(shells > 0, 1 / np.maximum(frequency, 1e-12), 999.0),
        **{LABELS[kind]: np.asarray(curve, dtype=float)[: len(shells)] for kind, curve in curves.items()},
    }
    write_star(path, {"fsc": Table(columns)})


def curves_by_kind(curves: "GoldStandard") -> dict[str, "np.ndarray"]:
    """The four curves of two half maps, named as LABELS names them."""
    return {
        "corrected": curves.corrected,
        "unmasked": curves.unmasked,
        "masked": curves.masked,
        "randomised": curves.randomised,
    }
