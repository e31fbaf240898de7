"""Masks: maps of values from 0 (outside) to 1 (inside)."""

from pathlib import Path

import numpy as np

from parhelion.errors import MetadataError
from parhelion.io.formats import format_of
from parhelion.model.volume import Volume

TOLERANCE = 1e-3
"""What interpolation in other programs leaves beyond 0 and 1."""


def read_mask(path: Path | str, like: Volume) -> Volume:
    """The mask in ``path`` for the map ``like``.

    Raises MetadataError where its shape or pixel size is not that of ``like``, where values lie outside 0
    to 1, and where it is empty. A mask without a pixel size takes that of ``like``.
    """
    try:
        mask = format_of(path, kind="volume").read(Path(path), None)
    except MetadataError:
        mask = format_of(path, kind="volume").read(Path(path), like.pixel_size_angstrom)
    if mask.data.shape != like.data.shape:
        found, wanted = (" x ".join(map(str, v.data.shape)) for v in (mask, like))
        raise MetadataError(
            f"the mask {path} has {found} voxels (z, y, x), the map {wanted}; make a mask for this map, "
            "or resample one of them"
        )
    if abs(mask.pixel_size_angstrom / like.pixel_size_angstrom - 1) > 0.01:
        raise MetadataError(
            f"the mask {path} has {mask.pixel_size_angstrom:g} Å per voxel, the map "
            f"{like.pixel_size_angstrom:g}; make a mask for this map, or resample one of them"
        )
    least, greatest = float(mask.data.min()), float(mask.data.max())
    if least < -TOLERANCE or greatest > 1 + TOLERANCE:
        raise MetadataError(f"values of the mask {path} run from {least:g} to {greatest:g}, expected 0 to 1")
    if greatest <= TOLERANCE:
        raise MetadataError(f"the mask {path} is empty: no value is above 0")
    return Volume(data=np.clip(mask.data, 0, 1), pixel_size_angstrom=like.pixel_size_angstrom)
