"""Conversion between formats of one kind: images and maps, or particle tables."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from parhelion.errors import FormatError, MetadataError, ParameterError
from parhelion.io.exchange import ImageFacts
from parhelion.io.formats import FORMATS, Format, format_of, output_format
from parhelion.io.particles import with_box
from parhelion.io.ranges import PIXEL_SIZE, check_range
from parhelion.io.stack import ImageStack
from parhelion.model.particles import ParticleSet
from parhelion.model.volume import Volume


def convert(
    src: Path | str,
    dst: Path | str,
    *,
    pixel_size_angstrom: float | None = None,
    to_format: str | None = None,
    facts: ImageFacts | None = None,
    change: Callable[[ParticleSet], ParticleSet] | None = None,
) -> list[str]:
    """Write what ``src`` holds to ``dst``, in the format of its extension or ``to_format``; return notes.

    ``pixel_size_angstrom`` overrules the input, ``facts`` say what a particle table may leave out, ``change``
    is applied to particles on the way. Images become a map and a map images where ``dst`` asks for
    it, values as they are. Raises FormatError or MetadataError where the input cannot be read or the output
    cannot hold it, OutputError where it cannot be written.
    """
    src, dst = Path(src), Path(dst)
    notes: list[str] = []
    source = format_of(src)
    if pixel_size_angstrom is not None:
        check_range(src, "pixel size", np.array([pixel_size_angstrom]), PIXEL_SIZE, notes)
    if source.kind == "particles":
        target = _target(dst, to_format, ("particles",))
        particles = _particles(source, src, pixel_size_angstrom, facts, notes)
        _write(target, dst, with_box(change(particles) if change else particles), notes)
        return notes
    first, second = ("volume", "stack") if source.kind == "volume" else ("stack", "volume")
    target = _target(dst, to_format, (first, second))
    if target.kind == "volume":
        _write(target, dst, _volume(source, src, pixel_size_angstrom, notes))
    else:
        stack = _stack(source, src)
        notes.extend(stack.notes)
        pixel = pixel_size_angstrom or stack.pixel_size_angstrom
        if pixel is None:
            raise MetadataError(f"{src} does not say its pixel size; give it with --pixel-size")
        _write(target, dst, stack, pixel)
    if source.kind != target.kind:
        notes.append(f"the {source.kind} in {src.name} was written as {target.kind}, section by section")
    return notes


def _target(dst: Path, to_format: str | None, kinds: tuple[str, ...]) -> Format:
    """The format to write, of the first of ``kinds`` that the extension allows."""
    if to_format is not None:
        chosen = FORMATS[to_format]
        if chosen.kind not in kinds:
            raise ParameterError(f"format {to_format} holds {chosen.kind}, the input is {kinds[0]}")
        if chosen.write is None:
            writable = ", ".join(f.name for f in FORMATS.values() if f.write is not None)
            raise ParameterError(f"format {to_format} is only read; what is written: {writable}")
        return chosen
    errors = []
    for kind in kinds:
        try:
            return output_format(dst, kind)  # type: ignore[arg-type]
        except FormatError as error:
            errors.append(error)
    raise errors[0]


def _particles(
    source: Format, src: Path, pixel_size_angstrom: float | None, facts: ImageFacts | None, notes: list[str]
) -> ParticleSet:
    if facts is None:
        return source.read(src, pixel_size_angstrom, notes)
    if not source.takes_facts:
        raise ParameterError(
            f"{src} is a table of format {source.name}, which says itself where its images are and what its "
            "optics are; stack, voltage, Cs and amplitude contrast can be given for cistem and par"
        )
    return source.read(src, pixel_size_angstrom, notes, facts=facts)


def _stack(source: Format, src: Path) -> ImageStack:
    if source.kind == "stack":
        return source.read(src)
    return format_of(src, kind="stack").read(src)


def _volume(source: Format, src: Path, pixel_size_angstrom: float | None, notes: list[str]) -> Volume:
    if source.kind == "volume":
        return source.read(src, pixel_size_angstrom)
    stack = source.read(src)
    notes.extend(stack.notes)
    pixel = pixel_size_angstrom or stack.pixel_size_angstrom
    if pixel is None:
        raise MetadataError(f"{src} does not say its pixel size; give it with --pixel-size")
    return Volume(data=stack.read(np.arange(len(stack))), pixel_size_angstrom=pixel)


def _write(target: Format, dst: Path, *content: object) -> None:
    if target.write is None:
        raise ParameterError(f"format {target.name} is only read")
    target.write(dst, *content)
