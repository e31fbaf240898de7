"""Tables of resolution statistics: ``fsc.star`` with RELION's labels, and cisTEM's ``.txt``.

cisTEM's has a row per shell and the columns number, resolution (Å), radius of the ring (1/pixel), FSC,
FSC of the particle, and square roots of two signal-to-noise ratios, of the particle and of the
reconstruction.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from parhelion.errors import FormatError, InputError, MetadataError
from parhelion.io.atomic import write_text
from parhelion.io.relion_optics import numbers
from parhelion.io.star import read_star

FSC_LABELS = (
    "rlnFourierShellCorrelationCorrected",
    "rlnGoldStandardFsc",
    "rlnFourierShellCorrelationMaskedMaps",
    "rlnFourierShellCorrelation",
    "rlnFourierShellCorrelationUnmaskedMaps",
)
RESOLUTION = "rlnAngstromResolution"
COLUMNS = 7
HEADS = "C SHELL  RESOLUTION  RING_RADIUS       FSC  Part_FSC  Part_SSNR^0.5  Rec_SSNR^0.5"


class FscTable(NamedTuple):
    """FSC ``(m,)`` at resolutions ``(m,)`` in Å, coarse to fine; SSNR of the particle where the file has
    it."""

    resolution_angstrom: np.ndarray
    fsc: np.ndarray
    part_ssnr: np.ndarray | None


def read_statistics(path: Path | str) -> FscTable:
    """The curves of ``fsc.star`` (the best of its curves) or of cisTEM's statistics.

    Raises InputError where the file cannot be read, FormatError or MetadataError where it is neither.
    """
    path = Path(path)
    try:
        head = path.read_bytes()[:65536]
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    found = _from_star(path) if b"data_" in head else _from_text(path)
    keep = np.isfinite(found.resolution_angstrom) & (found.resolution_angstrom > 0)
    keep &= np.isfinite(found.fsc) & (found.resolution_angstrom < 900)
    if keep.sum() < 2:
        raise MetadataError(f"{path} has no two shells with a resolution and an FSC")
    order = np.argsort(-found.resolution_angstrom[keep], kind="stable")
    ssnr = None if found.part_ssnr is None else found.part_ssnr[keep][order]
    return FscTable(found.resolution_angstrom[keep][order], found.fsc[keep][order], ssnr)


def _from_star(path: Path) -> FscTable:
    for label in FSC_LABELS:
        for table in read_star(path).values():
            if label in table and RESOLUTION in table:
                return FscTable(numbers(path, table, RESOLUTION), numbers(path, table, label), None)
    raise MetadataError(f"{path} has no table with {RESOLUTION} and one of {', '.join(FSC_LABELS)}")


def _from_text(path: Path) -> FscTable:
    rows = []
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
        if not line.strip() or line.lstrip()[0] in "Cc#":
            continue
        try:
            row = [float(part) for part in line.split()]
        except ValueError:
            row = []
        if len(row) != COLUMNS:
            raise FormatError(
                f"{path}, line {number}: expected the {COLUMNS} numbers of cisTEM's statistics, or a "
                "STAR file "
                f"with an FSC; found {line.strip()[:60]!r}"
            )
        rows.append(row)
    if not rows:
        raise FormatError(f"{path} holds no statistics: it has no rows")
    table = np.array(rows)
    return FscTable(table[:, 1], table[:, 3], table[:, 5] ** 2)


def write_statistics(
    path: Path | str,
    resolution_angstrom: np.ndarray,
    fsc: np.ndarray,
    part_fsc: np.ndarray,
    part_ssnr: np.ndarray,
    rec_ssnr: np.ndarray,
    pixel_size_angstrom: float,
    comment: str = "",
) -> None:
    """Write curves ``(shells,)`` from shell 0 on as cisTEM's statistics (shell 0 is left out), below a line
    of ``comment``. OutputError."""
    lines = [f"C {comment}", HEADS] if comment else [HEADS]
    for shell in range(1, len(fsc)):
        resolution = float(resolution_angstrom[shell])
        roots = np.sqrt([max(part_ssnr[shell], 0.0), max(rec_ssnr[shell], 0.0)])
        lines.append(
            f"{shell + 1:7d} {resolution:11.3f} {pixel_size_angstrom / resolution:12.6f} {fsc[shell]:9.5f} "
            f"{part_fsc[shell]:9.5f} {roots[0]:14.5f} {roots[1]:13.5f}"
        )
    write_text(path, "\n".join(lines) + "\n")
