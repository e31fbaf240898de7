"""Simulate a small data set, go the whole way to a map, and compare it with the truth.

A made-up molecule of packed helices is imaged as noisy particles with CTF, in random orientations that are
then forgotten. The map that spa finds from them is laid onto the molecule, and how far they agree is stated.
"""

from typing import TYPE_CHECKING

from parhelion.jobs._inputs import Symmetry
from parhelion.registry import Estimate, JobParams, Output, Result, declare, option

if TYPE_CHECKING:
    from pathlib import Path

    from parhelion.algorithms.map_alignment import Alignment
    from parhelion.model.volume import Volume
    from parhelion.run.context import Context


class Params(JobParams):
    """What the job takes."""

    count: int = option(800, help="how many particles", unit="particles", ge=20, le=10**6)
    symmetry: Symmetry = option("D2", help="point group of the molecule")
    box: int = option(64, help="edge of the images", unit="pixels", ge=24, le=512)
    pixel_size: float = option(3.5, help="pixel size of the images", unit="Å", ge=0.5, le=10)
    diameter: float = option(150.0, help="largest dimension of the molecule", unit="Å", ge=60, le=1000)
    snr: float = option(
        0.08,
        help="variance of the noise-free image with CTF over the box, divided by the noise's per pixel",
        unit="1",
        gt=0,
    )
    starts: int = option(2, help="independent starts of the first map", unit="starts", ge=1, le=50)
    rounds: int = option(15, help="rounds of each start", unit="rounds", ge=2, le=500)
    max_rounds: int = option(
        25, help="stop the refinement after this many rounds", unit="rounds", ge=1, le=200
    )


OUTPUTS = (
    Output(name="molecule", file="molecule.mrc", help="the molecule, the truth"),
    Output(name="map", file="map.mrc", help="the map found from the particles, sharpened"),
    Output(name="aligned", file="map_on_truth.mrc", help="the map laid onto the molecule"),
    Output(name="fsc", file="fsc_truth.star", help="correlation of map and molecule per shell"),
    Output(name="particles", file="particles.star", help="the particles with the poses that were found"),
)


def estimate(params: Params) -> Estimate:
    """Images on disk; in memory what the larger of ab-initio and refinement takes."""
    from parhelion.algorithms.ab_initio import AbInitioSettings, planned_bytes
    from parhelion.algorithms.refine3d import RefineSettings, memory_plan
    from parhelion.run.memory import available_bytes

    settings = RefineSettings(symmetry=params.symmetry, diameter_angstrom=params.diameter)
    plan = memory_plan(params.count, params.box, params.pixel_size, settings, available_bytes())
    first = AbInitioSettings(
        diameter_angstrom=params.diameter, symmetry=params.symmetry, starts=params.starts
    )
    shared, per_thread = planned_bytes(params.count, params.box, params.pixel_size, first, available_bytes())
    return Estimate(
        memory_bytes=max(plan.shared_bytes, shared),
        per_thread_bytes=max(plan.per_thread_bytes, per_thread),
        disk_bytes=4 * params.count * params.box**2 + 60 * 4 * params.box**3,
    )


def run(context: "Context", params: Params) -> Result:
    """Simulate, solve, compare."""
    from parhelion.io import mrc
    from parhelion.jobs import load
    from parhelion.jobs._fsc import write_fsc
    from parhelion.jobs._steps import number, place
    from parhelion.run.steps import run_step

    comparison = context.report.section("Comparison with the truth")
    truth = _molecule(context, params)
    simulated = run_step(
        context,
        load("simulate particles"),
        "Simulated particles",
        {"model": context.path("molecule"), "count": params.count, "snr": params.snr},
    )
    solved = run_step(
        context,
        load("spa"),
        "From particles to a map",
        {
            "input": simulated.outputs["particles"],
            "symmetry": params.symmetry,
            "diameter": params.diameter,
            "starts": params.starts,
            "rounds": params.rounds,
            "max_rounds": params.max_rounds,
        },
    )
    found = _compare(truth, mrc.read_volume(_masked(solved)), params.symmetry)
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
            "particles": params.count,
            "hand": "mirrored" if found.hand_flipped else "as simulated",
        },
        outputs=outputs,
    )


def _molecule(context: "Context", params: Params) -> "Volume":
    """The truth, also as a file for the simulation."""
    from parhelion.algorithms.simulate.demo_molecule import demo_molecule
    from parhelion.geometry.symmetry import symmetry_group
    from parhelion.io import mrc

    truth = demo_molecule(
        params.box,
        params.pixel_size,
        symmetry=symmetry_group(params.symmetry),
        diameter_angstrom=params.diameter,
        seed=context.seed,
    )
    mrc.write_volume(context.path("molecule"), truth)
    return truth


def _masked(solved: Result) -> "Path":
    from pathlib import Path

    return Path(str(solved.outputs["masked_map"]))


def _compare(truth: "Volume", solved: "Volume", symmetry: str) -> "Alignment":
    """The map laid onto the molecule; the hand is free, for projections do not show it."""
    from parhelion.algorithms.map_alignment import align_maps
    from parhelion.geometry.symmetry import symmetry_group

    return align_maps(solved, truth, symmetry=symmetry_group(symmetry))


def _show(context: "Context", comparison: object, truth: "Volume", found: "Alignment") -> None:
    """Both maps side by side and their correlation; the sentence goes to the screen as well."""
    from parhelion.report import Report
    from parhelion.run.folder import REPORT

    if not isinstance(comparison, Report):
        raise TypeError("the comparison is a section of the report")
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
