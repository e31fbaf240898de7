"""Reading what a package is made from, and making its classes and references (``package``)."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parhelion.errors import InputError, MetadataError, ParameterError
from parhelion.jobs._inputs import expand

if TYPE_CHECKING:
    from parhelion.contracts import ParticleSource
    from parhelion.io.package import Package, Refinement
    from parhelion.jobs.package import Params
    from parhelion.model.particles import ParticleSet
    from parhelion.model.volume import Volume
    from parhelion.run.context import Context

    Made = tuple[Volume, tuple[Volume, Volume] | None, str]
    """A map, its half maps, and where they come from."""

TABLE = "particles.star"
USUAL_MASS_KDA, USUAL_DIAMETER_ANGSTROM = 300.0, 150.0


def table_of(value: Any) -> Any:
    """Of a folder the file that describes it: ``package.json``, else ``particles.star``."""
    from parhelion.io.package import FILE

    if not isinstance(value, str | Path):
        return value
    path = Path(value).expanduser()
    if not path.is_dir():
        return value
    for name in (FILE, TABLE):
        if (path / name).is_file():
            return path / name
    raise InputError(f"{path} is a folder without {FILE} or {TABLE}; a package or a refinement has one")


def tables_of(value: Any) -> Any:
    """``table_of`` of one or more paths or patterns."""
    found = expand(value)
    return [table_of(item) for item in found] if isinstance(found, list) else found


@dataclass(frozen=True, kw_only=True)
class Source:
    """Particles (one table, or one per class) and what is known of them from where they come.

    ``maps``, ``half1`` and ``half2`` are those of the refinement that the parameters are of.
    """

    tables: tuple["ParticleSet", ...]
    origin: str
    template: "Package | None" = None
    maps: tuple[Path, ...] = ()
    half1: tuple[Path, ...] = ()
    half2: tuple[Path, ...] = ()
    said: dict[str, Any] = field(default_factory=dict)
    """Symmetry, mass and diameter that a refinement which is of no package was given."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What no table says of the particle."""

    name: str
    symmetry: str
    mass_kda: float
    diameter_angstrom: float


def facts_of(params: "Params", source: Source, name: str) -> Facts:
    """As the options say, else as the earlier package or refinement, else cisTEM's defaults."""
    template, said = source.template, source.said

    def value(given: Any, field: str, usual: Any) -> Any:
        if given is not None:
            return given
        return usual if template is None else getattr(template, field)

    largest = said.get("diameter", USUAL_DIAMETER_ANGSTROM)
    return Facts(
        name=value(params.name, "name", name),
        symmetry=value(params.symmetry, "symmetry", said.get("symmetry", "C1")),
        mass_kda=value(params.mass, "mass_kda", said.get("mass", USUAL_MASS_KDA)),
        diameter_angstrom=value(params.diameter, "largest_dimension_angstrom", largest),
    )


def _said_to(run: "Refinement") -> dict[str, Any]:
    """Symmetry, mass and diameter that a refinement was given, as far as it was."""
    from parhelion.run.folder import read_record

    record = read_record(Path(run.folder)) or {}
    given = record.get("parameters", {})
    found = {name: given.get(name) for name in ("mass", "diameter")}
    groups = given.get("symmetry")
    groups = {groups} if isinstance(groups, str) else set(groups or ())
    found["symmetry"] = groups.pop() if len(groups) == 1 else None
    return {name: value for name, value in found.items() if value is not None}


