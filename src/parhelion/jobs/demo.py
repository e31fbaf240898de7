"""Simulate a few movies, go the whole way to a map, and compare it with the truth.

A made-up molecule of packed helices lies in ice, in random poses; movies of it drift, suffer radiation damage
and are counted electron by electron, as a microscope's detector would. From the movies alone spa finds a map:
motion, CTF, picking, extraction, first map, refinement. It is laid onto the molecule, and how far both agree
is stated.
"""

from typing import TYPE_CHECKING

from parhelion.jobs._inputs import Symmetry
from parhelion.registry import Estimate, JobParams, Output, Result, declare, option

if TYPE_CHECKING:
    from pathlib import Path

    from parhelion.algorithms.map_alignment import Alignment
    from parhelion.model.volume import Volume
    from parhelion.report import Report
    from parhelion.run.context import Context

MOVIES, SOLVING = "Movies", "From movies to a map"
POTENTIAL_PER_RESIDUE = 490.0
"""Volts times Å³ by which a residue of a real protein (5A1A) exceeds the ice that it displaces."""
BOX_PER_DIAMETER = 1.28
COARSEST_FINAL_ANGSTROM = 3.5


class Params(JobParams):
    """What the job takes."""

    count: int = option(10, help="how many movies", unit="movies", ge=1, le=1000, group=MOVIES)
    size: int = option(
        1024, help="edge of the movies' square field", unit="pixels", ge=256, le=8192, group=MOVIES
    )
    particles_per_movie: int = option(
        90, help="particles in each movie", unit="particles", ge=1, le=100_000, group=MOVIES
    )
    frames: int = option(12, help="frames of each movie", unit="frames", ge=2, le=1000, group=MOVIES)
    dose_per_frame: float = option(
        3.0, help="electrons per area in each frame", unit="e⁻/Å²", gt=0, le=100, group=MOVIES
    )
    pixel_size: float = option(2.0, help="pixel size of the movies", unit="Å", ge=0.5, le=5, group=MOVIES)
    symmetry: Symmetry = option("D2", help="point group of the molecule")
    diameter: float = option(
        150.0, help="of the sphere that the molecule is drawn into", unit="Å", ge=60, le=1000
    )
    final_pixel_size: float = option(
        COARSEST_FINAL_ANGSTROM,
        help="pixel size of the particle images",
        unit="Å",
        ge=0.5,
        le=20,
        group=SOLVING,
    )
    starts: int = option(
        3, help="independent starts of the first map", unit="starts", ge=1, le=50, group=SOLVING
    )
    rounds: int = option(20, help="rounds of each start", unit="rounds", ge=2, le=500, group=SOLVING)
    max_rounds: int = option(
        25, help="stop the refinement after this many rounds", unit="rounds", ge=1, le=200, group=SOLVING
    )


OUTPUTS = (
    Output(name="molecule", file="molecule.mrc", help="the molecule, the truth, on the map's grid"),
    Output(name="potential", file="potential.mrc", help="its potential in volts, which the movies show"),
    Output(name="map", file="map.mrc", help="the map found from the movies, sharpened"),
    Output(name="aligned", file="map_on_truth.mrc", help="the map laid onto the molecule"),
    Output(name="fsc", file="fsc_truth.star", help="correlation of map and molecule per shell"),
    Output(name="particles", file="particles.star", help="the particles with the poses that were found"),
)


def estimate(params: Params) -> Estimate:
    """Movies on disk; in memory what the largest of simulation, ab-initio and refinement takes."""
    from parhelion.algorithms import first_run
    from parhelion.algorithms.ab_initio import AbInitioSettings, planned_bytes
    from parhelion.algorithms.refine3d import RefineSettings, memory_plan
    from parhelion.run.memory import available_bytes

    pixels = params.size**2
    count = params.count * params.particles_per_movie
    pixel = max(params.final_pixel_size, params.pixel_size)
    extent = first_run.Choice(2 * params.diameter, "the most that is taken")
    box = first_run.boxes(extent, params.pixel_size, pixel).final_box
    settings = RefineSettings(symmetry=params.symmetry, diameter_angstrom=params.diameter)
    plan = memory_plan(count, box, pixel, settings, available_bytes())
    first = AbInitioSettings(
        diameter_angstrom=params.diameter, symmetry=params.symmetry, starts=params.starts
    )
    shared, per_thread = planned_bytes(count, box, pixel, first, available_bytes())
    return Estimate(
        memory_bytes=max(plan.shared_bytes, shared),
        per_thread_bytes=max(plan.per_thread_bytes, per_thread, 200 * pixels),
        disk_bytes=params.count * pixels * (params.frames + 12) + 4 * count * box**2 + 60 * 4 * box**3,
    )


