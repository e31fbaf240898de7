"""Gain and dark references of detectors: MRC or TIFF, the ``.gain`` files of EER cameras among them.

A gain reference is multiplied. MRC and TIFF references are read as images and movies are (TIFF turned upside
down), ``.gain`` files as stored, as the EER movies that they belong to. ``rotation`` and ``flip`` do what
RELION's ``--gain_rot`` and ``--gain_flip`` do.
"""

from pathlib import Path

import numpy as np

from parhelion.errors import FormatError, InputError, ParameterError
from parhelion.io.formats import open_images
from parhelion.io.tiff import read_first_page

GATAN_SUFFIXES = (".dm3", ".dm4")
FLIPS = {0: "none", 1: "upside down (y)", 2: "left to right (x)"}


def read_gain(
    path: Path | str,
    notes: list[str] | None = None,
    *,
    rotation: int = 0,
    flip: int = 0,
    shape: tuple[int, int] | None = None,
    eer_movie: bool = False,
) -> np.ndarray:
    """Gain reference ``(y, x)`` float32, to be multiplied; zeros are dead pixels.

    ``rotation`` (0 to 3) turns the stored reference clockwise by that many quarter turns, in the display with
    the first row on top; then ``flip`` mirrors it: 1 upside down, 2 left to right. ``shape`` (y, x) of the
    movie's frames is checked where it is given. For an ``eer_movie`` the reference is repeated or averaged to
    the up-sampled grid, and one that is no ``.gain`` file is taken as the reciprocal, as RELION does.
    ``notes`` receives the number of zeros. Raises FormatError where the file holds more than one image, or
    values that are negative or not finite, and InputError where its size does not fit.
    """
    path = Path(path)
    gain = _read_one(path, "gain reference", notes)
    broken = int(np.count_nonzero(~np.isfinite(gain) | (gain < 0)))
    if broken:
        raise FormatError(f"{broken:,} of {gain.size:,} values in the gain {path} are negative or not finite")
    zeros = int(np.count_nonzero(gain == 0))
    if zeros == gain.size:
        raise FormatError(f"the gain reference {path} is zero everywhere")
    if zeros and notes is not None:
        notes.append(f"{path.name}: {zeros:,} of {gain.size:,} pixels have gain 0 (dead pixels)")
    gain = oriented(gain, rotation, flip)
    if eer_movie:
        if shape is not None:
            gain = _on_grid(gain, shape)
        if path.suffix.lower() != ".gain":
            gain = _reciprocal(gain)
            if notes is not None:
                notes.append(f"{path.name} is no .gain file: taken as the reciprocal gain of an EER detector")
    if shape is not None:
        check_size(gain.shape, shape, f"the gain reference {path}")
    return np.ascontiguousarray(gain)


def read_dark(
    path: Path | str, *, rotation: int = 0, flip: int = 0, shape: tuple[int, int] | None = None
) -> np.ndarray:
    """Dark reference ``(y, x)`` float32, to be subtracted from every frame before the gain is applied.

    ``rotation``, ``flip`` and ``shape`` as in ``read_gain``. Raises FormatError where the file holds more
    than one image or values that are not finite, InputError where its size does not fit.
    """
    dark = _read_one(Path(path), "dark reference")
    if not np.isfinite(dark).all():
        raise FormatError(f"the dark reference {path} holds values that are not finite")
    dark = oriented(dark, rotation, flip)
    if shape is not None:
        check_size(dark.shape, shape, f"the dark reference {path}")
    return np.ascontiguousarray(dark)


def oriented(image: np.ndarray, rotation: int, flip: int) -> np.ndarray:
    """``image`` turned clockwise by ``rotation`` quarter turns (first row on top), then mirrored.

    ``flip`` 1 reverses the rows, 2 the columns. Raises ParameterError for other numbers.
    """
    if rotation not in (0, 1, 2, 3):
        raise ParameterError(
            f"the rotation of a reference is {rotation}, expected 0, 1, 2 or 3 quarter turns"
        )
    if flip not in FLIPS:
        known = ", ".join(f"{number} {name}" for number, name in FLIPS.items())
        raise ParameterError(f"the flip of a reference is {flip}, expected one of: {known}")
    turned = np.rot90(image, -rotation)
    if flip == 1:
        return turned[::-1]
    return turned[:, ::-1] if flip == 2 else turned


def check_size(found: tuple[int, ...], expected: tuple[int, int], what: str) -> None:
    """Raise InputError where a reference of shape ``found`` (y, x) does not fit frames of ``expected``."""
    if tuple(found) == tuple(expected):
        return
    y, x = found
    message = f"{what} has {x} x {y} pixels, the frames {expected[1]} x {expected[0]} (x, y)"
    factor = expected[0] / y
    if (x, y) == expected:
        advice = "a quarter turn would fit: --gain-rotation 90 or 270"
    elif factor == expected[1] / x and factor.is_integer():
        advice = (
            f"the frames are exactly {factor:.0f} times finer: a reference of super-resolution frames is "
            "needed, or frames that are not up-sampled"
        )
    elif factor == expected[1] / x and (1 / factor).is_integer():
        advice = f"the reference is exactly {1 / factor:.0f} times finer: give one of the frames' size"
    else:
        advice = "give the reference of this detector and read-out mode"
    raise InputError(f"{message}; {advice}")


def _read_one(path: Path, what: str, notes: list[str] | None = None) -> np.ndarray:
    suffix = path.suffix.lower()
    if suffix in GATAN_SUFFIXES:
        raise FormatError(
            f"{path}: Gatan's {path.suffix} files are not read; convert it to MRC, "
            f"for example with IMOD: dm2mrc {path.name} {path.stem}.mrc"
        )
    if suffix == ".gain":
        image, count = read_first_page(path)
        if count > 1 and notes is not None:
            notes.append(f"{path.name}: the first of {count} pages is the gain reference")
        return image
    stack = open_images(path)
    if len(stack) != 1:
        raise FormatError(f"{path} holds {len(stack)} images, a {what} is one")
    return stack.read(np.array([0]))[0]


def _on_grid(gain: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The reference repeated to a finer grid or averaged to a coarser one, if a whole factor leads there."""
    for factor in (2, 4):
        if shape == (gain.shape[0] * factor, gain.shape[1] * factor):
            return gain.repeat(factor, axis=0).repeat(factor, axis=1)
        if gain.shape == (shape[0] * factor, shape[1] * factor):
            blocks = gain.reshape(shape[0], factor, shape[1], factor)
            return blocks.mean(axis=(1, 3), dtype=np.float64).astype(np.float32)
    return gain


def _reciprocal(gain: np.ndarray) -> np.ndarray:
    """``mean / gain``, and 0 where the gain is 0."""
    mean = np.float32(gain.mean(dtype=np.float64))
    return np.divide(mean, gain, out=np.zeros_like(gain), where=gain != 0)
