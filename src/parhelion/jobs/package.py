"""Put together a refinement package: particles, parameters, and a reference per class.

The package is an ordinary folder: particles.star and reference_001.mrc … are what refine, refine-manual,
classify3d and reconstruct take, and package.json keeps what no table says: symmetry, mass and size of the
particle, where its references come from, and the refinements that were made of it (they are found where they
lie beside the package). It is made from a table of particles of any program, from chosen two-dimensional
classes, or from an earlier package or refinement, whose parameters and maps go on, with other classes if so
wanted.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from parhelion.jobs._inputs import Maps, Symmetry, expand_one
from parhelion.jobs._package import TABLE, USUAL_DIAMETER_ANGSTROM, USUAL_MASS_KDA, table_of, tables_of
from parhelion.jobs._particles import Contrast, contrast_option, particle_pixel_size_option
from parhelion.registry import CommaList, Estimate, FileKind, JobParams, Output, Result, declare, option

if TYPE_CHECKING:
    from parhelion.io.package import Package
    from parhelion.io.source import StackSource
    from parhelion.jobs._package import Facts, Made, Source
    from parhelion.model.particles import ParticleSet
    from parhelion.run.context import Context

CLASSES, REFERENCES, IMAGES = "Classes", "References", "Images"
FROM_TEMPLATE = "that of the earlier package or refinement, else "
SHOWN_ROWS = 20


def check_source(path: Path) -> None:
    """Raise InputError where the file is neither a table of particles nor a package."""
    from parhelion.io.package import is_package, read_package
    from parhelion.io.particles import read_particles

    if is_package(path):
        read_package(path)
    else:
        read_particles(path, pixel_size_angstrom=1.0)


PackageSource = Annotated[
    Path,
    BeforeValidator(expand_one),
    BeforeValidator(table_of),
    FileKind("particles, package or refinement", check_source),
]
PackageSources = Annotated[tuple[PackageSource, ...], BeforeValidator(tables_of)]


class Params(JobParams):
    """What the job takes."""

    input: PackageSources = option(
        help="table of particles, folder of an earlier package or refinement, or one table per class "
        "(the same particles in the same order)",
        short="i",
    )
    refinement: str = option(
        "last",
        help="of a package: whose parameters and maps go on, the last refinement's, those of the package "
        "itself (start), or of a number that info shows",
    )
    classes_2d: CommaList[Annotated[int, Field(ge=0)]] | None = option(
        None,
        help="take only particles of these two-dimensional classes, such as 1,4,7",
        unit="1",
        flag="--classes-2d",
        default_text="all particles",
    )
    poses: Literal["auto", "keep", "random"] = option(
        "auto",
        help="keep angles and shifts, or take random angles and no shifts; auto keeps them where there are "
        "any, except those of two-dimensional classes",
    )
    name: str | None = option(None, help="name of the package", default_text="that of the output folder")
    symmetry: Symmetry | None = option(
        None, help="point group: C1, C2 …, D2 …, T, O, I1 to I4", default_text=FROM_TEMPLATE + "C1"
    )
    mass: float | None = option(
        None,
        help="molecular mass",
        unit="kDa",
        gt=0,
        le=1e6,
        default_text=f"{FROM_TEMPLATE}{USUAL_MASS_KDA:g}",
    )
    diameter: float | None = option(
        None,
        help="largest dimension of the particle",
        unit="Å",
        gt=0,
        le=5000,
        short="d",
        default_text=f"{FROM_TEMPLATE}{USUAL_DIAMETER_ANGSTROM:g}",
    )
    classes: int | None = option(
        None,
        help="classes of the three-dimensional refinement",
        unit="classes",
        ge=1,
        le=100,
        short="k",
        default_text="as many as the particles have",
        group=CLASSES,
    )
    class_setup: str | None = option(
        None,
        help='which earlier class goes where, such as "1+2,3,new": the first new class of the old ones 1 and '
        "2, the second of the old 3, a third anew; classes that are not named are left out",
        default_text="classes stay",
        group=CLASSES,
    )
    carry_all: bool = option(
        False, help="keep particles of classes that are left out, among the new classes", group=CLASSES
    )
    merged_poses: Literal["best", "random"] = option(
        "best",
        help="where classes with tables of their own are merged: poses of the higher occupancy, or at random",
        group=CLASSES,
    )
    occupancies: Literal["keep", "random"] = option(
        "keep",
        help="occupancies of a class set-up: those of the earlier classes, or at random",
        group=CLASSES,
    )
    references: Maps | None = option(
        None,
        help="a map for each class",
        short="r",
        default_text="those of the earlier package or refinement, else generated from the parameters",
        group=REFERENCES,
    )
    half1: Maps | None = option(
        None, help="their first half maps", default_text="none, or as the references", group=REFERENCES
    )
    half2: Maps | None = option(
        None, help="their second half maps", default_text="none, or as the references", group=REFERENCES
    )
    generate: bool = option(
        False, help="generate the references from the parameters, whatever maps there are", group=REFERENCES
    )
    contrast: Contrast = contrast_option()
    pixel_size: float | None = particle_pixel_size_option()
    new_stack: bool = option(
        False, help="copy the images into one stack in the package, in the table's order", group=IMAGES
    )
    resolution: float | None = option(
        None,
        help="say whether the box holds the signal that the CTF spreads, to this resolution",
        unit="Å",
        gt=0,
        le=100,
        default_text="four pixels",
        group=IMAGES,
    )

    @model_validator(mode="after")
    def _fit(self) -> "Params":
        given = self.model_fields_set
        if self.refinement not in ("last", "start") and not self.refinement.isdigit():
            raise ValueError(f"--refinement {self.refinement}: expected last, start or a number")
        if self.class_setup is not None and not self.class_setup.strip():
            raise ValueError(
                '--class-setup is empty; expected is what each new class is of, such as "1+2,3,new"'
            )
        if self.class_setup is None and len(self.input) == 1:
            for name in ("carry_all", "merged_poses", "occupancies"):
                if name in given:
                    raise ValueError(f"--{name.replace('_', '-')} belongs to --class-setup")
        if self.class_setup is not None and (self.poses == "random" or self.classes_2d is not None):
            raise ValueError(
                "--class-setup goes on with earlier classes, --poses random and --classes-2d begin anew; "
                "choose one"
            )
        if self.references is None and (self.half1 is not None or self.half2 is not None):
            raise ValueError("--half1 and --half2 belong to --references")
        if self.generate and self.references is not None:
            raise ValueError("--references gives maps, --generate makes them; choose")
        return self


OUTPUTS = (
    Output(name="package", file="package.json", help="what no table says: symmetry, mass, refinements …"),
    Output(name="particles", file=TABLE, help="the particles with their parameters and occupancies"),
    Output(name="stack", file="particles.mrcs", help="with --new-stack: their images", optional=True),
    Output(name="references", file="reference_*.mrc", help="the map that each class starts from"),
    Output(name="half1", file="half1_*.mrc", help="its first half map", optional=True),
    Output(name="half2", file="half2_*.mrc", help="its second half map", optional=True),
)


def estimate(params: Params) -> Estimate:
    """A reconstruction of every class, and the images where they are copied."""
    from parhelion.algorithms.particle_weights import WeightSettings
    from parhelion.algorithms.reconstruct import ReconstructSettings, memory_plan
    from parhelion.io.package import is_package, read_package
    from parhelion.io.particles import read_particles
    from parhelion.jobs._particles import box_of

    path, classes = params.input[0], params.classes or 1
    if is_package(path):
        package = read_package(path)
        count, box, pixel = package.count, package.box, package.pixel_size_angstrom
        classes = params.classes or package.classes
    else:
        particles = read_particles(path, pixel_size_angstrom=params.pixel_size)
        count, box, pixel = len(particles), box_of(particles), particles.optics[0].pixel_size_angstrom
    if params.class_setup is not None:
        classes = params.class_setup.count(",") + 1
    weights = WeightSettings(classes=tuple(range(1, classes + 1)))
    plan = memory_plan(count, box, pixel, ReconstructSettings(weights=weights), None)
    images = 4 * count * box**2 if params.new_stack else 0
    return Estimate(
        memory_bytes=plan.fixed_bytes,
        per_thread_bytes=plan.per_thread_bytes,
        disk_bytes=images + 12 * classes * box**3 + 500 * count,
    )


def run(context: "Context", params: Params) -> Result:
    """Read, set up classes and parameters, find the references, write everything."""
    from parhelion.io.particles import check_images, write_particles
    from parhelion.io.source import StackSource
    from parhelion.jobs._package import facts_of, read_source, references, set_up
    from parhelion.jobs._particles import contrast_of

    source = read_source(params, context)
    facts = facts_of(params, source, context.folder.name)
    particles, classes, how = set_up(params, source, context)
    particles, missing = check_images(particles)
    for note in missing:
        context.notice(note)
    given = params.contrast
    if given == "auto" and source.template is not None:
        given = "white" if source.template.contrast == "white" else "black"
    colour = contrast_of(particles, given, context)
    images = StackSource(particles, colour)
    _check_box(params, facts, particles, images.box, context)
    found = references(params, facts, source, particles, images, classes, context)
    outputs: dict[str, Path | list[Path]] = {"package": context.path("package")}
    if params.new_stack:
        particles = _copied(context, particles, StackSource(particles))
        outputs["stack"] = context.path("stack")
    write_particles(context.path("particles"), particles)
    outputs["particles"] = context.path("particles")
    outputs |= _write_maps(context, found)
    package = _described(context, particles, facts, source, found, colour, how)
    _show(context, package, particles, images)
    return Result(figures=_figures(package, how), outputs=outputs)


def _check_box(
    params: Params, facts: "Facts", particles: "ParticleSet", box: int, context: "Context"
) -> None:
    """Notices where particle, or what the CTF spreads of it, does not fit into the box; with numbers."""
    from parhelion.algorithms.package_setup import box_for_ctf, usual_box
    from parhelion.algorithms.preparation import check_diameter

    pixel = particles.optics[0].pixel_size_angstrom
    check_diameter(facts.diameter_angstrom, box, pixel)
    resolution = params.resolution or 4 * pixel
    needed, spread = box_for_ctf(particles, facts.diameter_angstrom, resolution)
    if needed > box:
        usual = usual_box(facts.diameter_angstrom, pixel)
        context.notice(
            f"the CTF spreads detail of {resolution:.1f} Å by {spread:.0f} Å: a box of {needed} pixels would "
            f"hold it, this one has {box} (2.2 times the largest dimension are {usual}); extract cuts larger "
            "boxes"
        )


def _copied(context: "Context", particles: "ParticleSet", source: "StackSource") -> "ParticleSet":
    """The particles with their images, as they are, in one stack of the package."""
    from dataclasses import replace

    import numpy as np

    from parhelion.io.mrc import StackWriter
    from parhelion.jobs._maps import images_at_once

    count, step, box = len(particles.views), images_at_once(source.box), source.box
    pixel = particles.optics[0].pixel_size_angstrom
    with StackWriter(context.path("stack"), count, (box, box), pixel) as writer:
        for start in range(0, count, step):
            context.check()
            rows = np.arange(start, min(start + step, count))
            writer.write(start, source.images(rows))
            context.progress("images", int(rows[-1]) + 1, count)
    views = replace(
        particles.views,
        image_path=(context.path("stack"),),
        path_id=np.zeros(count, np.int64),
        image_index=np.arange(count),
    )
    return replace(particles, views=views, extra=particles.extra.without("rlnImageName"))


def _write_maps(context: "Context", found: "list[Made]") -> dict[str, Path | list[Path]]:
    from parhelion.io import mrc

    outputs: dict[str, Path | list[Path]] = {}
    names: dict[str, list[Path]] = {"references": [], "half1": [], "half2": []}
    for number, (volume, halves, _) in enumerate(found, 1):
        maps = {"references": volume} | ({} if halves is None else {"half1": halves[0], "half2": halves[1]})
        for name, one in maps.items():
            path = context.path(name, f"{number:03d}")
            mrc.write_volume(path, one)
            names[name].append(path)
        context.report.slices(volume, f"Reference of class {number}")
    outputs |= {name: paths for name, paths in names.items() if paths}
    return outputs


def _described(
    context: "Context",
    particles: "ParticleSet",
    facts: "Facts",
    source: "Source",
    found: "list[Made]",
    colour: str,
    how: str,
) -> "Package":
    """Write ``package.json`` and return what it says."""
    import numpy as np

    from parhelion.io.package import Package, Reference, write_package

    folder = context.folder.resolve()
    used = [particles.views.image_path[i] for i in np.unique(particles.views.path_id).tolist()]
    whole = [path.absolute() for path in used]
    stacks = [str(p.relative_to(folder)) if p.is_relative_to(folder) else str(p) for p in whole]
    entries = [
        Reference(
            number=number,
            map=f"reference_{number:03d}.mrc",
            half1=None if halves is None else f"half1_{number:03d}.mrc",
            half2=None if halves is None else f"half2_{number:03d}.mrc",
            origin=origin,
        )
        for number, (_, halves, origin) in enumerate(found, 1)
    ]
    package = Package(
        name=facts.name,
        particles=TABLE,
        count=len(particles),
        classes=len(found),
        symmetry=facts.symmetry,
        mass_kda=facts.mass_kda,
        largest_dimension_angstrom=facts.diameter_angstrom,
        box=int(particles.optics[0].box or found[0][0].box),
        pixel_size_angstrom=particles.optics[0].pixel_size_angstrom,
        contrast=colour,
        stacks=tuple(stacks),
        references=tuple(entries),
        source=source.origin,
        parameters=how,
    )
    write_package(folder, package)
    return package


def _figures(package: "Package", how: str) -> dict[str, float | int | str | None]:
    return {
        "particles": package.count,
        "box": package.box,
        "pixel_size_angstrom": package.pixel_size_angstrom,
        "classes": package.classes,
        "symmetry": package.symmetry,
        "mass_kda": package.mass_kda,
        "largest_dimension_angstrom": package.largest_dimension_angstrom,
        "contrast": package.contrast,
        "parameters": how,
    }


def _show(context: "Context", package: "Package", particles: "ParticleSet", images: "StackSource") -> None:
    """The stack, the first particles, and their directions."""
    from parhelion.jobs._info import table_of_particles
    from parhelion.jobs._particles import first_images

    report = context.report
    shown = list(first_images(images))
    report.gallery(shown, [f"particle {i + 1}" for i in range(len(shown))], "First particles")
    heads, rows = table_of_particles(particles, SHOWN_ROWS)
    report.table(rows, heads)
    if package.classes > 1 and particles.class_number is not None:
        sizes = [[k + 1, int((particles.class_number == k + 1).sum())] for k in range(package.classes)]
        report.table(sizes, ["class", "particles"])
    if particles.rotation is not None:
        report.angular_distribution(particles.rotation)


JOB = declare(__name__, __doc__, params=Params, run=run, estimate=estimate, outputs=OUTPUTS)
