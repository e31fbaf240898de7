"""CTF refinement of simulated particles with known truth: parhelion, and RELION on the same images.

    python benchmarks/quality/refine_ctf.py [--data FOLDER] [--count 240] [--rounds 1] [--seed 1]
        [--no-relion]

Apoferritin, 160 pixels of 1.3 Å, 300 kV, 40 e⁻/Å² with an image B-factor of 60 Å², a beam tilt of 1 mrad and
a magnification that differs by 1 % between two directions. The start knows the poses, the defocus to ± 500 Å
(uniform), and nothing of tilt and magnification. The reference are half maps reconstructed from the same
particles with what is known, as blurred as the start is wrong; with ``--rounds 2`` they are reconstructed and
refined again. First of all is one refinement against the true map. "off by" is the length of the tilt's error
in percent of 1 mrad, "stated error" what our refinement says of it: the root of the summed variances of x and
y. It knows of the images' noise only, not of the half maps'.

In the first round both programs get the same table, half maps, mask and FSC. RELION refines in the order that
its authors advise: magnification, then defocus and beam tilt. CPU time is user plus system time; of ours the
refinement without imports, files and report.
"""

import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import common
from parhelion import api
from parhelion.algorithms.ctf_refine.refine import CtfRefineResult, refine_ctf
from parhelion.algorithms.ctf_refine.settings import CtfRefineSettings
from parhelion.algorithms.simulate.density import density_from_model
from parhelion.algorithms.simulate.particles import Microscope, simulate_particles
from parhelion.contracts import SilentObserver
from parhelion.geometry.symmetry import symmetry_group
from parhelion.io.mrc import read_volume, write_volume
from parhelion.io.mrc_writer import StackWriter
from parhelion.io.particles import read_particles, write_particles
from parhelion.model.particles import ParticleSet
from parhelion.model.table import Table
from parhelion.optics.astigmatism import defoci, quadratic_form, seen_through
from parhelion.run.cancel import CancelFlag
from parhelion.run.executor import ThreadExecutor

MODEL, SYMMETRY, BOX, PIXEL_ANGSTROM, RESOLUTION_ANGSTROM = "apoferritin_6z6u_O.pdb", "O", 160, 1.3, 2.7
TILT_MRAD = (0.8, -0.6)
MAGNIFICATION = (1.004, 0.003, 0.003, 0.996)
DEFOCUS_ERROR_ANGSTROM = 500.0
DOSE, BFACTOR_ANGSTROM2 = 40.0, 60.0
PER_MICROGRAPH = 25
HEAD = (
    *("", "defocus, RMS (Å)", "beam tilt (mrad)", "off by", "stated error"),
    *("anisotropy (%)", "M off by (%)", "CPU (s)"),
)  # fmt: skip


def simulated(folder: Path, data: Path, count: int, seed: int) -> tuple[ParticleSet, Path]:
    """The truth and the table of what is known at the start."""
    volume = density_from_model(
        data / "models" / MODEL, BOX, PIXEL_ANGSTROM, resolution_angstrom=RESOLUTION_ANGSTROM,
        symmetry=symmetry_group(SYMMETRY), observer=SilentObserver(),
    )  # fmt: skip
    write_volume(folder / "truth.mrc", volume)
    microscope = Microscope(
        defocus_range_um=(0.5, 1.2), ctf_bfactor_angstrom2=BFACTOR_ANGSTROM2, beam_tilt_xy_mrad=TILT_MRAD,
        magnification=MAGNIFICATION,
    )  # fmt: skip
    made = simulate_particles(
        volume, count, dose_per_angstrom2=DOSE, microscope=microscope, shift_angstrom=3.0, seed=seed
    )
    print(f"{count} particles, signal-to-noise ratio {made.snr:.3f} per pixel of the box")
    stack = folder / "particles.mrcs"
    with StackWriter(stack, count, (BOX, BOX), PIXEL_ANGSTROM) as writer:
        for index, images in made.chunks(64):
            writer.write(int(index[0]), images)
    rng = np.random.default_rng(seed + 1)
    names = np.array([f"mic{i // PER_MICROGRAPH:03d}.mrc" for i in range(count)], dtype=object)
    truth = replace(
        made.particles,
        views=replace(made.particles.views, image_path=(stack,)),
        half=(rng.permutation(count) % 2 + 1).astype(np.int8),
        extra=Table({"rlnMicrographName": names}),
    )
    views, error = truth.views, rng.uniform(-1, 1, count) * DEFOCUS_ERROR_ANGSTROM
    form = quadratic_form(views.defocus_u_angstrom, views.defocus_v_angstrom, views.defocus_angle_deg)
    u, v, angle = defoci(seen_through(form, MAGNIFICATION))
    known = replace(
        views,
        defocus_u_angstrom=u + error,
        defocus_v_angstrom=v + error,
        defocus_angle_deg=angle,
        ctf_bfactor_angstrom2=np.zeros(count),
    )
    plain = replace(truth.optics[0], beam_tilt_xy_mrad=(0.0, 0.0), magnification=(1.0, 0.0, 0.0, 1.0))
    write_particles(folder / "start.star", replace(truth, views=known, optics=(plain,)))
    return truth, folder / "start.star"


def half_maps(table: Path, output: Path) -> dict[str, Path]:
    """Half maps, mask and FSC of a table's particles."""
    made = api.function("reconstruct")(input=table, symmetry=SYMMETRY, output=output, threads=2, device="cpu")
    return dict(made.outputs)


