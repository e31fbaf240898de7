"""What jobs on maps share: the pixel-size option, the size of a map, and reading of maps that must fit."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parhelion.errors import InputError
from parhelion.jobs._inputs import MAP_SUFFIXES
from parhelion.registry import Estimate, option

if TYPE_CHECKING:
    from parhelion.model.volume import Volume

PIXEL_TOLERANCE = 0.001
MASK_TOLERANCE = 0.01
"""Pixel sizes of a mask and a map that differ by less are rounded differently, no more."""
PROJECTOR_BYTES_PER_VOXEL = 106
COMPILED_CODE_BYTES = 150_000_000
PIXELS_AT_ONCE = 64 * 96**2
BYTES_PER_PIXEL = 150
"""Measured: memory of a projector with its compiled kernels, and of the images that a thread makes."""


def pixel_size_option() -> Any:
    """``--pixel-size`` for maps whose header is wrong."""
    return option(
        None,
        help="pixel size of the input, where its header is wrong",
        unit="Å",
        ge=0.1,
        le=30,
        default_text="from the header",
    )


def voxels(path: Path) -> int:
    """Number of voxels of a map, from its header."""
    from parhelion.io import mrc

    z, y, x = mrc.read_header(path).shape
    return z * y * x


def images_at_once(box: int) -> int:
    """How many images of ``box`` pixels a thread makes at a time: memory stays the same for any box."""
    return min(64, max(4, PIXELS_AT_ONCE // box**2))


def projecting(box: int, images: int, *, memory_before: int = 0) -> Estimate:
    """Estimate for making ``images`` projections; ``memory_before`` is needed before that, and freed."""
    memory = COMPILED_CODE_BYTES + max(memory_before, PROJECTOR_BYTES_PER_VOXEL * box**3)
    return Estimate(
        memory_bytes=memory,
        per_thread_bytes=images_at_once(box) * BYTES_PER_PIXEL * box**2,
        disk_bytes=4 * (images * box**2 + box**3),
    )


def read_pair(paths: tuple[Path, Path], pixel_size: float | None) -> tuple["Volume", "Volume"]:
    """Two maps of one shape and pixel size; InputError, naming both files, where they differ."""
    from parhelion.io import mrc

    first, second = (mrc.read_volume(path, pixel_size) for path in paths)
    pixels = first.pixel_size_angstrom, second.pixel_size_angstrom
    if abs(pixels[1] / pixels[0] - 1) > PIXEL_TOLERANCE:
        raise InputError(
            f"{paths[0]} has {pixels[0]:.4f} Å per pixel, {paths[1]} {pixels[1]:.4f} Å; resample one, "
            "or give --pixel-size where a header is wrong"
        )
    if first.data.shape != second.data.shape:
        raise InputError(
            f"{paths[0]} has {_shape(first)} voxels, {paths[1]} {_shape(second)}; resample one of them"
        )
    return first, second


def read_mask(path: Path, like: "Volume", name: Path) -> "Volume":
    """A mask in the frame of the map ``like`` (called ``name``); InputError where it does not fit."""
    from parhelion.io import mrc
    from parhelion.model.volume import Volume

    mask = mrc.read_volume(path, like.pixel_size_angstrom)
    if mask.data.shape != like.data.shape:
        raise InputError(
            f"mask {path} has {_shape(mask)} voxels, map {name} has {_shape(like)}: the mask belongs to "
            "another map; make one with parhelion mask"
        )
    check_mask_pixel(path, (like.pixel_size_angstrom,), (name,))
    low, high = float(mask.data.min()), float(mask.data.max())
    if low < -1e-4 or high > 1 + 1e-4 or high <= 0:
        raise InputError(f"mask {path} has values from {low:g} to {high:g}, expected 0 to 1")
    return Volume(data=mask.data, pixel_size_angstrom=like.pixel_size_angstrom)


def check_mask_pixel(path: Path, wanted: Sequence[float], of: Sequence[Path]) -> None:
    """InputError where the mask's header states another pixel size than those ``wanted`` (Å).

    A header says nothing with 0 or 1, which is what programs write that do not know it, nor where the header
    of a map among ``of`` says the same, which then was overruled for both.
    """
    from parhelion.io import mrc

    found = mrc.read_header(path).pixel_size_angstrom
    headers = [mrc.read_header(one).pixel_size_angstrom for one in of if one.suffix.lower() in MAP_SUFFIXES]
    if not found or found == 1 or any(_same(found, one) for one in (*wanted, *headers) if one):
        return
    raise InputError(
        f"mask {path} has {found:.4g} Å per pixel, {of[0]} has {wanted[0]:.4g}: the mask belongs to another "
        "map; resample it, or correct its header (parhelion resample with --input-pixel-size)"
    )


def _same(one: float, other: float) -> bool:
    return abs(one / other - 1) <= MASK_TOLERANCE


def _shape(volume: "Volume") -> str:
    return " x ".join(str(n) for n in volume.data.shape)
