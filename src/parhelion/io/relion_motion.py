"""RELION's metadata of a motion-corrected movie: the shift of every frame and the model of local motion.

A shift is what is added to a frame's content to bring it into place, in pixels of the movie as stored. Local
shifts come on top, with the same sign, at places relative to the field (−½ to ½), for frames counted from
the first. RELION's polishing and this package read the file.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from parhelion.errors import FormatError
from parhelion.io.atomic import write_text
from parhelion.io.star import read_star

VERSION = 30001
COEFFICIENTS = 36
MODEL_NONE, MODEL_POLYNOMIAL = 0, 1


@dataclass(frozen=True, kw_only=True)
class MotionMetadata:
    """What such a file holds.

    ``shape`` (y, x) and ``count`` are those of the stored movie, ``binning`` that of the sum. ``shift_px``
    ``(count, 2)`` x, y; ``local_px`` ``(2, 18)`` the coefficients for x and y, None without local motion.
    ``gain`` is the reference as it lies on the frames. Unknown values, and EER's for other movies, are None.
    """

    movie: str
    shape: tuple[int, int]
    count: int
    shift_px: np.ndarray
    local_px: np.ndarray | None = None
    gain: str | None = None
    binning: float = 1.0
    pixel_size_angstrom: float | None = None
    dose_per_frame: float | None = None
    pre_exposure: float | None = None
    voltage_kv: float | None = None
    eer_upsampling: int | None = None
    eer_grouping: int | None = None


def write_motion(path: Path | str, motion: MotionMetadata) -> None:
    """Write ``data_general``, ``data_global_shift`` and, where there is one, ``data_local_motion_model``.

    Raises OutputError where the file cannot be written.
    """
    general: dict[str, object] = {
        "rlnImageSizeX": motion.shape[1],
        "rlnImageSizeY": motion.shape[0],
        "rlnImageSizeZ": motion.count,
        "rlnMicrographMovieName": _text(motion.movie),
        "rlnMicrographGainName": None if motion.gain is None else _text(motion.gain),
        "rlnMicrographBinning": _number(motion.binning),
        "rlnMicrographOriginalPixelSize": _number(motion.pixel_size_angstrom),
        "rlnMicrographDoseRate": _number(motion.dose_per_frame),
        "rlnMicrographPreExposure": _number(motion.pre_exposure),
        "rlnVoltage": _number(motion.voltage_kv),
        "rlnEERUpsampling": motion.eer_upsampling,
        "rlnEERGrouping": motion.eer_grouping,
        "rlnMicrographStartFrame": 1,
        "rlnMotionModelVersion": MODEL_NONE if motion.local_px is None else MODEL_POLYNOMIAL,
    }
    lines = [f"\n# version {VERSION}\n\ndata_general\n"]
    lines += [f"_{label:<40} {value}" for label, value in general.items() if value is not None]
    lines += [_head("global_shift", "rlnMicrographFrameNumber", "rlnMicrographShiftX", "rlnMicrographShiftY")]
    lines += [f"{i:>8} {x:14.6f} {y:14.6f}" for i, (x, y) in enumerate(motion.shift_px, 1)]
    if motion.local_px is not None:
        lines.append(_head("local_motion_model", "rlnMotionModelCoeffsIdx", "rlnMotionModelCoeff"))
        lines += [f"{i:>8} {value:.9e}" for i, value in enumerate(motion.local_px.ravel())]
    write_text(Path(path), "\n".join(lines) + "\n\n")


def read_motion(path: Path | str) -> MotionMetadata:
    """What such a file by RELION or this package holds.

    Raises InputError where it cannot be opened, FormatError where it is damaged or of another kind.
    """
    blocks = read_star(path)
    if "general" not in blocks or "global_shift" not in blocks:
        raise FormatError(f"{path} holds no data_general and data_global_shift: it is no motion metadata")
    general, shifts = blocks["general"], blocks["global_shift"]
    try:
        count = int(general["rlnImageSizeZ"][0])
        shift = np.full((count, 2), np.nan)
        rows = np.asarray(shifts["rlnMicrographFrameNumber"], np.int64) - 1
        shift[rows] = np.stack([shifts["rlnMicrographShiftX"], shifts["rlnMicrographShiftY"]], axis=1)
        local = _coefficients(path, blocks.get("local_motion_model"))

        def number(label: str) -> float | None:
            return float(general[label][0]) if label in general else None

        return MotionMetadata(
            movie=str(general["rlnMicrographMovieName"][0]),
            shape=(int(general["rlnImageSizeY"][0]), int(general["rlnImageSizeX"][0])),
            count=count,
            shift_px=shift,
            local_px=local,
            gain=str(general["rlnMicrographGainName"][0]) if "rlnMicrographGainName" in general else None,
            binning=number("rlnMicrographBinning") or 1.0,
            pixel_size_angstrom=number("rlnMicrographOriginalPixelSize"),
            dose_per_frame=number("rlnMicrographDoseRate"),
            pre_exposure=number("rlnMicrographPreExposure"),
            voltage_kv=number("rlnVoltage"),
            eer_upsampling=int(general["rlnEERUpsampling"][0]) if "rlnEERUpsampling" in general else None,
            eer_grouping=int(general["rlnEERGrouping"][0]) if "rlnEERGrouping" in general else None,
        )
    except (KeyError, ValueError, IndexError) as error:
        raise FormatError(f"{path} is incomplete as motion metadata: {error}") from error


def _coefficients(path: Path | str, table: object) -> np.ndarray | None:
    if table is None:
        return None
    values = np.asarray(table["rlnMotionModelCoeff"], np.float64)  # type: ignore[index]
    if len(values) != COEFFICIENTS:
        raise FormatError(
            f"{path} has {len(values)} coefficients of local motion, {COEFFICIENTS} are expected"
        )
    return values.reshape(2, COEFFICIENTS // 2)


def _head(block: str, *labels: str) -> str:
    columns = "\n".join(f"_{label} #{i}" for i, label in enumerate(labels, 1))
    return f"\n\n# version {VERSION}\n\ndata_{block}\n\nloop_\n{columns}"


def _number(value: float | None) -> str | None:
    return None if value is None or not np.isfinite(value) else f"{value:.6f}"


def _text(value: str) -> str:
    return f'"{value}"' if any(c.isspace() for c in value) else value
