"""A refinement package on disk: a folder with a table of particles, a reference per class, and more.

``package.json`` says what no table has a place for: symmetry, mass and size of the particle, its references
with their half maps, and the refinements of the package. Paths in it are relative to its folder, so that the
folder can be moved. Refinements of the package that lie beside it are found by what they record of
themselves.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from parhelion.errors import FormatError, InputError
from parhelion.io.atomic import write_text

FILE, FORMAT = "package.json", "parhelion package 1"
RECORD = "job.json"
REFINING = ("abinitio", "refine", "refine-manual", "classify3d", "refine-ctf")
"""Jobs whose output is a refinement of the package whose particles they took."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The map that a class starts from, with its half maps where there are any; names in the folder.

    ``origin`` says where it comes from.
    """

    number: int
    map: str | None
    half1: str | None = None
    half2: str | None = None
    origin: str = ""


@dataclass(frozen=True, kw_only=True)
class Refinement:
    """Parameters and maps that a job made of the package's particles; absolute paths."""

    number: int
    job: str
    folder: str
    particles: str | None
    maps: tuple[str, ...] = ()
    half1: tuple[str, ...] = ()
    half2: tuple[str, ...] = ()
    finished: str = ""
    resolution_angstrom: float | None = None


@dataclass(frozen=True, kw_only=True)
class Package:
    """What ``package.json`` says. ``particles`` is the table's name in the folder, ``source`` where it is
    from."""

    name: str
    particles: str
    count: int
    classes: int
    symmetry: str
    mass_kda: float
    largest_dimension_angstrom: float
    box: int
    pixel_size_angstrom: float
    contrast: str
    stacks: tuple[str, ...]
    references: tuple[Reference, ...]
    refinements: tuple[Refinement, ...] = ()
    source: str = ""
    parameters: str = ""


def write_package(folder: Path, package: Package) -> Path:
    """Write ``package.json`` into ``folder``, whole or not at all. Raises OutputError."""
    path = folder / FILE
    write_text(path, json.dumps({"format": FORMAT, **asdict(package)}, indent=2, ensure_ascii=False) + "\n")
    return path


def is_package(path: Path) -> bool:
    """Whether a folder holds a package, or a file describes one."""
    return (path / FILE).is_file() if path.is_dir() else path.name == FILE


def read_package(path: Path | str) -> Package:
    """The package of a folder, or of its ``package.json``, with the refinements that lie beside it.

    Raises InputError where there is none, FormatError where its description is damaged.
    """
    path = Path(path)
    file = path / FILE if path.is_dir() else path
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror or error}; is it a package?") from error
    except ValueError as error:
        raise FormatError(f"{file} is damaged: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise FormatError(f"{file} does not describe a package; parhelion package writes one")
    try:
        package = _package(content)
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{file} lacks something, or has something of a wrong kind: {error}") from error
    return _with_refinements(file.parent, package)


def _package(content: Mapping[str, Any]) -> Package:
    known = {field.name for field in fields(Package)}
    values = {name: value for name, value in content.items() if name in known}
    values["stacks"] = tuple(str(name) for name in values["stacks"])
    values["references"] = tuple(Reference(**entry) for entry in values["references"])
    values["refinements"] = tuple(_refinement(entry) for entry in values.get("refinements", ()))
    package = Package(**values)
    numbers = (package.count, package.classes, package.box)
    if not all(isinstance(n, int) and n > 0 for n in numbers):
        raise ValueError(f"count, classes and box are whole numbers above 0, found {numbers}")
    sizes = (package.mass_kda, package.largest_dimension_angstrom, package.pixel_size_angstrom)
    if not all(isinstance(n, int | float) and n > 0 for n in sizes):
        raise ValueError(f"mass, largest dimension and pixel size are above 0, found {sizes}")
    _check_names(package)
    return package


def _check_names(package: Package) -> None:
    """ValueError for files of the package that are not in its folder."""
    maps = [name for r in package.references for name in (r.map, r.half1, r.half2) if name is not None]
    for name in (package.particles, *maps):
        if not isinstance(name, str) or Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"a name of a file in the package's folder is expected, found {name!r}")


def _refinement(entry: Mapping[str, Any]) -> Refinement:
    lists = {name: tuple(entry.get(name, ())) for name in ("maps", "half1", "half2")}
    return Refinement(**{**entry, **lists})


def _with_refinements(folder: Path, package: Package) -> Package:
    """The package with all its refinements, numbered in the order in which they were finished."""
    found = {Path(r.folder).resolve(): r for r in package.refinements}
    own = (folder / package.particles).resolve()
    for record in sorted(folder.resolve().parent.glob(f"*/{RECORD}")):
        if record.parent not in found and (one := run_of(record.parent, own)) is not None:
            found[record.parent] = one
    ordered = sorted(found.values(), key=lambda r: (r.finished, r.folder))
    numbered = tuple(Refinement(**{**asdict(r), "number": i}) for i, r in enumerate(ordered, 1))
    return Package(**{**_shallow(package), "refinements": numbered})


def _shallow(package: Package) -> dict[str, Any]:
    return {field.name: getattr(package, field.name) for field in fields(Package)}


def run_of(folder: Path, particles: Path | None = None) -> Refinement | None:
    """The finished refinement whose output ``folder`` is, None where it is none or is of other particles."""
    try:
        content = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        finished = content["status"] == "finished" and content["job"] in REFINING
        inputs = [Path(str(entry["absolute_path"])).resolve() for entry in content["inputs"]]
        written = {
            name: tuple(str(folder / one) for one in ([listed] if isinstance(listed, str) else listed))
            for name, listed in (content["outputs"] if finished else {}).items()
        }
        resolution = content.get("figures", {}).get("resolution_angstrom")
        when, job = str(content.get("finished", "")), str(content["job"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if not finished or (particles is not None and particles not in inputs):
        return None

    def paths(*names: str) -> tuple[str, ...]:
        return next((written[name] for name in names if name in written), ())

    tables = paths("particles")
    return Refinement(
        number=0,
        job=job,
        folder=str(folder.resolve()),
        particles=tables[0] if tables else None,
        maps=paths("maps", "class_maps", "map"),
        half1=paths("half1", "class_half1"),
        half2=paths("half2", "class_half2"),
        finished=when,
        resolution_angstrom=resolution if isinstance(resolution, int | float) else None,
    )