def run(context: "Context", params: Params) -> Result:
    """Simulate, solve, compare."""
    from parhelion.io import mrc
    from parhelion.jobs import load
    from parhelion.jobs._fsc import write_fsc
    from parhelion.jobs._steps import number, place
    from parhelion.run.steps import run_step

    comparison = context.report.section("Comparison with the truth")
    _write_potential(context, params)
    simulated = run_step(context, load("simulate movies"), "Simulated movies", _movies(context, params))
    solved = run_step(context, load("spa"), "From movies to a map", _solving(params, simulated))
    found_map = mrc.read_volume(_path(solved, "masked_map"))
    truth = _molecule(params, found_map.box, found_map.pixel_size_angstrom, context.seed)
    mrc.write_volume(context.path("molecule"), truth)
    found = _compare(truth, found_map, params.symmetry)
    mrc.write_volume(context.path("aligned"), found.aligned)
    write_fsc(context.path("fsc"), {"unmasked": found.fsc}, truth.box, truth.pixel_size_angstrom)
    _show(context, comparison, truth, found)
    outputs: dict[str, Path | list[Path]] = {o.name: context.path(o.name) for o in OUTPUTS}
    outputs["map"] = place(context, "map", solved)
    outputs["particles"] = place(context, "particles", solved)
    return Result(
        figures={
            "fsc_half_against_truth_angstrom": found.fsc_half_angstrom,
            "resolution_angstrom": number(solved, "resolution_angstrom"),
            "movies": params.count,
            "true_particles": simulated.figures["particles"],
            "picked_particles": solved.figures["picked_particles"],
            "hand": "mirrored" if found.hand_flipped else "as simulated",
        },
        outputs=outputs,
    )


def _movies(context: "Context", params: Params) -> dict[str, object]:
    """Options of simulate movies: gentle motion and a usual range of defocus."""
    return {
        "model": context.path("potential"),
        "count": params.count,
        "size": params.size,
        "particles_per_micrograph": params.particles_per_movie,
        "frames": params.frames,
        "dose_per_frame": params.dose_per_frame,
        "drift": 10,
        "local_motion": 3,
        "defocus_range": (1.0, 2.2),
    }


def _solving(params: Params, simulated: Result) -> dict[str, object]:
    """Options of spa; the molecule that was drawn is smaller than the sphere it was drawn into."""
    return {
        "input": simulated.outputs["movies"],
        "final_pixel_size": max(params.final_pixel_size, params.pixel_size),
        "symmetry": params.symmetry,
        "diameter": round(float(str(simulated.figures["molecule_diameter_angstrom"]))),
        "starts": params.starts,
        "rounds": params.rounds,
        "max_rounds": params.max_rounds,
    }


def _molecule(params: Params, box: int, pixel_size: float, seed: int) -> "Volume":
    """The truth in this box; which molecule it is depends on the seed only."""
    from parhelion.algorithms.simulate.demo_molecule import demo_molecule
    from parhelion.geometry.symmetry import symmetry_group

    group = symmetry_group(params.symmetry)
    return demo_molecule(box, pixel_size, symmetry=group, diameter_angstrom=params.diameter, seed=seed)


def _write_potential(context: "Context", params: Params) -> None:
    """The molecule in volts on the movies' grid: its densities count residues per voxel."""
    from dataclasses import replace

    from parhelion.algorithms.extraction import even_box
    from parhelion.io import mrc

    box = even_box(BOX_PER_DIAMETER * params.diameter / params.pixel_size)
    residues = _molecule(params, box, params.pixel_size, context.seed)
    volts = residues.data * (POTENTIAL_PER_RESIDUE / params.pixel_size**3)
    mrc.write_volume(context.path("potential"), replace(residues, data=volts))


def _path(solved: Result, name: str) -> "Path":
    from pathlib import Path

    return Path(str(solved.outputs[name]))


def _compare(truth: "Volume", solved: "Volume", symmetry: str) -> "Alignment":
    """The map laid onto the molecule; the hand is free, for projections do not show it."""
    from parhelion.algorithms.map_alignment import align_maps
    from parhelion.geometry.symmetry import symmetry_group

    return align_maps(solved, truth, symmetry=symmetry_group(symmetry))


def _show(context: "Context", comparison: "Report", truth: "Volume", found: "Alignment") -> None:
    """Both maps side by side and their correlation; the sentence goes to the screen as well."""
    from parhelion.run.folder import REPORT

    hand = "the other hand, which images cannot tell apart" if found.hand_flipped else "the hand of the truth"
    said = f"the map agrees with the molecule to {found.fsc_half_angstrom:.1f} Å (FSC 0.5), in {hand}"
    comparison.text(said[0].upper() + said[1:] + ".")
    comparison.fsc({"map and molecule": found.fsc}, truth.box, truth.pixel_size_angstrom)
    comparison.surface(truth, "The molecule")
    comparison.surface(found.aligned, "The map, laid onto it")
    comparison.slices(truth, "The molecule")
    comparison.slices(found.aligned, "The map, laid onto it")
    context.notice(said)
    context.notice(f"everything is shown in {context.folder / REPORT}")


JOB = declare(__name__, __doc__, params=Params, run=run, estimate=estimate, outputs=OUTPUTS, resumable=True)
