"""What ``spa`` may start from: particles, micrographs or movies."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator

from parhelion.errors import FormatError, InputError
from parhelion.jobs._inputs import MAP_SUFFIXES, check_exists, check_particles, expand, expand_one
from parhelion.jobs._micrographs import one_kind
from parhelion.registry import FileKind

Start = Literal["particles", "micrographs", "movies"]
PARTICLE_SUFFIXES = (".cs", ".par", ".cistem")


def kind_of(paths: Sequence[Path]) -> Start:
    """What the files hold. Raises InputError for tables of anything else."""
    if _is_particle_table(paths):
        return "particles"
    from parhelion.io.relion_micrographs import read_micrographs

    return "movies" if read_micrographs(paths, pixel_size_angstrom=1.0, needs=()).movies else "micrographs"


def _is_particle_table(paths: Sequence[Path]) -> bool:
    if len(paths) != 1:
        return False
    path = paths[0]
    if path.suffix.lower() == ".star":
        from parhelion.io.star import read_star

        tables = [table for name, table in read_star(path).items() if name != "optics"]
        lists_files = any("rlnMicrographName" in t or "rlnMicrographMovieName" in t for t in tables)
        return not lists_files or any("rlnImageName" in table for table in tables)
    return path.suffix.lower() in PARTICLE_SUFFIXES


def usable(paths: tuple[Path, ...]) -> tuple[Path, ...]:
    """InputError unless the files are one of the three."""
    if _is_particle_table(paths):
        check_particles(paths[0])
        return paths
    for path in paths:
        _refuse_volume(path)
    return one_kind(paths)


def _refuse_volume(path: Path) -> None:
    """InputError for a map, whose sections would pass for the frames of a movie."""
    from parhelion.io.mrc_header import read_header

    if path.suffix.lower() not in MAP_SUFFIXES:
        return
    try:
        header = read_header(path)
    except FormatError:
        return  # one damaged file of many is named where it is read
    if not header.is_stack and header.shape[0] == header.shape[1] == header.shape[2]:
        raise InputError(
            f"{path} is a three-dimensional map; particles, micrographs or movies are expected (a starting "
            "map goes to --reference)"
        )


StartFile = Annotated[
    Path, BeforeValidator(expand_one), FileKind("particles, micrographs or movies", check_exists)
]
StartFiles = Annotated[tuple[StartFile, ...], BeforeValidator(expand), AfterValidator(usable)]
"""A table of particles, micrographs or movies, or any number of micrograph or movie files."""
