"""MRC2014 images and maps: reading, and writing of what RELION, ChimeraX and cisTEM open.

Values are kept as they are in the file; contrast is flipped elsewhere. Modes 0, 1, 2, 6, 12 and 101 are
images and maps; mode 4 is a Fourier transform, which only ``read_transform`` reads.
"""

from pathlib import Path

import numpy as np

from parhelion.errors import FormatError, InputError, MetadataError, OutputError
from parhelion.io.atomic import atomic_path
from parhelion.io.mrc_header import MrcHeader, read_header
from parhelion.io.mrc_writer import StackWriter, header_bytes, statistics
from parhelion.io.packed import PackedSections, unpack
from parhelion.io.stack import ImageStack, Sections
from parhelion.model.volume import Volume

__all__ = [
    "ImageStack",
    "MrcHeader",
    "StackWriter",
    "open_stack",
    "read_header",
    "read_transform",
    "read_volume",
    "write_volume",
]


def _mapped(header: MrcHeader) -> np.ndarray:
    """The file's elements (sections, rows, columns), memory-mapped and read-only."""
    try:
        return np.memmap(header.path, header.dtype, mode="r", offset=header.offset, shape=header.byte_shape)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot map {header.path} into memory: {error}") from error


def open_stack(path: Path | str) -> ImageStack:
    """The images of an MRC file, one per section, read when asked for.

    A map opens as the stack of its sections. Raises FormatError for transforms, stacks of maps, and files
    whose sections do not run along z.
    """
    header = read_header(path)
    if header.mode == 4:
        raise FormatError(f"{path} holds a Fourier transform (mode 4), images are expected")
    if header.kind == "volume_stack":
        raise FormatError(f"{path} holds {header.volumes} maps, a stack of images is expected")
    if header.axes[2] != 3:
        raise FormatError(f"{path} has axis order {header.axes}: its sections are no images along z")
    sections: Sections = _mapped(header)
    if header.packed:
        sections = PackedSections(_mapped(header), header.stored_shape[2])
    return ImageStack(
        header.path,
        sections,
        pixel_size_angstrom=header.pixel_size_angstrom,
        notes=header.notes,
        transposed=header.axes[0] == 2,
    )


def read_volume(
    path: Path | str, pixel_size_angstrom: float | None = None, *, number: int | None = None
) -> Volume:
    """The map in an MRC file as ``(z, y, x)`` float32; ``pixel_size_angstrom`` overrules the header.

    ``number`` (from 0) picks one map of a stack of maps. Raises FormatError for values that are not finite
    and for files that hold something else, MetadataError where the pixel size is unknown or not the same
    along all axes.
    """
    header = read_header(path)
    if header.mode == 4:
        raise FormatError(f"{path} holds a Fourier transform (mode 4), a map is expected")
    if header.volumes > 1 and number is None:
        raise FormatError(f"{path} holds {header.volumes} maps, one map is expected; split the file first")
    if number is not None and not 0 <= number < header.volumes:
        raise FormatError(f"map {number + 1} of {path} is asked for, which holds {header.volumes}")
    pixel = pixel_size_angstrom if pixel_size_angstrom is not None else _isotropic(header)
    stored = _mapped(header)
    if header.volumes > 1 and number is not None:
        sections = len(stored) // header.volumes
        stored = stored[number * sections : (number + 1) * sections]
    if header.packed:
        stored = unpack(stored, header.stored_shape[2])
    with np.errstate(over="ignore"):
        data = np.ascontiguousarray(stored.transpose(header.to_zyx), dtype=np.float32)
    broken = data.size - int(np.count_nonzero(np.isfinite(data)))
    if broken:
        raise FormatError(
            f"{broken:,} of the {data.size:,} values in {path} are not finite (NaN or infinity)"
        )
    return Volume(data=data, pixel_size_angstrom=pixel)


def _isotropic(header: MrcHeader) -> float:
    """The one edge of all voxels; MetadataError where the header does not give one."""
    known = [edge for edge in header.voxel_xyz_angstrom if edge]
    if not known:
        raise MetadataError(f"{header.path} does not say its pixel size; give it with --pixel-size")
    if max(known) > 1.01 * min(known):
        edges = " x ".join(f"{edge:.4g}" for edge in known)
        raise MetadataError(
            f"the voxels of {header.path} measure {edges} Å (x, y, z), cubic voxels are needed; "
            "resample the map in a program that takes such voxels, or give the pixel size where the header "
            "is wrong"
        )
    return known[0]


def read_transform(path: Path | str) -> np.ndarray:
    """The Fourier transform in a mode 4 file, ``(z, y, x)`` complex64, as stored.

    Columns run over the non-negative frequencies of x (``nx // 2 + 1`` of them where a program wrote the
    half that Friedel's law leaves); the order of rows and sections and the scale are the writing program's.
    """
    header = read_header(path)
    if header.mode != 4:
        raise FormatError(f"{path} has mode {header.mode}, a Fourier transform has mode 4")
    return np.ascontiguousarray(_mapped(header).transpose(header.to_zyx), dtype=np.complex64)


def write_volume(path: Path | str, volume: Volume) -> None:
    """Write a map as mode 2, whole or not at all. Raises OutputError."""
    data = np.ascontiguousarray(volume.data, dtype="<f4")
    if not np.isfinite(data).all():
        raise OutputError(f"the map for {path} holds values that are not finite; it was not written")
    header = header_bytes(data.shape, data.dtype, volume.pixel_size_angstrom, False, statistics([data]))
    with atomic_path(path) as partial, partial.open("xb") as stream:
        stream.write(header)
        data.tofile(stream)
