"""What a file is and what it holds, as a person wants to know it (``info``)."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from parhelion.errors import FormatError, InputError
from parhelion.report.units import show_quantity

if TYPE_CHECKING:
    from parhelion.io.package import Package
    from parhelion.model.micrographs import Micrographs
    from parhelion.model.particles import ParticleSet

Facts = dict[str, float | int | str | None]


def facts_of(path: Path) -> Facts:
    """Kind and key figures of a file. Raises InputError where it is of no known kind."""
    from parhelion.io.formats import format_of
    from parhelion.io.package import is_package, read_package
    from parhelion.io.particles import read_particles

    if is_package(path):
        return package_facts(read_package(path))
    if path.suffix == ".npz":
        return _sums(path)
    if path.suffix.lower() == ".star":
        if (listed := _micrographs(path)) is not None:
            return micrograph_facts(listed)
        if (other := _other_table(path)) is not None:
            return other
    found = format_of(path)
    if found.kind == "particles":
        return particle_facts(read_particles(path, pixel_size_angstrom=None))
    return image_facts(path, found.kind)


COUNTED = ("particles", "images", "files", "voxels", "pixels", "classes")
"""Figures that read best before their names: 600 particles."""


def in_short(facts: Facts) -> str:
    """Kind and size of a file in one line."""
    kind, parts = str(facts["kind"]), []
    for name in COUNTED:
        if facts.get(name) and not (kind == "particles" and name == "images"):
            value = show_quantity(name, facts[name])
            if facts[name] == 1:
                name = "class" if name == "classes" else name.removesuffix("s")
            parts.append(value if name == kind else f"{value} {name}")
    if facts.get("box"):
        parts.append(f"box {facts['box']}")
    if facts.get("pixel_size_angstrom"):
        parts.append(f"{show_quantity('pixel_size_angstrom', facts['pixel_size_angstrom'])} per pixel")
    if facts.get("poses") == "yes":
        parts.append("with poses")
    return f"{kind}: {', '.join(parts)}" if parts else kind


def package_facts(package: "Package") -> Facts:
    """The package's own figures, its references and refinements."""
    last = package.refinements[-1] if package.refinements else None
    return {
        "kind": "refinement package",
        "name": package.name,
        "particles": package.count,
        "stack": ", ".join(package.stacks[:3]) + (" …" if len(package.stacks) > 3 else ""),
        "box": package.box,
        "pixel_size_angstrom": package.pixel_size_angstrom,
        "contrast": package.contrast,
        "classes": package.classes,
        "symmetry": package.symmetry,
        "mass_kda": package.mass_kda,
        "largest_dimension_angstrom": package.largest_dimension_angstrom,
        "references": sum(reference.map is not None for reference in package.references),
        "half_maps": sum(reference.half1 is not None for reference in package.references),
        "refinements": len(package.refinements),
        "last_refinement": None if last is None else f"{last.number}: {last.job} in {last.folder}",
        "last_resolution_angstrom": None if last is None else last.resolution_angstrom,
        "parameters": package.parameters,
        "source": package.source,
    }


def particle_facts(particles: "ParticleSet") -> Facts:
    """Number, optics, poses, classes and half sets of a table."""
    import numpy as np

    from parhelion.io.exchange import states_white
    from parhelion.io.particles import with_box
    from parhelion.model.occupancy import occupancies

    particles = with_box(particles)
    views, first = particles.views, particles.optics[0]
    defocus = (views.defocus_u_angstrom + views.defocus_v_angstrom) / 2e4
    white, percent = states_white(particles), occupancies(particles)
    facts: Facts = {
        "kind": "particles",
        "particles": len(particles),
        "images": len(views),
        "stacks": len(np.unique(views.path_id)),
        "box": first.box,
        "pixel_size_angstrom": first.pixel_size_angstrom,
        "optics_groups": len(particles.optics),
        "voltage_kv": first.voltage_kv,
        "spherical_aberration_mm": first.spherical_aberration_mm,
        "amplitude_contrast": first.amplitude_contrast,
        "least_defocus_um": float(defocus.min()),
        "largest_defocus_um": float(defocus.max()),
        "poses": "no" if particles.rotation is None else "yes",
        "half_sets": "no" if particles.half is None else "yes",
        "classes": 0 if particles.class_number is None else int(particles.class_number.max()),
        "contrast": None if white is None else "white" if white else "black",
    }
    if percent is not None:
        mean = percent.mean(0)
        facts["mean_occupancies_percent"] = ", ".join(f"{value:.1f}" for value in mean)
    if "rlnMicrographName" in particles.extra:
        facts["micrographs"] = len(np.unique(np.asarray(particles.extra["rlnMicrographName"], dtype=str)))
    if "cisTEMScore" in particles.extra:
        facts["mean_score"] = float(np.mean(np.asarray(particles.extra["cisTEMScore"], float)))
    return facts


