"""Every file format that parhelion knows, and the choice of one for a file."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from parhelion.catalogue import Registry
from parhelion.errors import FormatError, InputError
from parhelion.io import (
    cistem,
    cistem_binary,
    cistem_writer,
    cryosparc,
    cryosparc_writer,
    frealign,
    mrc,
    relion,
    relion_writer,
    spider,
    tiff,
)
from parhelion.io.mrc_header import LENGTH
from parhelion.io.stack import ImageStack
from parhelion.model.particles import ParticleSet

Kind = Literal["stack", "volume", "particles"]
HELD: dict[str, str] = {
    "stack": "a stack of images",
    "volume": "a map",
    "particles": "a table of particles",
}
CHUNK_BYTES = 64 * 2**20
HEAD_BYTES = 16_384


@dataclass(frozen=True, kw_only=True)
class Format:
    """One format for one kind of content.

    ``sniff(head)`` says whether a file that begins so may be of the format.
    ``read`` is called as ``read(path)`` for a stack (→ ``ImageStack``), ``read(path, pixel_size)`` for a
    volume (→ ``Volume``), ``read(path, pixel_size, notes)`` for particles (→ ``ParticleSet``); ``write`` as
    ``write(path, stack, pixel_size)``, ``write(path, volume)``, ``write(path, particles[, notes])``. It is
    None where parhelion only reads. ``takes_facts`` marks tables that may leave out stack or optics: their
    ``read`` takes them as ``facts=exchange.ImageFacts(…)``.
    """

    name: str
    kind: Kind
    extensions: tuple[str, ...]
    sniff: Callable[[bytes], bool]
    read: Callable[..., Any]
    write: Callable[..., None] | None = None
    takes_facts: bool = False


FORMATS: Registry[Format] = Registry("format")


def _register(**fields: Any) -> None:
    FORMATS.register(fields["name"], Format(**fields))


def chunks_of(stack: ImageStack) -> list[np.ndarray]:
    """Runs of image numbers that take about 64 MiB each."""
    step = max(1, CHUNK_BYTES // (4 * stack.shape[1] * stack.shape[2]))
    return [np.arange(start, min(start + step, len(stack))) for start in range(0, len(stack), step)]


def _write_mrc_stack(path: Path, stack: ImageStack, pixel_size_angstrom: float) -> None:
    with mrc.StackWriter(path, len(stack), stack.shape[1:], pixel_size_angstrom) as writer:
        for run in chunks_of(stack):
            writer.write(int(run[0]), stack.read(run))


def _write_tiff_stack(path: Path, stack: ImageStack, pixel_size_angstrom: float) -> None:
    images = (stack.read(run) for run in chunks_of(stack))
    tiff.write_tiff(path, images, stack.shape, pixel_size_angstrom)


def _is_mrc(head: bytes) -> bool:
    return len(head) >= LENGTH and head[208:211] == b"MAP"


def _is_tiff(head: bytes) -> bool:
    return head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def _is_star(head: bytes) -> bool:
    return b"data_" in head and b"\0" not in head


_register(
    name="mrcs",
    kind="stack",
    extensions=(".mrcs", ".st", ".ali", ".preali", ".mrc"),
    sniff=_is_mrc,
    read=mrc.open_stack,
    write=_write_mrc_stack,
)
_register(
    name="mrc",
    kind="volume",
    extensions=(".mrc", ".map", ".ccp4", ".rec"),
    sniff=_is_mrc,
    read=mrc.read_volume,
    write=mrc.write_volume,
)
_register(
    name="tiff",
    kind="stack",
    extensions=(".tif", ".tiff"),
    sniff=_is_tiff,
    read=tiff.open_tiff,
    write=_write_tiff_stack,
)
_register(
    name="spider",
    kind="stack",
    extensions=(".spi", ".stk", ".hbl"),
    sniff=spider.is_spider,
    read=spider.open_spider,
)
_register(
    name="spider-volume",
    kind="volume",
    extensions=(".spi", ".vol", ".hbl"),
    sniff=spider.is_spider,
    read=spider.read_spider_volume,
)


def _read_relion(path: Path, pixel_size_angstrom: float | None, notes: list[str]) -> ParticleSet:
    return relion.read_relion(path, pixel_size_angstrom=pixel_size_angstrom, notes=notes)


def _write_relion(path: Path, particles: ParticleSet, notes: list[str] | None = None) -> None:
    relion_writer.write_relion(path, particles)


def _write_relion_30(path: Path, particles: ParticleSet, notes: list[str] | None = None) -> None:
    relion_writer.write_relion(path, particles, version="3.0")


_register(
    name="cistem",
    kind="particles",
    extensions=(),
    sniff=lambda head: _is_star(head) and b"_cisTEMPositionInStack" in head,
    read=cistem.read_cistem,
    write=cistem_writer.write_cistem,
    takes_facts=True,
)
_register(
    name="cistem-binary",
    kind="particles",
    extensions=(".cistem",),
    sniff=cistem_binary.is_cistem_binary,
    read=cistem_binary.read_cistem_binary,
    write=cistem_binary.write_cistem_binary,
    takes_facts=True,
)
_register(
    name="star",
    kind="particles",
    extensions=(".star",),
    sniff=_is_star,
    read=_read_relion,
    write=_write_relion,
)
_register(
    name="star30",
    kind="particles",
    extensions=(),
    sniff=_is_star,
    read=_read_relion,
    write=_write_relion_30,
)
_register(
    name="cs",
    kind="particles",
    extensions=(".cs",),
    sniff=lambda head: head.startswith(b"\x93NUMPY"),
    read=cryosparc.read_cryosparc,
    write=cryosparc_writer.write_cryosparc,
)
_register(
    name="par",
    kind="particles",
    extensions=(".par",),
    sniff=frealign.is_par,
    read=frealign.read_par,
    write=frealign.write_par,
    takes_facts=True,
)


def format_of(path: Path | str, kind: Kind | None = None) -> Format:
    """The format of an existing file: by its content where that is plain, else by its extension.

    ``kind`` leaves only formats of that kind. Raises InputError where the file cannot be opened and
    FormatError where no format fits.
    """
    path = Path(path)
    try:
        with path.open("rb") as stream:
            head = stream.read(HEAD_BYTES)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    candidates = [f for f in FORMATS.values() if kind in (None, f.kind)]
    suffix = path.suffix.lower()
    choice = [f for f in candidates if f.sniff(head)] or [f for f in candidates if suffix in f.extensions]
    if not choice:
        other = [f.kind for f in FORMATS.values() if f.sniff(head)]
        if kind is not None and other:
            found = "images or a map" if {"stack", "volume"} <= set(other) else HELD[other[0]]
            raise FormatError(f"{path} holds {found}, {HELD[kind]} is expected")
        known = ", ".join(sorted({e for f in candidates for e in f.extensions}))
        raise FormatError(f"{path} is of no known format; known extensions are {known}")
    if {f.kind for f in choice} == {"stack", "volume"}:
        # one file type for images and maps: what this file holds decides
        mrc_like = choice[0].name == "mrcs"
        images = mrc.read_header(path).is_stack if mrc_like else spider.holds_images(path)
        choice = [f for f in choice if (f.kind == "stack") == images]
    return choice[0]


def output_format(path: Path | str, kind: Kind) -> Format:
    """The format to write ``kind`` in, by the extension of ``path``.

    Raises FormatError where none is written with that extension.
    """
    suffix = Path(path).suffix.lower()
    writable = [f for f in FORMATS.values() if f.kind == kind and f.write is not None]
    for candidate in writable:
        if suffix in candidate.extensions:
            return candidate
    known = ", ".join(sorted({e for f in writable for e in f.extensions}))
    raise FormatError(
        f"{path}: {kind} cannot be written as {suffix or 'a file without extension'}; choose {known}"
    )


def open_images(path: Path | str) -> ImageStack:
    """The images in a file of any known format. Raises InputError or FormatError."""
    return format_of(path, kind="stack").read(Path(path))
