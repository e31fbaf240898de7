"""Find the axes of a point group in a map and bring them to the group's standard setting.

The map, made without symmetry, is turned and moved so that its axes lie where RELION expects them for the
group, through the centre of the box. Other maps of the same frame (half maps, masks) and particles can
follow. A second map is averaged over the group; the correlation of the map with its own copies says whether
it has the symmetry at all.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, model_validator

from parhelion.errors import InputError
from parhelion.jobs._inputs import MapFile, Maps, ParticlesFile, Symmetry
from parhelion.jobs._maps import pixel_size_option, voxels
from parhelion.jobs._particles import check_poses
from parhelion.registry import Estimate, JobParams, Output, Result, declare, option

if TYPE_CHECKING:
    from parhelion.algorithms.symmetry_search import SymmetryFit
    from parhelion.run.context import Context

Angle = Annotated[float, Field(ge=-180, le=180)]
WEAK = 0.8
"""Correlation with its copies below which a map may not have the symmetry: molecules without any reach 0.7 to
0.8 at 20 Å."""
PIXEL_TOLERANCE = 0.01


class Params(JobParams):
    """What the job takes."""

    input: MapFile = option(help="the map", short="i")
    symmetry: Symmetry = option(help="point group to look for: C2, D7, T, O, I1 …")
    pixel_size: float | None = pixel_size_option()
    resolution: float = option(20.0, help="use the map to this resolution", unit="Å", ge=1, le=200)
    within: float | None = option(
        None,
        help="look only at axes turned by up to this from the standard setting",
        unit="degrees",
        gt=0,
        le=180,
        default_text="everywhere",
    )
    angles: tuple[Angle, Angle] | None = option(
        None,
        help="look only at frames turned about x, y and z by angles between these, the first and the last",
        unit="degrees",
        default_text="everywhere",
    )
    angle_step: float | None = option(
        None,
        help="step of these angles; what is best among them is refined",
        unit="degrees",
        ge=1,
        le=60,
        default_text="5",
    )
    follow: Maps | None = option(
        None, help="more maps in the frame of the input, moved alike", default_text="none"
    )
    particles: ParticlesFile | None = option(
        None, help="particles with poses in the frame of the input", default_text="none"
    )

    @model_validator(mode="after")
    def _fit(self) -> "Params":
        if self.angles is not None and self.within is not None:
            raise ValueError("--angles and --within each say where to look; choose")
        if self.angles is not None and self.angles[1] < self.angles[0]:
            raise ValueError(f"--angles {self.angles[0]:g} {self.angles[1]:g}: the first is the smaller one")
        if self.angle_step is not None and self.angles is None:
            raise ValueError("--angle-step needs --angles, such as -90 90")
        return self


OUTPUTS = (
    Output(name="map", file="map_aligned.mrc", help="the map with its axes in the standard setting"),
    Output(name="symmetrised", file="map_symmetrised.mrc", help="the same, averaged over the group"),
    Output(name="followed", file="*_aligned.mrc", help="the maps that follow", optional=True),
    Output(name="particles", file="particles.star", help="the particles in the new frame", optional=True),
)


def estimate(params: Params) -> Estimate:
    """The map, its transform and its copies; the search works on 32 voxels."""
    _check_followers(params)
    count = voxels(params.input)
    more = len(params.follow or ())
    return Estimate(memory_bytes=120 * count + 400_000_000, disk_bytes=4 * count * (2 + more))


def run(context: "Context", params: Params) -> Result:
    """Search, move and write everything."""
    from parhelion.algorithms.symmetry_search import euler_frames, find_symmetry
    from parhelion.geometry.symmetry import symmetry_group
    from parhelion.io import mrc

    volume = mrc.read_volume(params.input, params.pixel_size)
    group = symmetry_group(params.symmetry)
    frames = None if params.angles is None else euler_frames(*params.angles, params.angle_step or 5.0)
    found = find_symmetry(
        volume, group, resolution_angstrom=params.resolution, within_deg=params.within, frames=frames
    )
    if found.correlation < WEAK:
        context.notice(
            f"the map correlates with its {group.name} copies by {found.correlation:.2f} only: unless it is "
            "noisy, it does not have this symmetry (maps that do reach 0.9)"
        )
    mrc.write_volume(context.path("map"), found.aligned)
    mrc.write_volume(context.path("symmetrised"), found.symmetrised)
    outputs: dict[str, Path | list[Path]] = {n: context.path(n) for n in ("map", "symmetrised")}
    outputs |= _followers(context, params, found)
    context.report.slices(volume, "Before")
    context.report.slices(found.aligned, "Axes in the standard setting")
    context.report.slices(found.symmetrised, f"Averaged over {group.name}")
    context.report.table([list(map(_shown, row)) for row in found.rotation], ["x", "y", "z"])
    return Result(figures=_figures(found), outputs=outputs)


def _check_followers(params: Params) -> None:
    """InputError, before anything is searched, for maps or particles that cannot follow."""
    from parhelion.io import mrc

    own = mrc.read_header(params.input)
    for path in params.follow or ():
        header = mrc.read_header(path)
        if header.shape != own.shape:
            raise InputError(
                f"{path} has {_edges(header.shape)} voxels, {params.input} {_edges(own.shape)}; only maps "
                "of the same frame can follow"
            )
        pixels = own.pixel_size_angstrom, header.pixel_size_angstrom
        if params.pixel_size is None and _differ(pixels):
            raise InputError(
                f"{path} has {pixels[1]:.4g} Å per pixel, {params.input} {pixels[0]:.4g}; only maps of the "
                "same frame can follow (--pixel-size overrules wrong headers)"
            )
    if params.particles is not None:
        check_poses(params.particles)
    names = [path.stem for path in params.follow or ()]
    twice = sorted({name for name in names if names.count(name) > 1 or name == "map"})
    if twice:
        raise InputError(f"a map that follows is called {twice[0]}, like another result; rename it")


def _followers(context: "Context", params: Params, found: "SymmetryFit") -> dict[str, Path | list[Path]]:
    """Other maps and particles in the new frame."""
    from parhelion.algorithms.frame_change import particles_in_frame, volume_in_frame
    from parhelion.io import mrc
    from parhelion.io.particles import read_particles, write_particles

    outputs: dict[str, Path | list[Path]] = {}
    move = (found.rotation, found.shift_xyz_angstrom)
    written = []
    for path in params.follow or ():
        other = mrc.read_volume(path, params.pixel_size or mrc.read_header(params.input).pixel_size_angstrom)
        written.append(context.path("followed", path.stem))
        mrc.write_volume(written[-1], volume_in_frame(other, *move))
    if written:
        outputs["followed"] = written
    if params.particles is not None:
        notes: list[str] = []
        particles = read_particles(params.particles, notes=notes)
        for note in notes:
            context.notice(note)
        write_particles(context.path("particles"), particles_in_frame(particles, *move))
        outputs["particles"] = context.path("particles")
    return outputs


def _edges(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _differ(pixels: tuple[float | None, float | None]) -> bool:
    first, second = pixels
    return bool(first and second and abs(second / first - 1) > PIXEL_TOLERANCE)


def _figures(found: "SymmetryFit") -> dict[str, float | int | str | None]:
    import numpy as np

    angle = np.degrees(np.arccos(np.clip((np.trace(found.rotation) - 1) / 2, -1, 1)))
    return {
        "symmetry_correlation": found.correlation,
        "rotation_deg": float(angle),
        "shift_angstrom": float(np.linalg.norm(found.shift_xyz_angstrom)),
    }


def _shown(value: float) -> str:
    return f"{value:.5f}"


JOB = declare(__name__, __doc__, params=Params, run=run, estimate=estimate, outputs=OUTPUTS)