def read_source(params: "Params", context: "Context") -> Source:
    """The particles that ``--input`` names, of the refinement that ``--refinement`` names."""
    from parhelion.io.package import is_package, read_package, run_of

    paths = params.input
    if len(paths) > 1:
        if any(is_package(path) for path in paths):
            raise InputError("several inputs are tables of one class each; a package is the only input")
        tables = tuple(_read(path, params, context) for path in paths)
        return Source(tables=tables, origin=", ".join(map(str, paths)))
    (path,) = paths
    if is_package(path):
        package = read_package(path)
        chosen = _refinement(package, params.refinement)
        if chosen is None:
            folder = path.parent
            refs = package.references
            return Source(
                tables=(_read(folder / package.particles, params, context),),
                origin=f"{path}, its own parameters",
                template=package,
                maps=tuple(folder / r.map for r in refs if r.map),
                half1=tuple(folder / r.half1 for r in refs if r.half1),
                half2=tuple(folder / r.half2 for r in refs if r.half2),
            )
        return _of_refinement(chosen, params, context, package)
    if params.refinement != "last":
        raise ParameterError(f"--refinement {params.refinement} is for a package; {path} is a table")
    run = run_of(path.parent)
    if run is not None and run.particles is not None and Path(run.particles).resolve() == path.resolve():
        return _of_refinement(run, params, context, None)
    return Source(tables=(_read(path, params, context),), origin=str(path))


def _refinement(package: "Package", wanted: str) -> "Refinement | None":
    """The refinement of this number with a table of particles; None for the package's own parameters."""
    usable = [r for r in package.refinements if r.particles is not None]
    if wanted == "start" or (wanted == "last" and not usable):
        return None
    if wanted == "last":
        return usable[-1]
    found = next((r for r in usable if str(r.number) == wanted), None)
    if found is None:
        known = ", ".join(f"{r.number} ({r.job}, {r.folder})" for r in usable) or "none with particles"
        raise ParameterError(
            f"--refinement {wanted}: the package has {known}; expected one of these numbers, last or start"
        )
    return found


def _of_refinement(
    run: "Refinement", params: "Params", context: "Context", package: "Package | None"
) -> Source:
    context.notice(f"parameters are those of {run.job} in {run.folder}")
    return Source(
        tables=(_read(Path(str(run.particles)), params, context),),
        origin=f"{run.job} in {run.folder}",
        template=package,
        said={} if package is not None else _said_to(run),
        maps=tuple(map(Path, run.maps)),
        half1=tuple(map(Path, run.half1)),
        half2=tuple(map(Path, run.half2)),
    )


def _read(path: Path, params: "Params", context: "Context") -> "ParticleSet":
    from parhelion.io.particles import read_particles

    notes: list[str] = []
    particles = read_particles(path, pixel_size_angstrom=params.pixel_size, notes=notes)
    for note in notes:
        context.notice(note)
    return particles


def of_2d_classes(particles: "ParticleSet", wanted: Sequence[int]) -> "ParticleSet":
    """The particles of these classes of a two-dimensional classification; that class becomes a column."""
    import numpy as np

    from parhelion.model.occupancy import without_occupancies

    number = particles.class_number
    if number is None:
        raise MetadataError("the particles have no classes (rlnClassNumber), which --classes-2d needs")
    rows = np.flatnonzero(np.isin(number, list(wanted)))
    if not len(rows):
        known = ", ".join(map(str, np.unique(number)[:20]))
        raise ParameterError(f"--classes-2d: no particle is in any of these classes; there are {known}")
    chosen = without_occupancies(particles.take(rows))
    column = {"cisTEMBest2DClass": number[rows]}
    return replace(chosen, class_number=None, extra=chosen.extra.with_columns(column))