def image_facts(path: Path, kind: str) -> Facts:
    """Grid and densities of a map, or number and size of the images of a stack."""
    import numpy as np

    from parhelion.io import mrc
    from parhelion.io.formats import open_images

    if kind == "volume":
        volume = mrc.read_volume(path, mrc.read_header(path).pixel_size_angstrom or 1.0)
        data = volume.data
        z, y, x = data.shape
        return {
            "kind": "map",
            "voxels": f"{x} x {y} x {z}",
            "pixel_size_angstrom": mrc.read_header(path).pixel_size_angstrom,
            "least_density": float(data.min()),
            "largest_density": float(data.max()),
            "mean_density": float(data.mean(dtype=np.float64)),
            "standard_deviation": float(data.std(dtype=np.float64)),
        }
    stack = open_images(path)
    count, y, x = stack.shape
    return {
        "kind": "images",
        "images": count,
        "pixels": f"{x} x {y}",
        "pixel_size_angstrom": stack.pixel_size_angstrom,
    }


def _sums(path: Path) -> Facts:
    """Partial sums of a reconstruction, or of a two-dimensional classification."""
    from parhelion.algorithms.class2d import partial
    from parhelion.io.partial_sums import read_header

    try:
        return sums_facts(read_header(path))
    except FormatError as error:
        try:
            part = partial.load(path)
        except FormatError:
            raise error from None
    rows = part.arrays["rows"]
    return {
        "kind": "partial sums of class2d",
        "particles_of_table": partial.count_of(part),
        "range": f"{int(rows.min()) + 1} to {int(rows.max()) + 1}" if len(rows) else "none",
        "used_particles": len(rows),
        "box": int(str(part.facts["box"])),
        "pixel_size_angstrom": float(str(part.facts["pixel_size_angstrom"])),
        "classes": int(str(part.facts["classes"])),
        "classification": str(part.facts["mark"])[:12],
    }


def sums_facts(header: dict[str, Any]) -> Facts:
    """Which particles of how many, and of which reconstruction."""
    ranges = ", ".join(f"{first + 1} to {last + 1}" for first, last in header["ranges"])
    return {
        "kind": "partial sums",
        "particles_of_table": int(header["count"]),
        "range": ranges,
        "used_particles": int(header["inserted"]),
        "box": int(header["full_box"]),
        "pixel_size_angstrom": float(header["pixel_size_angstrom"]),
        "symmetry": str(header["symmetry"]),
        "classes": len(header["classes"] or [1]),
        "reconstruction": str(header["fingerprint"])[:12],
    }


def micrograph_facts(listed: "Micrographs") -> Facts:
    """Number and optics of a table of micrographs or movies."""
    optics = listed.optics[0]
    facts: Facts = {
        "kind": "movies" if listed.movies else "micrographs",
        "files": len(listed),
        "missing_files": sum(not path.is_file() for path in listed.path),
        "pixel_size_angstrom": optics.pixel_size_angstrom,
        "voltage_kv": optics.voltage_kv,
        "spherical_aberration_mm": optics.spherical_aberration_mm,
        "ctf": "no" if listed.ctf is None else "yes",
    }
    return facts


def _micrographs(path: Path) -> "Micrographs | None":
    """The micrographs of a table that lists some and no particles, None for any other."""
    from parhelion.io.relion_micrographs import read_micrographs
    from parhelion.io.star import read_star

    try:
        tables = [t for name, t in read_star(path).items() if name != "optics"]
    except FormatError:
        return None
    lists = any("rlnMicrographName" in t or "rlnMicrographMovieName" in t for t in tables)
    particles = any("rlnImageName" in t or "cisTEMPositionInStack" in t for t in tables)
    if not lists or particles:
        return None
    try:
        return read_micrographs([path], pixel_size_angstrom=None, needs=())
    except InputError:
        return None


def _other_table(path: Path) -> Facts | None:
    """Blocks, rows and columns of a STAR file that lists no particles; None where it does, or is none."""
    from parhelion.io.star import read_star

    try:
        blocks = read_star(path)
    except FormatError:
        return None
    if any("rlnImageName" in t or "cisTEMPositionInStack" in t for t in blocks.values()):
        return None
    facts: Facts = {"kind": "STAR table", "blocks": len(blocks)}
    for name, table in blocks.items():
        columns = ", ".join(list(table)[:8]) + (" …" if len(table) > 8 else "")
        facts[f"data_{name}"] = f"{table.rows} rows: {columns}"
    return facts


def table_of_particles(particles: "ParticleSet", most: int) -> tuple[list[str], list[list[object]]]:
    """Heads and the first rows of the particles' parameters."""
    import numpy as np

    from parhelion.geometry.rotations import to_relion

    n = min(most, len(particles))
    views = particles.views
    heads = ["particle", "image", "stack", "defocus (Å)"]
    first_view = np.unique(views.particle, return_index=True)[1][:n].tolist()
    rows: list[list[object]] = [
        [
            i + 1,
            int(views.image_index[v]) + 1,
            views.image_path[int(views.path_id[v])].name,
            round(float(views.defocus_u_angstrom[v] + views.defocus_v_angstrom[v]) / 2),
        ]
        for i, v in enumerate(first_view)
    ]
    if particles.rotation is not None and particles.shift_xyz_angstrom is not None:
        heads += ["rot", "tilt", "psi (°)", "x", "y (Å)"]
        angles = to_relion(particles.rotation[:n])
        for row, turn, shift in zip(rows, angles, particles.shift_xyz_angstrom):
            row += [round(float(v), 2) for v in (*turn, *shift[:2])]
    if particles.class_number is not None:
        heads.append("class")
        for row, number in zip(rows, particles.class_number):
            row.append(int(number))
    return heads, rows