def ours(table: Path, maps: Sequence[Path], mask: Path | None, output: Path) -> tuple[CtfRefineResult, float]:
    """Our refinement of everything at once, written to ``output``, and its CPU seconds."""
    particles, source = common.particles_with_images(table)
    volumes = tuple(read_volume(path) for path in maps)
    cancel = CancelFlag()
    executor = ThreadExecutor(2, cancel)
    before = time.process_time()
    try:
        found = refine_ctf(
            particles, source, volumes, CtfRefineSettings(magnification=True, trefoil=False),
            executor=executor, observer=SilentObserver(), cancel=cancel,
            mask=None if mask is None else read_volume(mask),
        )  # fmt: skip
    finally:
        executor.close()
    used = time.process_time() - before
    write_particles(output, found.particles)
    return found, used


def relion(folder: Path, table: Path, made: dict[str, Path], name: str) -> tuple[Path, float]:
    """RELION's refinement in two steps; its table and CPU seconds."""
    used = 0.0
    for step, words in (
        ("aniso", ["--fit_aniso"]),
        ("defocus", ["--fit_defocus", "--fit_mode", "fpfff", "--fit_beamtilt"]),
    ):
        output = folder / f"{name}_{step}"
        output.mkdir()
        used += common.timed_program(
            [
                "relion_ctf_refine", "--i", table.name, "--f", str(made["fsc"]), "--m1", str(made["half1"]),
                "--m2", str(made["half2"]), "--mask", str(made["mask"]), "--o", f"{output.name}/", "--j", "1",
                *words,
            ],
            folder,
        )  # fmt: skip
        shutil.copy(output / "particles_ctf_refine.star", folder / f"{name}_{step}.star")
        table = folder / f"{name}_{step}.star"
    return table, used


def stated_error_mrad(found: CtfRefineResult) -> float:
    """Root of the summed variances of both components of the beam tilt."""
    errors = found.errors.group[0]
    at = [i for i, column in enumerate(found.start.layout.group) if column.block == "beam_tilt"]
    return float(np.linalg.norm(errors[at]))


def row(
    name: str, found: ParticleSet, truth: ParticleSet, used: float | None, stated_mrad: float | None
) -> tuple[str, ...]:
    """How far a table is from the truth.

    Defoci are compared as the images show them, and the isotropic part of the magnification is left out:
    maps made from the same images have no scale of their own.
    """

    def seen(particles: ParticleSet) -> np.ndarray:
        views = particles.views
        form = quadratic_form(views.defocus_u_angstrom, views.defocus_v_angstrom, views.defocus_angle_deg)
        return seen_through(form, particles.optics[0].magnification)[:, 0]

    order = np.argsort(found.views.image_index)
    left = seen(found)[order] - seen(truth)
    tilt = np.array(found.optics[0].beam_tilt_xy_mrad)
    off = float(np.linalg.norm(tilt - TILT_MRAD) / np.linalg.norm(TILT_MRAD))
    matrix, true = (np.reshape(m, (2, 2)) for m in (found.optics[0].magnification, MAGNIFICATION))
    stretch = np.linalg.svd(matrix, compute_uv=False)
    shape, wanted = (_shape(m) for m in (matrix, true))
    return (
        name,
        f"{np.sqrt((left**2).mean()):.1f}",
        f"{tilt[0]:.3f}, {tilt[1]:.3f}",
        f"{100 * off:.1f} %",
        "" if stated_mrad is None else f"{100 * stated_mrad / np.linalg.norm(TILT_MRAD):.1f} %",
        f"{100 * (stretch[0] / stretch[1] - 1):.3f}",
        f"{100 * np.linalg.norm(shape - wanted, 2):.3f}",
        "" if used is None else f"{used:.1f}",
    )


def _shape(matrix: np.ndarray) -> np.ndarray:
    """The symmetric part without its mean: what is neither scale nor rotation."""
    even = (matrix + matrix.T) / 2
    return even - np.eye(2) * np.trace(even) / 2


def main() -> None:
    """Simulate, refine, compare."""
    parser = common.parser(__doc__ or "")
    parser.add_argument("--count", type=int, default=240)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1, help="of poses, noise and defocus errors")
    parser.add_argument("--no-relion", action="store_true")
    options = parser.parse_args()
    version = None if options.no_relion else common.relion_version()
    print(f"{common.hardware()}; RELION {version or 'is left out'}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        truth, start = simulated(folder, options.data, options.count, options.seed)
        rows: list[tuple[str, ...]] = []

        def add(
            name: str, found: ParticleSet, used: float | None = None, stated_mrad: float | None = None
        ) -> None:
            rows.append(row(name, found, truth, used, stated_mrad))
            print(*rows[-1], sep="  ", file=sys.stderr, flush=True)

        add("start", read_particles(start))
        found, used = ours(start, (folder / "truth.mrc",), None, folder / "against_truth.star")
        name = f"parhelion, true map, to {found.resolution_used_angstrom:.2f} Å"
        add(name, found.particles, used, stated_error_mrad(found))
        made = half_maps(start, folder / "maps_1")
        table, again = start, made
        for number in range(1, options.rounds + 1):
            if number > 1:
                again = half_maps(table, folder / f"maps_{number}")
            output = folder / f"refined_{number}.star"
            found, used = ours(table, (again["half1"], again["half2"]), again["mask"], output)
            table = output
            name = f"parhelion, round {number}, to {found.resolution_used_angstrom:.2f} Å"
            add(name, found.particles, used, stated_error_mrad(found))
        table, again = start, made
        for number in range(1, options.rounds + 1 if version else 1):
            if number > 1:
                again = half_maps(table, folder / f"relion_maps_{number}")
            table, used = relion(folder, table, again, f"relion_{number}")
            add(f"RELION {version}, round {number}", read_particles(table), used)
    common.show_table(HEAD, rows)


if __name__ == "__main__":
    main()
