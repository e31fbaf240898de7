"""FSC curves as jobs write them: ``fsc.star`` with RELION's labels, one row per shell."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from parhelion.algorithms.postprocess.gold_standard import GoldStandard
    from parhelion.algorithms.postprocess.statistics import ShellStatistics
    from parhelion.model.volume import Volume
    from parhelion.run.context import Context

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


def particle_share(mass_kda: float | None, like: "Volume", mask: "Volume | None") -> float:
    """The part of the mask's volume, or of the box, that a particle of this mass fills; 1 where it is
    unknown.

    Raises ParameterError where the particle is larger.
    """
    import numpy as np

    from parhelion.algorithms.postprocess.statistics import particle_fsc, particle_volume_angstrom3

    if mass_kda is None:
        return 1.0
    whole = like.data.size if mask is None else float(mask.data.sum(dtype=np.float64))
    share = particle_volume_angstrom3(mass_kda) / (whole * like.pixel_size_angstrom**3)
    particle_fsc(np.ones(1), share)
    return share


def share_or_notice(
    context: "Context", mass_kda: float | None, like: "Volume", mask: "Volume | None"
) -> float:
    """``particle_share``; a mass that cannot be is told, and what was computed before is not lost for it."""
    from parhelion.errors import ParameterError

    try:
        return particle_share(mass_kda, like, mask)
    except ParameterError as error:
        context.notice(f"{error}; the statistics count the whole mask as particle")
        return 1.0


CORRECTED = "FSC of the half maps inside the mask, freed by random phases of what the mask adds"
UNMASKED = "FSC of the half maps as they are, without a mask"


def write_cistem_statistics(
    path: Path,
    curve: "np.ndarray",
    like: "Volume",
    share: float = 1.0,
    *,
    masked: bool = True,
    smooth: bool = False,
) -> "ShellStatistics":
    """Write an FSC, one value per shell from 0, as cisTEM's statistics; ``share`` as of particle_share.

    ``curve`` is the corrected one where there is a mask, in every job: that which resolutions are read from.
    """
    from parhelion.algorithms.postprocess.statistics import shell_statistics
    from parhelion.fourier.shells import shell_resolution
    from parhelion.io.statistics import write_statistics

    box, pixel = like.box, like.pixel_size_angstrom
    found = shell_statistics(curve, shell_resolution(len(curve), box, pixel), share, smooth=smooth)
    write_statistics(
        path,
        found.resolution_angstrom,
        found.fsc,
        found.part_fsc,
        found.part_ssnr,
        found.rec_ssnr,
        pixel,
        CORRECTED if masked else UNMASKED,
    )
    return found


def curves_by_kind(curves: "GoldStandard") -> dict[str, "np.ndarray"]:
    """The four curves of two half maps, named as LABELS names them."""
    return {
        "corrected": curves.corrected,
        "unmasked": curves.unmasked,
        "masked": curves.masked,
        "randomised": curves.randomised,
    }
