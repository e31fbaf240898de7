"""Optics groups in RELION's tables: a table of their own since 3.1, columns of every row before."""

from pathlib import Path

import numpy as np

from parhelion.errors import MetadataError
from parhelion.io import ranges
from parhelion.model.particles import OpticsGroup
from parhelion.model.table import Table

REQUIRED = ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast")
BEAM_TILT = ("rlnBeamTiltX", "rlnBeamTiltY")
MAGNIFICATION = ("rlnMagMat00", "rlnMagMat01", "rlnMagMat10", "rlnMagMat11")
ZERNIKE = ("rlnOddZernike", "rlnEvenZernike")
PREMULTIPLIED = "rlnCtfDataAreCtfPremultiplied"
PIXEL = ("rlnImagePixelSize", "rlnPixelSize", "rlnDetectorPixelSize", "rlnMagnification")
OTHERS = (PREMULTIPLIED, "rlnImageSize", "rlnOpticsGroupName")
GROUP_COLUMNS = (*REQUIRED, *PIXEL, *BEAM_TILT, *MAGNIFICATION, *ZERNIKE, *OTHERS)
"""What describes a group, wherever it stands."""

REFUSED = {
    "rlnCtfDataArePhaseFlipped": "the images' phases were flipped; import the original images",
    "rlnIsFlip": "mirrored particles are not supported; write the mirrored images out first",
}
"""Columns that change the mathematics in ways that are not implemented, refused where they are not 0."""

IDENTITY = (1.0, 0.0, 0.0, 1.0)


def numbers(path: Path, table: Table, label: str) -> np.ndarray:
    """Column ``label`` as float64. Raises MetadataError where it holds something else."""
    try:
        return np.asarray(table[label], dtype=np.float64)
    except ValueError:
        example = next(str(value) for value in table[label] if not _is_number(value))
        raise MetadataError(f"{path}: {label} holds {example!r}, a number is expected") from None


def _is_number(value: object) -> bool:
    try:
        float(str(value))
    except ValueError:
        return False
    return True


def require(path: Path, table: Table, labels: tuple[str, ...]) -> None:
    """Raise MetadataError that names the missing ``labels`` and those that were found."""
    missing = [label for label in labels if label not in table]
    if missing:
        raise MetadataError(f"{path} lacks {', '.join(missing)}; found: {', '.join(table) or 'no columns'}")


def refuse(path: Path, table: Table) -> None:
    """Raise MetadataError for metadata that would change the mathematics and are not implemented."""
    for label, why in REFUSED.items():
        if label in table and np.any(numbers(path, table, label)):
            raise MetadataError(f"{path}: {label} is set; {why}")
    if "rlnImageDimensionality" in table and np.any(numbers(path, table, "rlnImageDimensionality") != 2):
        raise MetadataError(f"{path}: rlnImageDimensionality is not 2; particles must be images, not volumes")


def groups_from_table(
    path: Path, optics: Table, given_pixel_angstrom: float | None, notes: list[str]
) -> tuple[OpticsGroup, ...]:
    """One group per row of ``optics``.

    ``given_pixel_angstrom`` overrules the table. Raises MetadataError where a column is missing, impossible
    or not supported.
    """
    require(path, optics, REQUIRED)
    refuse(path, optics)
    pixel = _pixel_sizes(path, optics, given_pixel_angstrom, notes)
    columns = {label: numbers(path, optics, label) for label in REQUIRED}
    ranges.check_range(path, "pixel size", pixel, ranges.PIXEL_SIZE, notes)
    ranges.check_range(path, REQUIRED[0], columns[REQUIRED[0]], ranges.VOLTAGE, notes)
    ranges.check_range(path, REQUIRED[1], columns[REQUIRED[1]], ranges.SPHERICAL_ABERRATION, notes)
    ranges.check_range(path, REQUIRED[2], columns[REQUIRED[2]], ranges.AMPLITUDE_CONTRAST, notes)
    tilt, magnification = (_several(path, optics, labels) for labels in (BEAM_TILT, MAGNIFICATION))
    box = numbers(path, optics, "rlnImageSize") if "rlnImageSize" in optics else None
    premultiplied = numbers(path, optics, PREMULTIPLIED) if PREMULTIPLIED in optics else np.zeros(optics.rows)
    zernike = {
        label: [_coefficients(path, label, text) for text in optics[label]] if label in optics else None
        for label in ZERNIKE
    }
    groups = []
    for row in range(optics.rows):
        odd, even = (values[row] if values else () for values in zernike.values())
        groups.append(
            OpticsGroup(
                name=_name(optics, row),
                pixel_size_angstrom=float(pixel[row]),
                voltage_kv=float(columns["rlnVoltage"][row]),
                spherical_aberration_mm=float(columns["rlnSphericalAberration"][row]),
                amplitude_contrast=float(columns["rlnAmplitudeContrast"][row]),
                box=int(box[row]) if box is not None and box[row] > 0 else None,
                ctf_premultiplied=bool(premultiplied[row]),
                beam_tilt_xy_mrad=(tilt[row][0], tilt[row][1]) if tilt else (0.0, 0.0),
                odd_zernike=odd,
                even_zernike=even,
                magnification=_matrix(magnification[row]) if magnification else IDENTITY,
            )
        )
    return tuple(groups)


def _matrix(m: tuple[float, ...]) -> tuple[float, float, float, float]:
    return m[0], m[1], m[2], m[3]


def _name(optics: Table, row: int) -> str:
    return (
        str(optics["rlnOpticsGroupName"][row]) if "rlnOpticsGroupName" in optics else f"opticsGroup{row + 1}"
    )


