"""Typed inputs: path parameters that expand patterns, exist, and are checked to be of their kind.

Use them as types of a job's parameters: ``input: MapFile``, ``input: TwoMaps``, ``mask: MapFile | None``.
"""

import glob
import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

from parhelion.errors import FormatError, InputError
from parhelion.registry import FileKind
from parhelion.registry.validate import suggest

MAP_SUFFIXES = (".mrc", ".map", ".ccp4")
MODEL_SUFFIXES = (".cif", ".mmcif", ".pdb", ".ent")


def expand(value: Any) -> Any:
    """Paths from one or more paths or quoted patterns; a pattern's matches come in sorted order."""
    if isinstance(value, str | Path):
        value = [value]
    if not isinstance(value, list | tuple):
        return value
    paths: list[Any] = []
    for item in value:
        text = str(item)
        if glob.has_magic(text) and not Path(text).exists():
            matches = sorted(glob.glob(str(Path(text).expanduser())))
            if not matches:
                raise InputError(f"no file matches {text}")
            paths += [Path(match) for match in matches]
        else:
            paths.append(item)
    return paths


def expand_one(value: Any) -> Any:
    """One existing file from a path or a pattern that matches exactly one."""
    if isinstance(value, list | tuple):
        if len(value) != 1:
            raise InputError(f"one file is expected here, found {len(value)}: {' '.join(map(str, value))}")
        value = value[0]
    if not isinstance(value, str | Path):
        return value
    found = expand(value)
    if len(found) != 1:
        raise InputError(f"one file is expected, {value} matches {len(found)}")
    path = Path(found[0]).expanduser()
    if path.is_dir():
        table = path / "particles.star"
        hint = f", such as {table}" if table.is_file() else ""
        raise InputError(f"{path} is a folder; a file is expected{hint}")
    if not path.exists():
        folder = path.parent
        names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
        missing = f"no such file: {path}" if folder.is_dir() else f"no such file: {path} (nor the folder)"
        raise InputError(missing + suggest(path.name, names))
    if not os.access(path, os.R_OK):
        raise InputError(f"{path} cannot be read: permission denied")
    return path


def check_map(path: Path) -> None:
    """Raise FormatError where the file is no three-dimensional map."""
    from parhelion.io import mrc

    try:
        header = mrc.read_header(path)
    except FormatError:
        if _is_table(path):
            raise FormatError(
                f"{path} is a table of particles, a three-dimensional map is expected"
            ) from None
        raise
    if header.is_stack or min(header.shape) < 2:
        z, y, x = header.shape
        raise FormatError(f"{path} holds {z} images of {x} x {y} pixels, a three-dimensional map is expected")


def _is_table(path: Path) -> bool:
    from parhelion.io.formats import format_of

    try:
        return format_of(path, kind="particles").sniff(path.read_bytes()[:4096])
    except (InputError, OSError):
        return False


def known_symmetry(name: str) -> str:
    """The name as it is; ParameterError where no point group is called so."""
    from parhelion.geometry.symmetry import symmetry_group

    symmetry_group(name)
    return name


def check_exists(path: Path) -> None:
    """Nothing beyond the existence that every input is checked for."""


def check_particles(path: Path) -> None:
    """Raise InputError where the file is no table of particles."""
    from parhelion.io.particles import read_particles

    # whether the pixel size is known is for the job to say: the user may give it
    read_particles(path, pixel_size_angstrom=1.0)


def check_model(path: Path) -> None:
    """Raise FormatError where the file is neither an atomic model nor a map."""
    if path.suffix.lower() in MAP_SUFFIXES:
        check_map(path)
    elif not path.name.lower().removesuffix(".gz").endswith(MODEL_SUFFIXES):
        expected = ", ".join((*MODEL_SUFFIXES, *MAP_SUFFIXES))
        raise FormatError(f"{path} is neither an atomic model nor a map (expected {expected})")


def check_not_the_same(paths: tuple[Path, Path]) -> tuple[Path, Path]:
    """InputError for one map given twice: it would agree with itself perfectly."""
    if paths[0].samefile(paths[1]):
        raise InputError(
            f"both maps are the same file, {paths[0]}; two different ones are needed, such as two half maps"
        )
    return paths


File = Annotated[Path, BeforeValidator(expand_one), FileKind("file", check_exists)]
Files = Annotated[tuple[File, ...], BeforeValidator(expand)]
MapFile = Annotated[Path, BeforeValidator(expand_one), FileKind("map", check_map)]
TwoMaps = Annotated[tuple[MapFile, MapFile], BeforeValidator(expand), AfterValidator(check_not_the_same)]
Maps = Annotated[tuple[MapFile, ...], BeforeValidator(expand)]
ParticlesFile = Annotated[Path, BeforeValidator(expand_one), FileKind("particles", check_particles)]
ModelFile = Annotated[Path, BeforeValidator(expand_one), FileKind("atomic model or map", check_model)]
Symmetry = Annotated[str, AfterValidator(known_symmetry)]
"""Name of a point group in RELION's setting (C1, D2, T, O, I1 …), upper or lower case."""
