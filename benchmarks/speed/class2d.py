"""CPU time of 2D classification on the real β-galactosidase particles, RELION beside it.

    python benchmarks/speed/class2d.py [--data FOLDER] [--classes N] [--relion-iterations N] [--particles N]
        [--keep FOLDER]

All particles into 50 classes in 25 cycles, as ``parhelion class2d`` does it, without imports, compilation
and report. RELION (``relion_refine``, single process, as many classes) runs N of its 25 iterations on the
same particles; its time for 25 is the mean of one times 25. Without N only ours is measured. ``--particles``
takes the first of them for a slice in which both programs finish soon. ``--keep`` leaves RELION's files there
for ``quality/class2d.py``.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import common
from parhelion.algorithms.class2d.classify import classify
from parhelion.algorithms.class2d.settings import Class2dSettings
from parhelion.contracts import SilentObserver
from parhelion.io.source import StackSource
from parhelion.run.cancel import CancelFlag
from parhelion.run.executor import ThreadExecutor

CYCLES, WARM_CYCLES, DIAMETER_ANGSTROM = 25, 4, 180.0
RELION = (
    "relion_refine --i particles.star --o ./run --K {classes} --iter {iterations} --ctf --tau2_fudge 2 "
    "--particle_diameter 200 --flatten_solvent --zero_mask --norm --scale --oversampling 1 --psi_step 12 "
    "--offset_range 5 --offset_step 2 --dont_combine_weights_via_disc --pool 3 --j 1 --random_seed 1"
)


def ours(folder: Path, count: int | None, classes: int) -> float:
    """CPU seconds of a classification; the first run, of few cycles, compiles what is compiled."""
    particles, _ = common.particles_with_images(folder / "bgal_particles" / "particles.star")
    if count is not None:
        particles = particles.take(np.arange(min(count, len(particles))))
    seconds = 0.0
    for cycles in (WARM_CYCLES, CYCLES):
        cancel = CancelFlag()
        executor = ThreadExecutor(1, cancel)
        before = time.process_time()
        classify(
            particles,
            StackSource(particles),
            Class2dSettings(diameter_angstrom=DIAMETER_ANGSTROM, classes=classes, cycles=cycles),
            executor=executor,
            observer=SilentObserver(),
            cancel=cancel,
        )
        seconds = time.process_time() - before
        executor.close()
    return seconds


def relions(folder: Path, count: int | None, classes: int, iterations: int, work: Path) -> float:
    """CPU seconds of RELION's first ``iterations``, without what it does before them."""
    particles, source = common.particles_with_images(folder / "bgal_particles" / "particles.star")
    rows = np.arange(len(particles) if count is None else min(count, len(particles)))
    common.write_for_relion(work, particles, source, rows)
    spent = [
        common.timed_program(RELION.format(classes=classes, iterations=n).split(), work)
        for n in (0, iterations)
    ]
    return spent[1] - spent[0]


def main() -> None:
    """A table of CPU times."""
    parser = common.parser(__doc__)
    parser.add_argument("--relion-iterations", type=int, default=0, help="how many RELION runs")
    parser.add_argument("--classes", type=int, default=50, help="number of classes of both")
    parser.add_argument("--particles", type=int, help="the first so many")
    parser.add_argument("--keep", type=Path, help="folder for RELION's files")
    given = parser.parse_args()
    mine = ours(given.data, given.particles, given.classes)
    rows = [[f"parhelion, {CYCLES} cycles", f"{mine:.0f}", ""]]
    if given.relion_iterations:
        with tempfile.TemporaryDirectory() as temporary:
            work = given.keep or Path(temporary)
            spent = relions(given.data, given.particles, given.classes, given.relion_iterations, work)
        whole = spent / given.relion_iterations * CYCLES
        done = given.relion_iterations
        rows.append([f"RELION, {CYCLES} iterations, from {done}", f"{whole:.0f}", f"{whole / mine:.0f}"])
    common.show_table(["", "CPU s", "times ours"], rows)


if __name__ == "__main__":
    main()