def set_up(params: "Params", source: Source, context: "Context") -> tuple["ParticleSet", int, str]:
    """The particles with poses, classes and occupancies, the number of classes, and how they were found."""
    import numpy as np

    from parhelion.algorithms.class_setup import known_occupancies, set_up_classes
    from parhelion.algorithms.package_setup import random_parameters, with_classes
    from parhelion.model.occupancy import occupancies

    rng = np.random.default_rng((context.seed, 38))
    first = source.tables[0]
    from_2d = params.classes_2d is not None
    if from_2d:
        first = of_2d_classes(first, params.classes_2d or ())
    random = params.poses == "random" or (params.poses == "auto" and (first.rotation is None or from_2d))
    if params.poses == "keep" and first.rotation is None:
        raise MetadataError("--poses keep: the particles have none; leave it out for random ones")
    if params.class_setup is not None or len(source.tables) > 1:
        tables = source.tables if len(source.tables) > 1 else (first,)
        recipe = params.class_setup or ",".join(str(k) for k in range(1, len(tables) + 1))
        made = set_up_classes(
            tables,
            recipe,
            poses=params.merged_poses,
            occupancies=params.occupancies,
            carry_all=params.carry_all,
            seed=context.seed,
        )
        classes = recipe.count(",") + 1
        if params.classes not in (None, classes):
            raise ParameterError(f"--class-setup makes {classes} classes, --classes says {params.classes}")
        return made, classes, f"classes by {recipe}"
    percent = occupancies(first)
    had = 1 if from_2d else known_occupancies(first).shape[1]
    template = source.template
    # what begins anew has as many classes as the template; what goes on, as many as the parameters
    usual = template.classes if random and template is not None and not from_2d else had
    classes = params.classes or usual
    if random:
        return random_parameters(first, classes, rng), classes, "random"
    if classes == had:
        made = first if percent is not None or had > 1 else with_classes(first, 1, rng)
        return made, classes, "kept"
    if had == 1:
        return with_classes(first, classes, rng), classes, "kept, with random occupancies"
    raise ParameterError(
        f"the particles have {had} classes and {classes} are asked for; say with --class-setup which goes "
        'where, such as "1+2,3,new"'
    )


def references(
    params: "Params",
    facts: Facts,
    source: Source,
    particles: "ParticleSet",
    images: "ParticleSource",
    classes: int,
    context: "Context",
) -> "list[Made]":
    """Map, half maps and origin of each class: as given, as the refinement left them, or generated."""
    if params.references is not None:
        return _given(params.references, params.half1, params.half2, particles, images, classes, context)
    kept = params.class_setup is None and params.classes_2d is None and params.poses != "random"
    if kept and not params.generate and len(source.maps) == classes:
        return _given(
            source.maps, source.half1 or None, source.half2 or None, particles, images, classes, context
        )
    return _generated(facts, particles, images, classes, context)


def _given(
    maps: Sequence[Path],
    half1: Sequence[Path] | None,
    half2: Sequence[Path] | None,
    particles: "ParticleSet",
    images: "ParticleSource",
    classes: int,
    context: "Context",
) -> "list[Made]":
    from parhelion.algorithms.preparation import on_grid_of
    from parhelion.io import mrc

    halves = half1 is not None and half2 is not None and len(half1) == len(half2) == len(maps)
    if len(maps) != classes:
        raise ParameterError(f"{len(maps)} references were given for {classes} classes; one for each")
    if (half1 is not None or half2 is not None) and not halves:
        raise ParameterError(
            f"{len(half1 or ())} first and {len(half2 or ())} second half maps were given for {classes} "
            "references; both of each"
        )
    pixel = particles.optics[0].pixel_size_angstrom

    def read(path: Path) -> "Volume":
        volume = mrc.read_volume(path)
        return on_grid_of(volume, images.box, pixel, context, f"reference {path.name}")

    pairs: list[tuple[Volume, Volume] | None] = [None] * classes
    if halves and half1 is not None and half2 is not None:
        pairs = [(read(a), read(b)) for a, b in zip(half1, half2, strict=True)]
    return [(read(path), pair, str(path)) for path, pair in zip(maps, pairs, strict=True)]


def _generated(
    facts: Facts, particles: "ParticleSet", images: "ParticleSource", classes: int, context: "Context"
) -> "list[Made]":
    """Reconstructions from the particles' parameters, weighted by their occupancies."""
    from parhelion.algorithms.particle_weights import WeightSettings
    from parhelion.algorithms.reconstruct import ReconstructSettings, reconstruct_maps

    pixel = particles.optics[0].pixel_size_angstrom
    settings = ReconstructSettings(
        symmetry=facts.symmetry,
        diameter_angstrom=min(facts.diameter_angstrom, images.box * pixel),
        weights=WeightSettings(classes=tuple(range(1, classes + 1)) if classes > 1 else None),
        automatic_mask=False,
        seed=context.seed,
    )
    found = reconstruct_maps(
        particles,
        images,
        settings,
        executor=context.executor,
        observer=context,
        cancel=context,
        device=context.device,
    )
    return [(one.map, one.half_maps, "generated from the parameters") for one in found]