def _pixel_sizes(path: Path, optics: Table, given_angstrom: float | None, notes: list[str]) -> np.ndarray:
    """Å per pixel of the images: the given value, or what the columns say."""
    found = None
    if "rlnImagePixelSize" in optics:
        found = numbers(path, optics, "rlnImagePixelSize")
    elif "rlnPixelSize" in optics:
        found = numbers(path, optics, "rlnPixelSize")
    elif "rlnDetectorPixelSize" in optics and "rlnMagnification" in optics:
        # micrometres on the detector
        magnification = numbers(path, optics, "rlnMagnification")
        if not np.all(magnification > 0):
            raise MetadataError(f"{path}: rlnMagnification is not positive; give --pixel-size")
        found = numbers(path, optics, "rlnDetectorPixelSize") * 1e4 / magnification
    if given_angstrom is not None:
        if found is not None and not np.allclose(found, given_angstrom, rtol=1e-3):
            notes.append(f"{path.name} says {found[0]:g} Å per pixel; {given_angstrom:g} Å is used as given")
        return np.full(optics.rows, float(given_angstrom))
    if found is None:
        raise MetadataError(
            f"{path} lacks the pixel size: rlnImagePixelSize (RELION 3.1 and later), rlnPixelSize, or "
            f"rlnDetectorPixelSize with rlnMagnification; found: {', '.join(optics)}. "
            "Give it with --pixel-size"
        )
    return found


def _several(path: Path, optics: Table, labels: tuple[str, ...]) -> list[tuple[float, ...]] | None:
    """The columns ``labels`` row by row, None where there are none; a part of them is refused."""
    present = [label for label in labels if label in optics]
    if not present:
        return None
    require(path, optics, labels)
    columns = np.stack([numbers(path, optics, label) for label in labels], axis=1)
    if not np.isfinite(columns).all():
        raise MetadataError(f"{path}: {', '.join(labels)} hold values that are not finite")
    return [tuple(row) for row in columns.tolist()]


def _coefficients(path: Path, label: str, text: object) -> tuple[float, ...]:
    """``[0.1,0.2]`` → (0.1, 0.2)."""
    inner = str(text).strip()
    if inner in ("", "None", "[]"):
        return ()
    try:
        values = tuple(float(part) for part in inner.removeprefix("[").removesuffix("]").split(","))
    except ValueError:
        raise MetadataError(f"{path}: {label} is {text!r}, expected numbers as in [0.1,0.2,0.3]") from None
    if not np.isfinite(values).all():
        raise MetadataError(f"{path}: {label} is {text!r}, which holds values that are not finite")
    return values if any(values) else ()


def groups_from_rows(
    path: Path, rows: Table, given_pixel_angstrom: float | None, notes: list[str]
) -> tuple[tuple[OpticsGroup, ...], np.ndarray]:
    """Groups of rows that agree in all that describes the optics, and the group of each row.

    For tables of RELION 3.0 and earlier.
    """
    require(path, rows, REQUIRED)
    present = [label for label in GROUP_COLUMNS if label in rows]
    number = np.zeros(rows.rows, dtype=np.int64)
    for label in present:
        values = rows[label]
        if len(values) and not np.all(values == values[0]):
            codes = np.unique(values.astype(str) if values.dtype == object else values, return_inverse=True)[
                1
            ]
            number = np.unique(number * (int(codes.max()) + 1) + codes, return_inverse=True)[1]
    first = np.unique(number, return_index=True)[1]
    optics = Table({label: rows[label][first] for label in present}, length=len(first))
    return groups_from_table(path, optics, given_pixel_angstrom, notes), number


def optics_table(groups: tuple[OpticsGroup, ...]) -> Table:
    """RELION's optics table of ``groups``; optional columns appear where a group needs them."""
    columns: dict[str, np.ndarray] = {
        "rlnOpticsGroupName": np.array([g.name for g in groups], dtype=object),
        "rlnOpticsGroup": np.arange(1, len(groups) + 1),
        "rlnVoltage": np.array([g.voltage_kv for g in groups]),
        "rlnSphericalAberration": np.array([g.spherical_aberration_mm for g in groups]),
        "rlnAmplitudeContrast": np.array([g.amplitude_contrast for g in groups]),
        "rlnImagePixelSize": np.array([g.pixel_size_angstrom for g in groups]),
    }
    if all(g.box is not None for g in groups):
        columns["rlnImageSize"] = np.array([g.box for g in groups], dtype=np.int64)
    columns["rlnImageDimensionality"] = np.full(len(groups), 2)
    if any(g.ctf_premultiplied for g in groups):
        columns[PREMULTIPLIED] = np.array([int(g.ctf_premultiplied) for g in groups])
    if any(any(g.beam_tilt_xy_mrad) for g in groups):
        for axis, label in enumerate(BEAM_TILT):
            columns[label] = np.array([g.beam_tilt_xy_mrad[axis] for g in groups])
    for label, terms in zip(ZERNIKE, ([g.odd_zernike for g in groups], [g.even_zernike for g in groups])):
        if any(terms):
            length = max(map(len, terms))
            columns[label] = np.array([_bracketed(t, length) for t in terms], dtype=object)
    if any(g.magnification != IDENTITY for g in groups):
        for position, label in enumerate(MAGNIFICATION):
            columns[label] = np.array([g.magnification[position] for g in groups])
    return Table(columns, length=len(groups))


def _bracketed(terms: tuple[float, ...], length: int) -> str:
    return "[" + ",".join(f"{t:.12g}" for t in (*terms, *[0.0] * (length - len(terms)))) + "]"
